// What linear.hpp declares.
#pragma once

#include <algorithm>
#include <cstddef>

#include <Eigen/Core>

#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/reference/linear.hpp>

namespace ds4::inline v0_1::reference {

template <class T>
void linear(T* y, std::size_t y_stride, const T* x, std::size_t x_stride, std::size_t S,
            const StoredMatrix& w, std::size_t row0, std::size_t outs) {
  using Panel = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
  constexpr std::size_t kPanelRows = 64;
  const auto index = [](std::size_t n) { return static_cast<Eigen::Index>(n); };

  Panel panel(index(std::min(kPanelRows, outs)), index(w.cols));
  for (std::size_t o = 0; o < outs; o += kPanelRows) {
    const std::size_t rows = std::min(kPanelRows, outs - o);
    for (std::size_t i = 0; i < rows; ++i) w.decode_row(row0 + o + i, panel.row(index(i)).data());
    for (std::size_t s = 0; s < S; ++s) {
      Eigen::Map<const Vector> in(x + s * x_stride, index(w.cols));
      Eigen::Map<Vector>(y + s * y_stride + o, index(rows)).noalias() =
          panel.topRows(index(rows)) * in;
    }
  }
}

#ifdef DS4_COMPILED
template void linear(float*, std::size_t, const float*, std::size_t, std::size_t,
                     const StoredMatrix&, std::size_t, std::size_t);
template void linear(double*, std::size_t, const double*, std::size_t, std::size_t,
                     const StoredMatrix&, std::size_t, std::size_t);
#endif

}  // namespace ds4::inline v0_1::reference
