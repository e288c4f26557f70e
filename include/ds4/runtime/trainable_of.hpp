// AnyTrainable for one configuration and its kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <ds4/runtime/any_trainable.hpp>
#include <ds4/train/trainable_drafter.hpp>
#include <ds4/train/trainable_model.hpp>

namespace ds4::inline v0_1 {

/// A ds4::TrainableModel or ds4::TrainableDrafter as an AnyTrainable.
template <class Model>
class TrainableOf final : public AnyTrainable {
 public:
  /// Takes it over.
  TrainableOf(Model model, bool is_loaded) : model_(std::move(model)), is_loaded_(is_loaded) {}

  TrainedWeights<float>& weights() override { return model_.weights(); }
  const TrainedWeights<float>* frozen() const override {
    if constexpr (requires { model_.model_weights(); }) {
      return &model_.model_weights();
    } else {
      return nullptr;
    }
  }
  bool is_loaded() const override { return is_loaded_; }
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
  Model model_;
  bool is_loaded_;
};

/// Makes one; null for a drafter that the configuration does not have.
template <ModelConfig C, class K>
std::unique_ptr<AnyTrainable> trainable_of(K kernels, const TrainableSource& source) {
  if (source.drafter_stages > 0) {
    if constexpr (C::dspark_stages > 0) {
      using Drafter = TrainableDrafter<C, K>;
      Drafter drafter = Drafter::load(source.dir, std::move(kernels), source.drafter_stages);
      const bool is_loaded = drafter.is_loaded();
      return std::make_unique<TrainableOf<Drafter>>(std::move(drafter), is_loaded);
    } else {
      return nullptr;
    }
  }
  using Model = TrainableModel<C, K>;
  const bool is_loaded = !source.dir.empty();
  return std::make_unique<TrainableOf<Model>>(
      is_loaded ? Model::load(source.dir, std::move(kernels)) : Model(std::move(kernels)),
      is_loaded);
}

///@{
/// The same with the kernels of a backend, for lists of compiled models.
template <ModelConfig C>
std::unique_ptr<AnyTrainable> trainable_on_simd(const TrainableSource& source) {
  return trainable_of<C>(SimdTraining({.threads = source.threads}), source);
}
template <ModelConfig C>
std::unique_ptr<AnyTrainable> trainable_on_reference(const TrainableSource& source) {
  return trainable_of<C>(ReferenceTraining<float>{}, source);
}
///@}

}  // namespace ds4::inline v0_1
