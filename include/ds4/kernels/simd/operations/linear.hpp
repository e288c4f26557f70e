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
    Scratch memory = lane().scratch();
    const Tokens tokens = lay_out(memory, w.stored.dtype, x.data(), x.extent(0), K);
    const auto rows = lane().part(N, w.panel_rows);
    if (rows.size() > 0) {
      auto& blocks = *memory.own<LinearScratch>(1);
      lane().kernels().linear(y.data() + rows.begin, N, {&w, rows.begin, rows.end}, tokens, blocks);
    }
    lane().wait_for_all();
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<float, G, N> y, RowsView<const float, G, K> x, const W& w) {
    Scratch memory = lane().scratch();
    const std::size_t S = x.extent(0);
    const Tokens all = lay_out(memory, w.stored.dtype, x.data(), S * G, K);
    auto& blocks = *memory.own<LinearScratch>(1);
    const auto rows = lane().part(G * N, w.panel_rows);
    for (std::size_t g = rows.begin / N; g * N < rows.end; ++g) {
      const RowRange range{&w, std::max(rows.begin, g * N), std::min(rows.end, (g + 1) * N)};
      const Tokens tokens{all.data + g * all.stride, G * all.stride, S, all.layout};
      lane().kernels().linear(y.data() + range.begin, G * N, range, tokens, blocks);
    }
    lane().wait_for_all();
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  Tokens lay_out(Scratch& memory, DType dtype, const float* x, std::size_t S, std::size_t K) {
    const Layout layout = lane().kernels().layout_for(dtype, lane().exact());
    const std::size_t stride = lane().kernels().token_stride(layout, K);
    if (layout == Layout::f32 && stride == K * sizeof(float)) {  // laid out already
      return {reinterpret_cast<const std::byte*>(x), stride, S, layout};
    }
    if (S * K <= kPrivateLayout || lane().lanes() == 1) {
      auto* tokens = memory.own<std::byte>(S * stride);
      lane().kernels().lay_out(layout, tokens, x, K, S, K);
      return {tokens, stride, S, layout};
    }
    auto* tokens = memory.shared<std::byte>(S * stride);
    const auto mine = lane().part(S, 1);
    lane().kernels().lay_out(layout, tokens + mine.begin * stride, x + mine.begin * K, K,
                             mine.size(), K);
    lane().wait_for_all();
    return {tokens, stride, S, layout};
  }
};

}  // namespace ds4::inline v0_1::simd
