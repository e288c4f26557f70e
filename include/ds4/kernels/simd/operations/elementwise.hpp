// Norms, rotation, activations, sums and argmax: each lane takes its share of the rows.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/core/greatest.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1::simd {

/// The operations that take values one by one, or rows one by one. As in ds4::ops; Backend derives
/// from this and from Lane.
template <class Backend>
class ElementwiseOperations {
 public:
  template <std::size_t K>
  void rms_norm(RowsView<float, K> y, RowsView<const float, K> x, const Tensor<float, K>& weight,
                double eps) {
    lane().for_each(x.extent(0), [&](std::size_t s) {
      lane().kernels().rms_norm(y[s].data(), x[s].data(), weight.data(), K,
                                static_cast<float>(eps));
    });
  }

  template <std::size_t... E>
  void rms_norm(RowsView<float, E...> y, RowsView<const float, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    lane().for_each(x.size() / K, [&](std::size_t i) {
      lane().kernels().rms_norm(y.data() + i * K, x.data() + i * K, nullptr, K,
                                static_cast<float>(eps));
    });
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<float, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    lane().for_each(table.cos.extent(0), [&](std::size_t s) {
      for (std::size_t i = 0; i < Pairs; ++i) {
        const double angle = static_cast<double>(first + s * step) * inv_freq[i];
        table.cos(s, i) = static_cast<float>(std::cos(angle));
        table.sin(s, i) = static_cast<float>(std::sin(angle));
      }
    });
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<float, H, d> x, const RotaryTable<float, Pairs>& table, bool inverse) {
    lane().for_each(x.extent(0) * H, [&](std::size_t i) {
      const std::size_t s = i / H;
      lane().kernels().rotate_pairs(x.data() + i * d + (d - 2 * Pairs), table.cos[s].data(),
                                    table.sin[s].data(), Pairs, inverse);
    });
  }

  template <std::size_t F>
  void swiglu(RowsView<float, F> gate, RowsView<const float, F> up, double limit) {
    lane().for_each(gate.extent(0), [&](std::size_t s) {
      lane().kernels().swiglu(gate[s].data(), up[s].data(), F, static_cast<float>(limit));
    });
  }

  template <std::size_t D>
  void add(RowsView<float, D> y, RowsView<const float, D> x) {
    lane().for_each(y.extent(0), [&](std::size_t s) {
      lane().kernels().add_scaled(y[s].data(), x[s].data(), 1.0f, D);
    });
  }

  template <std::size_t V>
  void argmax(RowsView<std::int32_t, 1> ids, RowsView<const float, V> logits) {
    lane().for_each(logits.extent(0),
                    [&](std::size_t s) { ids(s, 0) = index_of_greatest(logits[s].flat()); });
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::simd
