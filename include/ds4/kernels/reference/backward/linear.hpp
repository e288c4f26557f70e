// Reference kernels: gradients of y = W x, dense and block-diagonal.
#pragma once

#include <cstddef>

#include <Eigen/Core>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::reference {

/// Of y[s, o] = sum_i w[o, i] * x[s, i]: dx += dy W and dw += dy^T x, where these are not null. w,
/// dw [outs, ins] in T; rows of x and dx, and of dy, are x_stride and y_stride apart.
/// Source: model.md 14.2.
template <class T>
void linear_backward(T* dx, T* dw, const T* dy, std::size_t y_stride, const T* x,
                     std::size_t x_stride, const T* w, std::size_t S, std::size_t outs,
                     std::size_t ins) {
  using Rows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Stride = Eigen::OuterStride<>;
  const auto index = [](std::size_t n) { return static_cast<Eigen::Index>(n); };
  const Eigen::Map<const Rows> weight(w, index(outs), index(ins));
  const Eigen::Map<const Rows, 0, Stride> in(x, index(S), index(ins), Stride(index(x_stride)));
  const Eigen::Map<const Rows, 0, Stride> out(dy, index(S), index(outs), Stride(index(y_stride)));
  if (dx != nullptr) {
    Eigen::Map<Rows, 0, Stride>(dx, index(S), index(ins), Stride(index(x_stride))).noalias() +=
        out * weight;
  }
  if (dw == nullptr) return;
  Eigen::Map<Rows>(dw, index(outs), index(ins)).noalias() += out.transpose() * in;
}

/// Of the block-diagonal product: group g of G reads x[s, g, :] [ins] and rows g * outs .. of w
/// [G * outs, ins], and gives y[s, g, :] [outs].
template <class T>
void grouped_linear_backward(T* dx, T* dw, const T* dy, const T* x, const T* w, std::size_t S,
                             std::size_t G, std::size_t outs, std::size_t ins) {
  for (std::size_t g = 0; g < G; ++g) {
    const std::size_t block = g * outs * ins;
    linear_backward(dx + g * ins, dw == nullptr ? nullptr : dw + block, dy + g * outs, G * outs,
                    x + g * ins, G * ins, w + block, S, outs, ins);
  }
}

}  // namespace ds4::inline v0_1::reference
