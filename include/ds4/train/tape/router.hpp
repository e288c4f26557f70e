// The choice of experts, their load and its balance, on a tape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// The routers, for a Backend that derives from this and TapeRecorder; see ds4::ops.
template <class Backend, class T>
class RouterOperations {
 public:
  ///@{
  /// The operations.
  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                     RowsView<const T, E> logits, std::span<const std::int32_t> ids,
                     const Tensor<std::int32_t, V, k>& tid2eid, double scale) {
    const std::size_t S = ids.size();
    recorder().compute({.elementwise = S * (4 * E + 3 * k)}, [&](auto& kernels) {
      kernels.route_by_hash(experts.data(), weights.data(), logits.data(), ids.data(),
                            tid2eid.data(), S, E, k, scale);
    });
    record_weights(experts, weights, logits, scale);
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, const TrainedParameter<T, E>& bias,
                      double scale) {
    const std::size_t S = logits.extent(0);
    recorder().compute({.elementwise = S * (5 * E + 3 * k)}, [=](auto& kernels) {
      kernels.route_by_score(experts.data(), weights.data(), logits.data(), bias.value, S, E, k,
                             scale);
    });
    recorder().record([=, this, segments = recorder().segments()] {
      if (bias.gradient != nullptr) {
        recorder().compute({.elementwise = S * k}, [=](auto& kernels) {
          kernels.count_load(bias.gradient, experts.data(), S * k);
        });
      }
      if (recorder().loss_weights().balance == 0.0) return;
      for (const Segment& segment : segments) {
        add_balance_loss(experts.rows(segment.first, segment.count),
                         logits.rows(segment.first, segment.count));
      }
    });
    record_weights(experts, weights, logits, scale);
  }
  ///@}

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }

  // Of one sequence.
  template <std::size_t E, std::size_t k>
  void add_balance_loss(RowsView<std::int32_t, k> experts, RowsView<const T, E> logits) {
    const std::size_t S = logits.extent(0);
    T* const dlogits = recorder().sum_at(logits);
    recorder().compute({.elementwise = 12 * S * E}, [=, this](auto& kernels) {
      recorder().losses().balance += kernels.balance_loss(dlogits, experts.data(), logits.data(), S,
                                                          E, k, recorder().loss_weights().balance);
    });
  }

  template <std::size_t E, std::size_t k>
  void record_weights(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, double scale) {
    recorder().record_from(weights, [=, this](const T* dweights) {
      const std::size_t S = logits.extent(0);
      T* const dlogits = recorder().sum_at(logits);
      recorder().compute({.elementwise = 12 * S * k}, [=](auto& kernels) {
        kernels.expert_weights_backward(dlogits, dweights, experts.data(), logits.data(), S, E, k,
                                        scale);
      });
    });
  }
};

}  // namespace ds4::inline v0_1::tape
