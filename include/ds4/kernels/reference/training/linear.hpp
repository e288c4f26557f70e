// Training by the reference path: products with weights.
#pragma once

#include <cstddef>
#include <type_traits>

#include <Eigen/Core>

#include <ds4/kernels/reference/backward/linear.hpp>

namespace ds4::inline v0_1::reference::training {

/// Linear maps; see ReferenceTraining.
template <class T>
class LinearOperations {
 public:
  ///@{
  /// y[s, o] = sum_i w[o, i] x[s, i]; rows of x are x_stride apart, those of y y_stride.
  static void linear(T* y, std::size_t y_stride, const T* x, std::size_t x_stride, const T* w,
                     std::size_t S, std::size_t outs, std::size_t ins) {
    map(y, S, outs, y_stride).noalias() = map(x, S, ins, x_stride) * map(w, outs, ins).transpose();
  }
  /// dx (null: not wanted) is set unless `add`; dw may be null as well.
  static void linear_backward(T* dx, bool add, T* dw, const T* dy, std::size_t y_stride, const T* x,
                              std::size_t x_stride, const T* w, std::size_t S, std::size_t outs,
                              std::size_t ins) {
    if (dx != nullptr && !add) map(dx, S, ins, x_stride).setZero();
    reference::linear_backward(dx, dw, dy, y_stride, x, x_stride, w, S, outs, ins);
  }
  ///@}

 private:
  template <class U>
  using Matrix =
      Eigen::Matrix<std::remove_const_t<U>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  // [rows, cols], rows `stride` apart; 0: dense.
  template <class U>
  static auto map(U* data, std::size_t rows, std::size_t cols, std::size_t stride = 0) {
    using Plain = std::conditional_t<std::is_const_v<U>, const Matrix<U>, Matrix<U>>;
    return Eigen::Map<Plain, 0, Eigen::OuterStride<>>(
        data, static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(cols),
        Eigen::OuterStride<>(static_cast<Eigen::Index>(stride == 0 ? cols : stride)));
  }
};

}  // namespace ds4::inline v0_1::reference::training
