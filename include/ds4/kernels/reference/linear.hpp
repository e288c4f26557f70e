// Reference kernel: y = W x for stored matrices, dense and block-diagonal.
#pragma once

#include <cstddef>

#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1::reference {

/// y[s, o] = sum_i w[row0 + o, i] * x[s, i] for o < outs; rows of x and y are x_stride and y_stride
/// apart. Weights are decoded a panel of rows at a time, and each token is one matrix-vector
/// product: its result does not depend on how many tokens came with it.
template <class T>
void linear(T* y, std::size_t y_stride, const T* x, std::size_t x_stride, std::size_t S,
            const StoredMatrix& w, std::size_t row0, std::size_t outs);

/// Block-diagonal product: group g of G reads x[s, g, :] [w.cols] and rows g*outs .. of w, and
/// writes y[s, g, :] [outs]. Source: model.md 5.
template <class T>
void grouped_linear(T* y, const T* x, std::size_t S, const StoredMatrix& w, std::size_t G) {
  const std::size_t outs = w.rows / G;
  for (std::size_t g = 0; g < G; ++g) {
    linear(y + g * outs, G * outs, x + g * w.cols, G * w.cols, S, w, g * outs, outs);
  }
}

}  // namespace ds4::inline v0_1::reference

#ifndef DS4_COMPILED
#include <ds4/kernels/reference/linear_definitions.hpp>
#endif
