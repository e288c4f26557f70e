// Training by the reference path: the routed experts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ds4/kernels/reference/training/elementwise.hpp>
#include <ds4/kernels/reference/training/linear.hpp>
#include <ds4/kernels/reference/training/rows.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference::training {

/// The experts; see ReferenceTraining.
template <class T>
class ExpertOperations {
 public:
  ///@{
  /// y [S, D] = sum_i weights[s, i] expert_{picks[s, i]}(x[s, :]); fills the record.
  static void routed_experts(T* y, const ExpertRecord<T>& record, const T* x,
                             const std::int32_t* picks, const T* weights,
                             std::span<const ExpertMatrices<const T>> experts,
                             const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    std::fill_n(y, S * D, T(0));
    std::size_t sorted = 0;
    for (std::size_t e = 0; e < E; ++e) {
      record.begin[e] = static_cast<std::int32_t>(sorted);
      for (std::size_t place = 0; place < S * k; ++place) {
        if (static_cast<std::size_t>(picks[place]) != e) continue;
        record.places[sorted++] = static_cast<std::int32_t>(place);
      }
    }
    record.begin[E] = static_cast<std::int32_t>(sorted);
    for_each_expert(record, E, [&](std::size_t e, std::size_t begin, std::size_t n) {
      const std::vector<T> in = gather(x, record.places + begin, n, k, D);
      T* gate = record.gate + begin * F;
      T* up = record.up + begin * F;
      std::vector<T> hidden(n * F);
      std::vector<T> out(n * D);
      Linear::linear(gate, F, in.data(), D, experts[e].w1, n, F, D);
      Linear::linear(up, F, in.data(), D, experts[e].w3, n, F, D);
      Elementwise::swiglu(hidden.data(), gate, up, n * F, limit);
      Linear::linear(out.data(), D, hidden.data(), F, experts[e].w2, n, D, F);
      for (std::size_t i = 0; i < n; ++i) {
        const auto place = static_cast<std::size_t>(record.places[begin + i]);
        for (std::size_t c = 0; c < D; ++c) y[place / k * D + c] += weights[place] * out[i * D + c];
      }
    });
  }
  static void routed_experts_backward(T* dx, T* dweights,
                                      std::span<const ExpertMatrices<T>> gradients, const T* dy,
                                      const ExpertRecord<const T>& record, const T* x,
                                      const T* weights,
                                      std::span<const ExpertMatrices<const T>> experts,
                                      const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    for_each_expert(record, E, [&](std::size_t e, std::size_t begin, std::size_t n) {
      const std::int32_t* places = record.places + begin;
      const std::vector<T> in = gather(x, places, n, k, D);
      const std::vector<T> dout = gather(dy, places, n, k, D);  // of a weight of 1
      const T* gate = record.gate + begin * F;
      const T* up = record.up + begin * F;
      std::vector<T> hidden(n * F);
      std::vector<T> dhidden(n * F);
      std::vector<T> dgate(n * F);
      std::vector<T> dup(n * F);
      std::vector<T> din(n * D);
      Elementwise::swiglu(hidden.data(), gate, up, n * F, limit);
      Linear::linear_backward(dhidden.data(), false, nullptr, dout.data(), D, hidden.data(), F,
                              experts[e].w2, n, D, F);
      for (std::size_t i = 0; i < n; ++i) {
        const auto place = static_cast<std::size_t>(places[i]);
        for (std::size_t f = i * F; f < (i + 1) * F; ++f) {
          dweights[place] += dhidden[f] * hidden[f];
          hidden[f] *= weights[place];
          dhidden[f] *= weights[place];
        }
      }
      Linear::linear_backward(nullptr, false, gradients[e].w2, dout.data(), D, hidden.data(), F,
                              experts[e].w2, n, D, F);
      Elementwise::swiglu_backward(dgate.data(), dup.data(), dhidden.data(), gate, up, n * F,
                                   limit);
      Linear::linear_backward(din.data(), true, gradients[e].w1, dgate.data(), F, in.data(), D,
                              experts[e].w1, n, F, D);
      Linear::linear_backward(din.data(), true, gradients[e].w3, dup.data(), F, in.data(), D,
                              experts[e].w3, n, F, D);
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t token = static_cast<std::size_t>(places[i]) / k;
        add(dx + token * D, din.data() + i * D, D);
      }
    });
  }
  ///@}

 private:
  using Linear = LinearOperations<T>;
  using Elementwise = ElementwiseOperations<T>;

  template <class Record, class F>
  static void for_each_expert(const Record& record, std::size_t E, F&& f) {
    for (std::size_t e = 0; e < E; ++e) {
      const auto begin = static_cast<std::size_t>(record.begin[e]);
      const auto end = static_cast<std::size_t>(record.begin[e + 1]);
      if (end > begin) f(e, begin, end - begin);
    }
  }

  // The rows [n, D] of x that the places are for.
  static std::vector<T> gather(const T* x, const std::int32_t* places, std::size_t n, std::size_t k,
                               std::size_t D) {
    std::vector<T> rows(n * D);
    for (std::size_t i = 0; i < n; ++i) {
      std::copy_n(x + static_cast<std::size_t>(places[i]) / k * D, D, rows.data() + i * D);
    }
    return rows;
  }
};

}  // namespace ds4::inline v0_1::reference::training
