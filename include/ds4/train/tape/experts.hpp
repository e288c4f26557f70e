// The routed experts, on a tape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/cost.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape/elementwise.hpp>
#include <ds4/train/tape/recorder.hpp>

namespace ds4::inline v0_1::tape {

///@{
/// Of the routed experts and of their way back. However the tokens are routed: there are S * k
/// places.
constexpr OperationCost experts_cost(const ExpertShape& shape) {
  const std::size_t places = shape.S * shape.k;
  return {.elementwise = places * (kSwigluCost * shape.F + 2 * shape.D),
          .products = 6 * places * shape.F * shape.D,
          .component = Component::experts};
}
constexpr OperationCost experts_backward_cost(const ExpertShape& shape) {
  const std::size_t places = shape.S * shape.k;
  return {.elementwise = places * ((3 * kSwigluCost + 4) * shape.F + shape.D),
          .products = 12 * places * shape.F * shape.D,
          .component = Component::experts};
}
///@}

/// The experts, for a Backend that derives from this and TapeRecorder; see ds4::ops.
template <class Backend, class T>
class ExpertOperations {
 public:
  /// The operation.
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<T, D> y, RowsView<const T, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const T, k> weights,
                      const std::vector<Expert>& experts, double limit) {
    constexpr std::size_t F = Expert::F;
    const ExpertShape shape{x.extent(0), k, experts.size(), D, F};
    const std::size_t places = shape.S * k;
    Tape<T>& tape = recorder().tape();
    const ExpertRecord<T> kept{tape.allocate_indices(places), tape.allocate_indices(shape.E + 1),
                               tape.allocate(places * F), tape.allocate(places * F)};
    struct All {
      std::vector<ExpertMatrices<const T>> values;
      std::vector<ExpertMatrices<T>> gradients;
    };
    auto all = std::make_shared<All>();
    for (const Expert& e : experts) {
      all->values.push_back({e.w1.value, e.w2.value, e.w3.value});
      all->gradients.push_back({e.w1.gradient, e.w2.gradient, e.w3.gradient});
    }
    recorder().compute(experts_cost(shape), [&](auto& kernels) {
      kernels.routed_experts(y.data(), kept, x.data(), picks.data(), weights.data(), all->values,
                             shape, limit);
    });
    recorder().record_from(y, [=, this](const T* dy) {
      const ExpertRecord<const T> made{kept.places, kept.begin, kept.gate, kept.up};
      T* const dweights = recorder().sum_at(weights);
      T* const dx = recorder().sum_at(x);
      recorder().compute(experts_backward_cost(shape), [&](auto& kernels) {
        kernels.routed_experts_backward(dx, dweights, all->gradients, dy, made, x.data(),
                                        weights.data(), all->values, shape, limit);
      });
    });
  }

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::tape
