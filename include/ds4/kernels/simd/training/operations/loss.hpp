// Training: the losses of predictions and of drafts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Losses; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class LossOperations {
 public:
  ///@{
  /// The operations.
  double cross_entropy(float* dlogits, const float* logits, const std::int32_t* targets,
                       std::size_t S, std::size_t V, double weight) {
    Workers::Scratch scratch = tasks().scratch();
    double* const losses = scratch.array<double>(S);
    tasks().by_rows(
        S, Tasks::kExpCost * V, 0,
        [&](std::size_t begin, std::size_t end, float*) {
          kernels().cross_entropy(dlogits, losses, logits, targets, V, static_cast<float>(weight),
                                  begin, end);
        },
        1);
    return std::accumulate(losses, losses + S, 0.0);
  }
  void draft_loss(float* dlogits, float* dconfidence, DraftRowLoss* losses,
                  const DraftRows<float>& rows, std::size_t S, std::size_t V,
                  const DraftLossWeights& weights) {
    tasks().by_rows(
        S, 2 * Tasks::kExpCost * V, V,
        [&](std::size_t begin, std::size_t end, float* memory) {
          kernels().draft_loss(dlogits, dconfidence, losses, rows, V, weights, begin, end, memory);
        },
        1);
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
