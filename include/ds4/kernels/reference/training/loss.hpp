// Training by the reference path: the loss of predictions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/reference/backward/loss.hpp>

namespace ds4::inline v0_1::reference::training {

/// Cross-entropy; see ReferenceTraining.
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
};

}  // namespace ds4::inline v0_1::reference::training
