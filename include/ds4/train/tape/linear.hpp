// Products with weights, on a tape.
#pragma once

#include <cstddef>

#include <ds4/core/tensor.hpp>
#include <ds4/train/tape/recorder.hpp>

namespace ds4::inline v0_1::tape {

/// Linear maps, for a Backend that derives from this and TapeRecorder; see ds4::ops.
template <class Backend, class T>
class LinearOperations {
 public:
  ///@{
  /// y = x w^T and its way back, on plain memory; see ReferenceTraining::linear.
  void product(T* y, std::size_t y_stride, const T* x, std::size_t x_stride, const T* w,
               std::size_t S, std::size_t outs, std::size_t ins) {
    recorder().compute({.products = 2 * S * outs * ins, .weight = w}, [=](auto& kernels) {
      kernels.linear(y, y_stride, x, x_stride, w, S, outs, ins);
    });
  }
  void product_backward(T* dx, bool add, T* dw, const T* dy, std::size_t y_stride, const T* x,
                        std::size_t x_stride, const T* w, std::size_t S, std::size_t outs,
                        std::size_t ins) {
    const std::size_t wanted = (dx != nullptr ? 1u : 0u) + (dw != nullptr ? 1u : 0u);
    recorder().compute({.products = wanted * 2 * S * outs * ins, .weight = w}, [=](auto& kernels) {
      kernels.linear_backward(dx, add, dw, dy, y_stride, x, x_stride, w, S, outs, ins);
    });
  }
  ///@}

  ///@{
  /// The operations.
  template <std::size_t N, std::size_t In, class W>
  void linear(RowsView<T, N> y, RowsView<const T, In> x, const W& w) {
    const std::size_t S = x.extent(0);
    product(y.data(), N, x.data(), In, w.value, S, N, In);
    recorder().record_from(y, [=, this](const T* dy) {
      const auto [dx, set] = recorder().target(x);
      product_backward(dx, !set, w.gradient, dy, N, x.data(), In, w.value, S, N, In);
    });
  }

  template <std::size_t G, std::size_t N, std::size_t In, class W>
  void grouped_linear(RowsView<T, G, N> y, RowsView<const T, G, In> x, const W& w) {
    const std::size_t S = x.extent(0);
    for (std::size_t g = 0; g < G; ++g) {
      product(y.data() + g * N, G * N, x.data() + g * In, G * In, w.value + g * N * In, S, N, In);
    }
    recorder().record_from(y, [=, this](const T* dy) {
      const auto [dx, set] = recorder().target(x);
      for (std::size_t g = 0; g < G; ++g) {
        const std::size_t block = g * N * In;
        product_backward(dx == nullptr ? nullptr : dx + g * In, !set,
                         w.gradient == nullptr ? nullptr : w.gradient + block, dy + g * N, G * N,
                         x.data() + g * In, G * In, w.value + block, S, N, In);
      }
    });
  }
  ///@}

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::tape
