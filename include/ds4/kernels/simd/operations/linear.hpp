// Linear layers: each lane multiplies its share of a weight's rows with all tokens.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/linear.hpp>
#include <ds4/kernels/simd/scratch.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// The products with weights. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class LinearOperations {
 public:
  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<float, N> y, RowsView<const float, K> x, const W& w) {
    multiply_rows(y.data(), N, x, w);
  }
  /// The same with the rows that are there of a weight: y[s * y_stride + row] for each.
  template <std::size_t K>
  void multiply_rows(float* y, std::size_t y_stride, RowsView<const float, K> x,
                     const ProductMatrix& w) {
    Scratch memory = lane().scratch();
    const Tokens tokens = lay_out(memory, w.stored.dtype, x.data(), K, x.extent(0), K);
    const auto rows = lane().part(w.stored.rows, w.panel_rows);
    if (rows.size() > 0) {
      auto& blocks = *memory.own<LinearScratch>(1);
      lane().kernels().linear(y + rows.begin, y_stride, {&w, rows.begin, rows.end}, tokens, blocks);
    }
    lane().wait_for_all();
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<float, G, N> y, RowsView<const float, G, K> x, const W& w) {
    multiply_groups<G, N, K>(y.data(), x.data(), x.extent(0), 0, w);
  }
  /// The same with the rows that are there of a weight, of which the first has number `first`.
  template <std::size_t G, std::size_t N, std::size_t K>
  void multiply_groups(float* y, const float* x, std::size_t S, std::size_t first,
                       const ProductMatrix& w) {
    Scratch memory = lane().scratch();
    auto& blocks = *memory.own<LinearScratch>(1);
    const auto rows = lane().part(w.stored.rows, w.panel_rows);
    const bool whole = w.stored.rows == G * N;
    Tokens all{};
    if (whole) all = lay_out(memory, w.stored.dtype, x, K, S * G, K);
    for (std::size_t g = first / N; g * N < first + w.stored.rows; ++g) {
      Tokens tokens{all.data + g * all.stride, G * all.stride, S, all.layout};
      if (!whole) tokens = lay_out(memory, w.stored.dtype, x + g * K, G * K, S, K);
      const std::size_t begin = std::max(first + rows.begin, g * N);
      const std::size_t end = std::min(first + rows.end, (g + 1) * N);
      if (begin >= end) continue;
      lane().kernels().linear(y + begin, G * N, {&w, begin - first, end - first}, tokens, blocks);
    }
    lane().wait_for_all();
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  Tokens lay_out(Scratch& memory, DType dtype, const float* x, std::size_t x_stride, std::size_t S,
                 std::size_t K) {
    const Layout layout = lane().kernels().layout_for(dtype, lane().exact());
    const std::size_t stride = lane().kernels().token_stride(layout, K);
    if (layout == Layout::f32 && stride == K * sizeof(float)) {  // laid out already
      return {reinterpret_cast<const std::byte*>(x), x_stride * sizeof(float), S, layout};
    }
    if (S * K <= kPrivateLayout || lane().lanes() == 1) {
      auto* tokens = memory.own<std::byte>(S * stride);
      lane().kernels().lay_out(layout, tokens, x, x_stride, S, K);
      return {tokens, stride, S, layout};
    }
    auto* tokens = memory.shared<std::byte>(S * stride);
    const auto mine = lane().part(S, 1);
    lane().kernels().lay_out(layout, tokens + mine.begin * stride, x + mine.begin * x_stride,
                             x_stride, mine.size(), K);
    lane().wait_for_all();
    return {tokens, stride, S, layout};
  }
};

}  // namespace ds4::inline v0_1::simd
