// A model in training whose configuration and kernels are known at run time only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <ds4/train/trainable_model.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

/// A ds4::TrainableModel, or a ds4::TrainableDrafter, whose configuration and kernels are known at
/// run time only, with what ds4::Trainer asks of its kernels.
class AnyTrainable {
 public:
  /// Of weights and gradients.
  using Scalar = float;

  virtual ~AnyTrainable() = default;

  /// Weights and hash tables with their gradients.
  virtual TrainedWeights<float>& weights() = 0;
  /// Those of the model that a drafter is trained for; null for a model.
  virtual const TrainedWeights<float>* frozen() const = 0;
  /// Whether the weights are those of a checkpoint.
  virtual bool is_loaded() const = 0;
  /// Whether it has the multi-token-prediction layer.
  virtual bool has_mtp() const = 0;
  ///@{
  /// As the functions of ds4::TrainableModel.
  virtual void zero_gradients() = 0;
  virtual PassLosses add_gradients(std::span<const TrainingSequence> sequences,
                                   const PassOptions& options) = 0;
  virtual PassLosses losses(std::span<const TrainingSequence> sequences,
                            const PassOptions& options) = 0;
  ///@}

  ///@{
  /// What the optimizers ask of kernels.
  AnyTrainable& kernels() { return *this; }
  virtual double sum_of_squares(const float* x, std::size_t n) = 0;
  virtual void scale(float* y, double factor, std::size_t n) = 0;
  virtual void adamw_step(std::span<float> weights, std::span<const float> gradient,
                          std::span<float> mean, std::span<float> mean_square, std::size_t step,
                          const AdamWOptions& options) = 0;
  virtual void muon_steps(std::span<const MuonTarget<float>> targets,
                          const MuonOptions& options) = 0;
  ///@}
};

/// What a model in training is made from.
struct TrainableSource {
  std::filesystem::path dir;  ///< a checkpoint; empty: all weights zero
  std::size_t threads = 1;    ///< that compute
  /// Stages of DSpark, to train it for the checkpoint's model, which stays as it is; 0: the model.
  std::size_t drafter_stages = 0;
};

}  // namespace ds4::inline v0_1
