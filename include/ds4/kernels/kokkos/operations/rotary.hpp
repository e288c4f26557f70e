// Rotary position embeddings. The equations are those of kernels/reference/rotary.hpp.
#pragma once

#include <array>
#include <cstddef>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1::kokkos {

/// cos and sin [rows, Pairs] of (first + row * step) * inv_freq, the angles in float64.
template <class Space, std::size_t Pairs>
struct FillRotaryTable {
  float* cos;
  float* sin;
  Kokkos::Array<double, Pairs> inv_freq;
  std::size_t first;
  std::size_t step;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t row = static_cast<std::size_t>(team.league_rank());
    const double position = static_cast<double>(first + row * step);
    for_each(team, static_cast<int>(Pairs), [&](int i) {
      const double angle = position * inv_freq[static_cast<std::size_t>(i)];
      cos[row * Pairs + static_cast<std::size_t>(i)] = static_cast<float>(Kokkos::cos(angle));
      sin[row * Pairs + static_cast<std::size_t>(i)] = static_cast<float>(Kokkos::sin(angle));
    });
  }
};

/// Rotates the last 2 * pairs of the d values of every head, in place; a team per token.
template <class Space>
struct Rotate {
  float* x;  ///< [S, heads, d]
  const float* cos;
  const float* sin;  ///< [S, pairs]
  int heads;
  int d;
  int pairs;
  bool inverse;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const float* c = cos + s * static_cast<std::size_t>(pairs);
    const float* sn = sin + s * static_cast<std::size_t>(pairs);
    float* token = x + s * static_cast<std::size_t>(heads * d) + (d - 2 * pairs);
    const float sign = inverse ? -1.0f : 1.0f;
    const int all = pairs;  // a copy that the loop keeps in a register
    for_each(team, heads * all, [&](int item) {
      const int i = item % all;
      float* pair = token + item / all * d + 2 * i;
      const float even = pair[0];
      const float odd = pair[1];
      const float sine = sign * sn[i];
      pair[0] = even * c[i] - odd * sine;
      pair[1] = odd * c[i] + even * sine;
    });
  }
};

/// Rotary tables and rotations, as in ds4::ops.
template <class Space>
class RotaryOperations {
 public:
  template <std::size_t Pairs>
  void rotary_table(const RotaryTable<Element, Pairs>& table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    FillRotaryTable<Space, Pairs> kernel{raw(table.cos), raw(table.sin), {}, first, step};
    for (std::size_t i = 0; i < Pairs; ++i) kernel.inv_freq[i] = inv_freq[i];
    backend_of(this).launch("ds4::rotary_table", moves(2 * table.cos.size()), table.cos.extent(0),
                            32, 0, kernel);
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<Element, H, d> x, const RotaryTable<Element, Pairs>& table, bool inverse) {
    const std::size_t S = x.extent(0);
    backend_of(this).launch(
        "ds4::rotate", moves(S * (4 * H + 2) * Pairs, S * 6 * H * Pairs), S, kTeam, 0,
        Rotate<Space>{raw(x), raw(table.cos), raw(table.sin), static_cast<int>(H),
                      static_cast<int>(d), static_cast<int>(Pairs), inverse});
  }
};

}  // namespace ds4::inline v0_1::kokkos
