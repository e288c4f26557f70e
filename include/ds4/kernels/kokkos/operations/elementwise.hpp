// Kernels that go over rows once: embedding, norms, rotation, activations, copies, argmax.
//
// Each is a functor whose league has a team per row. The equations are those of kernels/reference/.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// x[s, n, :] = embed[ids[s], :] for every stream n < N.
template <class Space>
struct Embed {
  float* x;  ///< [S, N, D]
  const std::int32_t* ids;
  PackedMatrix embed;
  int N;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    switch (embed.storage) {
      case Storage::f32:
        return copy<Storage::f32>(team);
      case Storage::bf16:
        return copy<Storage::bf16>(team);
      case Storage::fp8:
        return copy<Storage::fp8>(team);
      case Storage::fp4:
        return copy<Storage::fp4>(team);
    }
  }

 private:
  template <Storage S, class Member>
  KOKKOS_FUNCTION void copy(const Member& team) const {
    constexpr int V = kPerWord<S>;
    const std::int32_t row = ids[team.league_rank()];
    const int lane = row % kPanelRows;
    const std::uint32_t* words = embed.panel(row / kPanelRows) + lane;
    const std::int32_t D = embed.cols;
    float* out = x + static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(N * D);
    for_each(team, D, [&](int c) {
      float value = value_of<S>(words[c / V * kPanelRows], c % V);
      if constexpr (kScaleCols<S> > 0) {
        value *= embed.scale(row / kPanelRows, c / kScaleCols<S>, lane);
      }
      for (int n = 0; n < N; ++n) out[n * D + c] = value;
    });
  }
};

/// y[i, :] = x[rows[i], :], `width` values each.
template <class Space>
struct TakeRows {
  float* y;
  const float* x;
  const std::int32_t* rows;
  int width;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t size = static_cast<std::size_t>(width);
    const float* from = x + static_cast<std::size_t>(rows[team.league_rank()]) * size;
    float* to = y + static_cast<std::size_t>(team.league_rank()) * size;
    for_each(team, width, [&](int c) { to[c] = from[c]; });
  }
};

/// Copies rows of float32, e.g. to a log; there they may be rounded to BF16.
template <class Space>
struct StoreRows {
  std::byte* out;
  const float* x;
  int width;
  bool bf16;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t first =
        static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(width);
    const float* from = x + first;
    if (bf16) {
      std::uint16_t* to = reinterpret_cast<std::uint16_t*>(out) + first;
      for_each(team, width, [&](int c) { to[c] = bf16_from_float(from[c]); });
    } else {
      float* to = reinterpret_cast<float*>(out) + first;
      for_each(team, width, [&](int c) { to[c] = from[c]; });
    }
  }
};

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

/// gate <- silu(min(gate, limit)) * clamp(up, -limit, limit) over rows of n values.
template <class Space>
struct Swiglu {
  float* gate;
  const float* up;
  int n;
  float limit;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t first =
        static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(n);
    float* out = gate + first;
    const float* in = up + first;
    const float most = limit;
    for_each(team, n, [&](int c) {
      const float g = most < out[c] ? most : out[c];
      const float u = in[c] < -most ? -most : in[c] > most ? most : in[c];
      out[c] = g * sigmoid(g) * u;
    });
  }
};

/// y += x over rows of n values; each row of x is added to `repeats` rows of y.
template <class Space>
struct Add {
  float* y;
  const float* x;
  int n;
  int repeats;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t size = static_cast<std::size_t>(n);
    float* to = y + static_cast<std::size_t>(team.league_rank()) * size;
    const float* from = x + static_cast<std::size_t>(team.league_rank() / repeats) * size;
    for_each(team, n, [&](int c) { to[c] += from[c]; });
  }
};

/// ids[row] = the index of the largest of x[row, 0 .. n-1], a tie to the lower one.
template <class Space>
struct Argmax {
  std::int32_t* ids;
  const float* x;
  int n;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const float* row =
        x + static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(n);
    std::uint64_t best = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(team, n),
        [&](int i, std::uint64_t& most) {
          const std::uint64_t key = order_key(row[i], static_cast<std::uint32_t>(i));
          if (key > most) most = key;
        },
        Kokkos::Max<std::uint64_t>(best));
    Kokkos::single(Kokkos::PerTeam(team),
                   [&] { ids[team.league_rank()] = static_cast<std::int32_t>(index_of(best)); });
  }
};

}  // namespace ds4::inline v0_1::kokkos
