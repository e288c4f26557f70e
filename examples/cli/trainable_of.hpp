// AnyTrainable for one configuration and its kernels. Only generated sources include this.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <ds4/train/trainable_model.hpp>

#include "cli/any_trainable.hpp"

namespace ds4::cli {

/// The kernels of --backend NAME.
namespace training_kernels {
inline SimdTraining simd(std::size_t threads) { return SimdTraining({.threads = threads}); }
inline ReferenceTraining<float> reference(std::size_t) { return {}; }
}  // namespace training_kernels

/// A ds4::TrainableModel as an AnyTrainable.
template <ModelConfig C, class K>
class TrainableOf final : public AnyTrainable {
 public:
  explicit TrainableOf(TrainableModel<C, K> model) : model_(std::move(model)) {}

  TrainedWeights<float>& weights() override { return model_.weights(); }
  bool has_mtp() const override { return model_.has_mtp(); }
  void zero_gradients() override { model_.zero_gradients(); }
  PassLosses add_gradients(std::span<const TrainingSequence> sequences,
                           const PassOptions& options) override {
    return model_.add_gradients(sequences, options);
  }
  PassLosses losses(std::span<const TrainingSequence> sequences,
                    const PassOptions& options) override {
    return model_.losses(sequences, options);
  }

  double sum_of_squares(const float* x, std::size_t n) override {
    return model_.kernels().sum_of_squares(x, n);
  }
  void scale(float* y, double factor, std::size_t n) override {
    model_.kernels().scale(y, factor, n);
  }
  void adamw_step(std::span<float> weights, std::span<const float> gradient, std::span<float> mean,
                  std::span<float> mean_square, std::size_t step,
                  const AdamWOptions& options) override {
    model_.kernels().adamw_step(weights, gradient, mean, mean_square, step, options);
  }
  void muon_steps(std::span<const MuonTarget<float>> targets, const MuonOptions& options) override {
    model_.kernels().muon_steps(targets, options);
  }

 private:
  TrainableModel<C, K> model_;
};

/// Makes one.
template <ModelConfig C, class K>
std::unique_ptr<AnyTrainable> trainable_of(K kernels, const TrainableSource& source) {
  using Model = TrainableModel<C, K>;
  return std::make_unique<TrainableOf<C, K>>(
      source.dir.empty() ? Model(std::move(kernels)) : Model::load(source.dir, std::move(kernels)));
}

}  // namespace ds4::cli
