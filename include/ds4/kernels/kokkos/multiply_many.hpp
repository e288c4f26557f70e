// Products of packed matrices with many tokens: columns are expanded once for all tokens of a tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/bf16_pairs.hpp>
#include <ds4/kernels/kokkos/jobs.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// For many tokens: the team expands some columns of its panel in fast memory, once for all tokens
/// of its tile; every thread multiplies a few rows with a few tokens in registers. With Pairs,
/// tokens are rounded to BF16, and the packed words are multiplied as they are.
template <class Space, Storage S, bool Pairs, class Jobs>
struct MultiplyMany {
  using Member = typename Launcher<Space>::Member;
  static constexpr bool kHost = kOnHost<Space>;
  static constexpr int L = kLanes<Space>;
  /// Tokens of a tile; columns that are expanded at a time; rows and tokens of a thread at a time.
  static constexpr int kTile = kHost ? 192 : 64;
  static constexpr int kStep = kHost ? kChunk<Space> : 32;
  static constexpr int R = kHost ? kPanelRows : 4;
  static constexpr int T = kHost ? 12 : 4;
  static constexpr int kTeamSize = kPanelRows / R * (kTile / T);
  static_assert(kHost || kTeamSize == kTeam, "a GPU's thread has one place of the tile");
  static constexpr int kTokenStride = kTile + 1;  // odd, so that columns lie in different banks
  Jobs jobs;

