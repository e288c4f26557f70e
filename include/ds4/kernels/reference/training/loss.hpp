// Training by the reference path: the losses of predictions and of drafts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/reference/backward/loss.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference::training {

/// Losses; see ReferenceTraining.
template <class T>
class LossOperations {
 public:
  /// The sum of -log softmax(logits[s])[targets[s]] over the rows with a target >= 0; dlogits
  /// [S, V] = weight * its gradient, which may be written over the logits.
  static double cross_entropy(T* dlogits, const T* logits, const std::int32_t* targets,
                              std::size_t S, std::size_t V, double weight) {
    double loss = 0.0;
    for (std::size_t s = 0; s < S; ++s, logits += V, dlogits += V) {
      if (targets[s] >= 0) {
        loss += reference::cross_entropy(dlogits, logits, targets[s], V, T(weight));
      } else {
        std::fill_n(dlogits, V, T(0));
      }
    }
    return loss;
  }

  /// losses [S], what each row of drafts loses; dlogits [S, V] and dconfidence [S] = the gradients
  /// of the weighted sum of these, the former maybe over the rows' logits.
  static void draft_loss(T* dlogits, T* dconfidence, DraftRowLoss* losses, const DraftRows<T>& rows,
                         std::size_t S, std::size_t V, const DraftLossWeights& weights) {
    for (std::size_t s = 0; s < S; ++s) {
      losses[s] = reference::draft_loss(dlogits + s * V, dconfidence[s], rows, s, V, weights);
    }
  }
};

}  // namespace ds4::inline v0_1::reference::training
