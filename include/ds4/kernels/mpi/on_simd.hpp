// A rank's own part on the SIMD backend: its lanes share it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/mpi/own_part.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/simd.hpp>

namespace ds4::inline v0_1::mpi {

/// The operations of the SIMD backend on some of the rows; each is complete for all lanes when it
/// returns.
template <>
struct OwnPart<Simd> {
  ///@{
  /// See OwnPart and ds4::ops.
  using Inner = Simd;
  static constexpr bool kDividesHeads = true;
  static constexpr bool kDividesPicks = true;

  template <std::size_t K, class W>
  static void linear(Simd& simd, float* y, std::size_t stride, RowsView<const float, K> x,
                     const W& w) {
    simd.multiply_rows(y, stride, x, w);
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  static void grouped_linear(Simd& simd, float* y, const float* x, std::size_t S, std::size_t first,
                             const W& w) {
    simd.multiply_groups<G, N, K>(y, x, S, first, w);
  }

  static void rms_norm(Simd& simd, float* y, const float* x, std::size_t S, std::size_t stride,
                       std::size_t rows, std::size_t K, double eps) {
    simd.for_each(S * rows, [&](std::size_t i) {
      const std::size_t at = i / rows * stride + i % rows * K;
      simd.kernels().rms_norm(y + at, x + at, nullptr, K, static_cast<float>(eps));
    });
  }

  template <std::size_t Pairs>
  static void rotate(Simd& simd, float* x, std::size_t S, std::size_t stride, std::size_t heads,
                     std::size_t d, const RotaryTable<float, Pairs>& table, bool inverse) {
    simd.for_each(S * heads, [&](std::size_t i) {
      const std::size_t s = i / heads;
      simd.kernels().rotate_pairs(x + s * stride + i % heads * d + (d - 2 * Pairs),
                                  table.cos[s].data(), table.sin[s].data(), Pairs, inverse);
    });
  }

  static void swiglu(Simd& simd, float* gate, const float* up, std::size_t S, std::size_t stride,
                     std::size_t count, double limit) {
    simd.for_each(S, [&](std::size_t s) {
      simd.kernels().swiglu(gate + s * stride, up + s * stride, count, static_cast<float>(limit));
    });
  }

  static void add(Simd& simd, float* y, const float* x, std::size_t S, std::size_t stride,
                  std::size_t count) {
    simd.for_each(S, [&](std::size_t s) {
      simd.kernels().add_scaled(y + s * stride, x + s * stride, 1.0f, count);
    });
  }

  template <std::size_t D, std::size_t k, class Expert, class Complete>
  static void routed_experts(Simd& simd, float* y, RowsView<const float, D> x,
                             RowsView<const std::int32_t, k> picks,
                             RowsView<const float, k> weights, const std::vector<Expert>& experts,
                             double limit, std::size_t first_hidden, Complete&& complete) {
    simd.routed_rows(y, x, picks, weights, experts, limit, first_hidden,
                     std::forward<Complete>(complete));
  }
  ///@}
};

}  // namespace ds4::inline v0_1::mpi