  KOKKOS_FUNCTION static constexpr std::size_t scratch() {
    if (Pairs) return 0;
    const int tokens = kHost ? 0 : kStep * kTokenStride;
    return static_cast<std::size_t>(kStep * kPanelRows + tokens) * sizeof(float);
  }

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    Job job;
    if (!jobs.job(team.league_rank(), job)) return;
    [[maybe_unused]] float* weights = nullptr;
    if constexpr (!Pairs) weights = fast_memory<float, Space>(team, scratch());
    const std::int32_t first_row = job.panel * kPanelRows;
    const std::int32_t last_row = min_of(first_row + kPanelRows, job.w.rows) - 1;
    for (std::int32_t group = first_row / job.group_rows; group <= last_row / job.group_rows;
         ++group) {
      const std::int32_t low = max_of(first_row, group * job.group_rows) - first_row;
      const std::int32_t high = min_of(last_row + 1, (group + 1) * job.group_rows) - first_row;
      if constexpr (kHost) {
        multiply_on_host(team, job, group, weights, low, high);
      } else {
        multiply_on_gpu(team, job, group, weights, weights + kStep * kPanelRows, low, high);
      }
    }
  }

 private:
  // weights[k][row] for the columns from begin on; zeros behind the last.
  KOKKOS_FUNCTION static void expand(const Member& team, float* weights, const Job& job,
                                     std::int32_t begin, std::int32_t columns) {
    constexpr int V = kPerWord<S>;
    const int units = (columns + V - 1) / V * (kPanelRows / L);
    const std::uint32_t* words = job.w.panel(job.panel) + begin / V * kPanelRows;
    for (int unit = team.team_rank(); unit < units; unit += team.team_size()) {
      const int lane = unit % (kPanelRows / L) * L;
      const std::int32_t at = unit / (kPanelRows / L);
      std::uint32_t word[L];
      for (int l = 0; l < L; ++l) word[l] = words[at * kPanelRows + lane + l];
      float scale[L];
      if constexpr (kScaleCols<S> > 0) {
        const std::int32_t block = (begin + at * V) / kScaleCols<S>;
        for (int l = 0; l < L; ++l) scale[l] = job.w.scale(job.panel, block, lane + l);
      }
      for (int v = 0; v < V; ++v) {
        float* out = weights + (at * V + v) * kPanelRows + lane;
        for (int l = 0; l < L; ++l) {
          float value = value_of<S>(word[l], v);
          if constexpr (kScaleCols<S> > 0) value *= scale[l];
          out[l] = value;
        }
      }
    }
  }

  // y of the rows low .. high - 1 of the panel: set by the first chunk, added to by the others.
  KOKKOS_FUNCTION static void store(const Job& job, std::int32_t t, int row, const float* sum,
                                    int rows, std::int32_t low, std::int32_t high, bool first) {
    float* y = job.y + static_cast<std::size_t>(t) * job.y_stride +
               static_cast<std::size_t>(job.panel * kPanelRows + row);
    if (rows == kPanelRows && low == 0 && high == kPanelRows) {
      if (first) {
        for (int r = 0; r < kPanelRows; ++r) y[r] = sum[r];
      } else {
        for (int r = 0; r < kPanelRows; ++r) y[r] += sum[r];
      }
      return;
    }
    for (int r = 0; r < rows; ++r) {
      if (row + r < low || row + r >= high) continue;
      y[r] = first ? sum[r] : y[r] + sum[r];
    }
  }

  template <int Tokens>
  KOKKOS_FUNCTION static void host_tile(const Job& job, std::int32_t group, const float* weights,
                                        std::int32_t t0, std::int32_t begin, std::int32_t columns,
                                        std::int32_t low, std::int32_t high) {
    const float* x[Tokens];
    for (int t = 0; t < Tokens; ++t) {
      x[t] = job.token(min_of(t0 + t, job.count - 1), group) + begin;
    }
    float sum[Tokens][R];
    if constexpr (Pairs) {
      multiply_pairs<kStep>(sum, job.w.panel(job.panel) + begin / 2 * kPanelRows, x, columns);
    } else {
      for (int t = 0; t < Tokens; ++t) {
        for (int r = 0; r < R; ++r) sum[t][r] = 0.0f;
      }
      for (std::int32_t k = 0; k < columns; ++k) {
        const float* w = weights + k * kPanelRows;
        for (int t = 0; t < Tokens; ++t) {
          const float value = x[t][k];
          for (int r = 0; r < R; ++r) sum[t][r] = multiply_add(w[r], value, sum[t][r]);
        }
      }
    }
    for (int t = 0; t < Tokens && t0 + t < job.count; ++t) {
      store(job, t0 + t, 0, sum[t], R, low, high, begin == 0);
    }
  }

  KOKKOS_FUNCTION static void multiply_on_host(const Member& team, const Job& job,
                                               std::int32_t group, float* weights, std::int32_t low,
                                               std::int32_t high) {
    for (std::int32_t begin = 0; begin < job.w.cols; begin += kStep) {
      const std::int32_t columns = min_of(kStep, job.w.cols - begin);
      if constexpr (!Pairs) expand(team, weights, job, begin, columns);
      team.team_barrier();
      // Threads take turns of T tokens; the last ones in tiles of 4.
      for (std::int32_t t0 = team.team_rank() * T; t0 < job.count; t0 += team.team_size() * T) {
        if (job.count - t0 > T - 4) {
          host_tile<T>(job, group, weights, t0, begin, columns, low, high);
        } else {
          for (std::int32_t t = t0; t < job.count; t += 4) {
            host_tile<4>(job, group, weights, t, begin, columns, low, high);
          }
        }
      }
      team.team_barrier();
    }
  }

  KOKKOS_FUNCTION static void multiply_on_gpu(const Member& team, const Job& job,
                                              std::int32_t group, float* weights, float* tokens,
                                              std::int32_t low, std::int32_t high) {
    const int row = team.team_rank() % (kPanelRows / R) * R;
    const int t0 = team.team_rank() / (kPanelRows / R) * T;
    for (std::int32_t chunk = 0; chunk < job.w.cols; chunk += kChunk<Space>) {
      const std::int32_t end = min_of(chunk + kChunk<Space>, job.w.cols);
      float sum[T][R];
      for (int t = 0; t < T; ++t) {
        for (int r = 0; r < R; ++r) sum[t][r] = 0.0f;
      }
      for (std::int32_t begin = chunk; begin < end; begin += kStep) {
        const std::int32_t columns = min_of(kStep, end - begin);
        expand(team, weights, job, begin, columns);
        for_each(team, kTile * kStep, [&](int i) {
          const std::int32_t t = i / kStep;
          const std::int32_t k = i % kStep;
          if (t < job.count && k < columns) {
            tokens[k * kTokenStride + t] = job.token(t, group)[begin + k];
          }
        });
        team.team_barrier();
        for (std::int32_t k = 0; k < columns; ++k) {
          float w[R];
          for (int r = 0; r < R; ++r) w[r] = weights[k * kPanelRows + row + r];
          for (int t = 0; t < T; ++t) {
            const float value = tokens[k * kTokenStride + t0 + t];
            for (int r = 0; r < R; ++r) sum[t][r] = multiply_add(w[r], value, sum[t][r]);
          }
        }
        team.team_barrier();
      }
      for (int t = 0; t < T && t0 + t < job.count; ++t) {
        store(job, t0 + t, row, sum[t], R, low, high, chunk == 0);
      }
    }
  }
};

}  // namespace ds4::inline v0_1::kokkos
