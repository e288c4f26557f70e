// Products of packed matrices with few tokens, straight from the packed words.
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

/// sum[t][l] += w[row l, k] * x_t[k] for the columns begin .. end - 1, within one chunk, of T
/// tokens and the L rows of a panel from `lane` on.
template <Storage S, int T, int L>
KOKKOS_INLINE_FUNCTION void multiply_columns(float (&sum)[T][L], const Job& job, int lane,
                                             std::int32_t begin, std::int32_t end,
                                             const float* const (&x)[T]) {
  constexpr int V = kPerWord<S>;
  const std::uint32_t* words = job.w.panel(job.panel) + lane;
  const auto add = [&](std::int32_t k, int values, const float(&scale)[L]) {
    std::uint32_t word[L];
    const std::uint32_t* at = words + k / V * kPanelRows;
    if constexpr (L == kPanelRows) read_ahead(at);
    for (int l = 0; l < L; ++l) word[l] = at[l];
    for (int v = 0; v < values; ++v) {
      float w[L];
      for (int l = 0; l < L; ++l) {
        w[l] = value_of<S>(word[l], v);
        if constexpr (kScaleCols<S> > 0) w[l] *= scale[l];
      }
      for (int t = 0; t < T; ++t) {
        const float value = x[t][k + v];
        for (int l = 0; l < L; ++l) sum[t][l] = multiply_add(w[l], value, sum[t][l]);
      }
    }
  };
  constexpr std::int32_t kBlock = kScaleCols<S> > 0 ? kScaleCols<S> : 1 << 30;
  for (std::int32_t k = begin; k < end;) {
    float scale[L];
    if constexpr (kScaleCols<S> > 0) {
      for (int l = 0; l < L; ++l) scale[l] = job.w.scale(job.panel, k / kBlock, lane + l);
    }
    const std::int32_t stop = end - k < kBlock ? end : k + kBlock;
    for (; k + V <= stop; k += V) add(k, V, scale);
    if (k < stop) {
      add(k, stop - k, scale);
      k = stop;
    }
  }
}

/// For up to T tokens: every thread sums chunks of some rows, straight from the packed words. With
/// Pairs, tokens are rounded to BF16.
template <class Space, Storage S, int T, bool Pairs, class Jobs>
struct MultiplyFew {
  using Member = typename Launcher<Space>::Member;
  static constexpr int L = kLanes<Space>;
  static constexpr int kTeamSize = 256;
  Jobs jobs;

  KOKKOS_FUNCTION static constexpr std::size_t scratch(std::int32_t cols) {
    const std::int32_t chunks = (cols + kChunk<Space> - 1) / kChunk<Space>;
    return static_cast<std::size_t>(chunks) * T * kPanelRows * sizeof(float);
  }

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    Job job;
    if (!jobs.job(team.league_rank(), job)) return;
    constexpr std::int32_t kCols = kChunk<Space>;
    const std::int32_t chunks = (job.w.cols + kCols - 1) / kCols;
    auto* parts = fast_memory<float, Space>(team, scratch(job.w.cols));
    const std::int32_t first_row = job.panel * kPanelRows;
    const std::int32_t last_row = min_of(first_row + kPanelRows, job.w.rows) - 1;
    // A panel may hold the rows of several groups: each is multiplied with its own columns of x.
    for (std::int32_t group = first_row / job.group_rows; group <= last_row / job.group_rows;
         ++group) {
      const float* x[T];
      for (int t = 0; t < T; ++t) x[t] = job.token(min_of(t, job.count - 1), group);
      for (int unit = team.team_rank(); unit < chunks * (kPanelRows / L);
           unit += team.team_size()) {
        const int lane = unit % (kPanelRows / L) * L;
        const std::int32_t chunk = unit / (kPanelRows / L);
        float sum[T][L];
        const std::int32_t begin = chunk * kCols;
        const std::int32_t end = min_of(begin + kCols, job.w.cols);
        if constexpr (Pairs) {
          const float* columns[T];
          for (int t = 0; t < T; ++t) columns[t] = x[t] + begin;
          multiply_pairs<kCols>(sum, job.w.panel(job.panel) + begin / 2 * kPanelRows, columns,
                                end - begin);
        } else {
          for (int t = 0; t < T; ++t) {
            for (int l = 0; l < L; ++l) sum[t][l] = 0.0f;
          }
          multiply_columns<S, T, L>(sum, job, lane, begin, end, x);
        }
        for (int t = 0; t < T; ++t) {
          float* out = parts + (chunk * T + t) * kPanelRows + lane;
          for (int l = 0; l < L; ++l) out[l] = sum[t][l];
        }
      }
      team.team_barrier();
      for_each(team, T * kPanelRows, [&](int i) {
        const std::int32_t t = i / kPanelRows;
        const std::int32_t row = first_row + i % kPanelRows;
        if (t >= job.count || row > last_row || row / job.group_rows != group) return;
        float sum = parts[i];
        for (std::int32_t c = 1; c < chunks; ++c) sum += parts[c * T * kPanelRows + i];
        job.y[static_cast<std::size_t>(t) * job.y_stride + static_cast<std::size_t>(row)] = sum;
      });
      team.team_barrier();
    }
  }
};

}  // namespace ds4::inline v0_1::kokkos
