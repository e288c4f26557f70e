// The losses of predictions and of drafts, on a tape.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape/recorder.hpp>

namespace ds4::inline v0_1::tape {

/// Losses, for a Backend that derives from this, LinearOperations and TapeRecorder.
template <class Backend, class T>
class LossOperations {
 public:
  /// The sum of the cross-entropy of the targets [S], -1 for none, of the logits y w^T. Recording,
  /// makes the gradients of weight * that at once, so that the logits of few rows are in memory at
  /// a time. y [S, D]; w [V, D].
  template <std::size_t D, class W>
  double cross_entropy(RowsView<const T, D> y, const W& w, std::span<const std::int32_t> targets,
                       double weight) {
    constexpr std::size_t V = W::kRows;
    constexpr std::size_t kRows = std::max<std::size_t>(64, (std::size_t{1} << 20) / V);
    double loss = 0.0;
    const std::size_t mark = recorder().tape().mark();
    const std::size_t S = y.extent(0);
    T* const dy = recorder().recording() ? recorder().target(y).at : nullptr;
    T* const logits = recorder().tape().allocate(std::min(S, kRows) * V, false);
    for (std::size_t s = 0; s < S; s += kRows) {
      const std::size_t rows = std::min(kRows, S - s);
      const T* const in = y.data() + s * D;
      recorder().product(logits, V, in, D, w.value, rows, V, D);
      recorder().compute({.elementwise = 5 * rows * V}, [&](auto& kernels) {
        loss += kernels.cross_entropy(logits, logits, targets.data() + s, rows, V, weight);
      });
      if (dy == nullptr) continue;
      recorder().product_backward(dy + s * D, false, w.gradient, logits, V, in, D, w.value, rows, V,
                                  D);
    }
    recorder().tape().release(mark);
    return loss;
  }

  /// What each row of drafts loses, [S]; see ReferenceTraining::draft_loss. The logits [S, V] are
  /// overwritten where nothing is recorded, and have their gradient at once where it is.
  template <std::size_t V>
  std::vector<DraftRowLoss> draft_loss(RowsView<T, V> logits, RowsView<T, 1> confidence,
                                       RowsView<const T, V> model_logits,
                                       std::span<const std::int32_t> targets,
                                       std::span<const T> row_weights,
                                       const DraftLossWeights& weights) {
    const std::size_t S = targets.size();
    std::vector<DraftRowLoss> losses(S);
    const bool recording = recorder().recording();
    const DraftRows<T> rows{logits.data(), confidence.data(), model_logits.data(), targets.data(),
                            row_weights.data()};
    T* const dlogits = recording ? recorder().target(logits.as_const()).at : logits.data();
    T* const dconfidence =
        recording ? recorder().target(confidence.as_const()).at : confidence.data();
    recorder().compute({.elementwise = 16 * S * V}, [&](auto& kernels) {
      kernels.draft_loss(dlogits, dconfidence, losses.data(), rows, S, V, weights);
    });
    return losses;
  }

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::tape
