// Norms. The equations are those of kernels/reference/norm.hpp.
#pragma once

#include <array>
#include <cstddef>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// y = weight * x / sqrt(mean(x^2) + eps) over rows of n values; a null weight is 1. y may be x.
template <class Space>
struct RmsNorm {
  float* y;
  const float* x;
  const float* weight;
  int n;
  float eps;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t first =
        static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(n);
    const float* from = x + first;
    float* to = y + first;
    const float sum = sum_of<Space>(team, n, [&](int c) { return from[c] * from[c]; });
    const float scale = 1.0f / Kokkos::sqrt(sum / static_cast<float>(n) + eps);
    if (weight == nullptr) {
      for_each(team, n, [&](int c) { to[c] = from[c] * scale; });
    } else {
      for_each(team, n, [&](int c) { to[c] = from[c] * scale * weight[c]; });
    }
  }
};

/// Norms of rows, as in ds4::ops.
template <class Space>
class NormOperations {
 public:
  template <std::size_t K>
  void rms_norm(RowsView<Element, K> y, RowsView<const Element, K> x,
                const Constants<Space, float, K>& weight, double eps) {
    norm(raw(y), raw(x), raw(weight.data()), x.extent(0), K, eps);
  }
  template <std::size_t... E>
  void rms_norm(RowsView<Element, E...> y, RowsView<const Element, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    norm(raw(y), raw(x), nullptr, x.size() / K, K, eps);
  }

 private:
  void norm(float* y, const float* x, const float* weight, std::size_t rows, std::size_t n,
            double eps) {
    backend_of(this).launch(
        "ds4::rms_norm", moves(2 * rows * n, 4 * rows * n), rows, kTeam, 0,
        RmsNorm<Space>{y, x, weight, static_cast<int>(n), static_cast<float>(eps)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
