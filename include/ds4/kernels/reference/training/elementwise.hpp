// Training by the reference path: norms, rotations, activations, sums and rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/reference/backward/norm.hpp>
#include <ds4/kernels/reference/backward/swiglu.hpp>
#include <ds4/kernels/reference/norm.hpp>
#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/reference/swiglu.hpp>
#include <ds4/kernels/reference/training/rows.hpp>

namespace ds4::inline v0_1::reference::training {

/// What works on values or rows alone; see ReferenceTraining.
template <class T>
class ElementwiseOperations {
 public:
  ///@{
  /// y = weight * x / sqrt(mean(x^2) + eps) for `rows` rows of n; weight and dweight may be null.
  static void rms_norm(T* y, const T* x, const T* weight, std::size_t rows, std::size_t n,
                       double eps) {
    reference::rms_norm(y, x, weight, rows, n, T(eps));
  }
  static void rms_norm_backward(T* dx, T* dweight, const T* dy, const T* x, const T* weight,
                                std::size_t rows, std::size_t n, double eps) {
    reference::rms_norm_backward(dx, dweight, dy, x, weight, rows, n, T(eps));
  }
  ///@}

  ///@{
  /// y = silu(min(gate, limit)) * clamp(up, -limit, limit) for n values.
  static void swiglu(T* y, const T* gate, const T* up, std::size_t n, double limit) {
    std::copy_n(gate, n, y);
    reference::swiglu(y, up, n, T(limit));
  }
  static void swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up,
                              std::size_t n, double limit) {
    reference::swiglu_backward(dgate, dup, dy, gate, up, n, T(limit));
  }
  ///@}

  ///@{
  /// The rotation of the last 2 * pairs values of each head, in place; its own gradient is the
  /// rotation in the other direction.
  static void rotary_table(T* cos, T* sin, std::size_t first, std::size_t step, std::size_t S,
                           const double* inv_freq, std::size_t pairs) {
    reference::rotary_table(cos, sin, first, step, S, inv_freq, pairs);
  }
  static void rotate(T* x, const T* cos, const T* sin, std::size_t S, std::size_t heads,
                     std::size_t d, std::size_t pairs, bool inverse) {
    reference::rotate(x, cos, sin, S, heads, d, pairs, inverse);
  }
  ///@}

  ///@{
  /// x[s, n, :] = table[ids[s], :].
  static void embed(T* x, const std::int32_t* ids, const T* table, std::size_t S, std::size_t N,
                    std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n)
        std::copy_n(row(table, ids[s], D), D, x + (s * N + n) * D);
    }
  }
  static void embed_backward(T* dtable, const T* dx, const std::int32_t* ids, std::size_t S,
                             std::size_t N, std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(row(dtable, ids[s], D), dx + (s * N + n) * D, D);
    }
  }
  ///@}

  ///@{
  /// y[i, :] = x[rows[i], :] for `count` rows.
  static void take_rows(T* y, const T* x, const std::int32_t* rows, std::size_t count,
                        std::size_t width) {
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(row(x, rows[i], width), width, y + i * width);
  }
  static void take_rows_backward(T* dx, const T* dy, const std::int32_t* rows, std::size_t count,
                                 std::size_t width) {
    for (std::size_t i = 0; i < count; ++i) add(row(dx, rows[i], width), dy + i * width, width);
  }
  ///@}

  ///@{
  /// For n values: y += x; y = x; y = 0; y *= factor.
  static void add(T* y, const T* x, std::size_t n) { training::add(y, x, n); }
  static void copy(T* y, const T* x, std::size_t n) { std::copy_n(x, n, y); }
  static void zero(T* y, std::size_t n) { std::fill_n(y, n, T(0)); }
  static void scale(T* y, double factor, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] *= T(factor);
  }
  ///@}

  /// The sum of squares of n values, added up in double.
  static double sum_of_squares(const T* x, std::size_t n) {
    double sum = 0.0;
    for (std::size_t i = 0; i < n; ++i)
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
  }
};

}  // namespace ds4::inline v0_1::reference::training
