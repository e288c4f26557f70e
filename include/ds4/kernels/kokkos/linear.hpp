// Products with packed matrices: of a few tokens, of many, and of the experts' tokens.
//
// Differs from the reference: a row's sum is cut into parts of kChunk columns, each summed in the
// order of its columns, and the parts are added in theirs. All kernels here do so: a token's result
// does not depend on how many tokens came with it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/bf16_pairs.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/weights.hpp>

namespace ds4::inline v0_1::kokkos {

/// Columns that are summed one after another. A multiple of every scale block and word.
template <class Space>
inline constexpr int kChunk = kOnHost<Space> ? 512 : 256;

/// One team's product: the rows of a panel with `count` tokens.
struct Job {
  PackedMatrix w;
  std::int32_t panel = 0;
  std::int32_t count = 0;       ///< tokens
  const float* x = nullptr;     ///< the first token's row, or all rows if there are places
  std::size_t x_stride = 0;     ///< between tokens
  float* y = nullptr;           ///< the first token's row
  std::size_t y_stride = 0;     ///< between tokens
  std::int32_t group_rows = 0;  ///< rows of w that multiply the same columns of x
  /// Of an expert's tokens: token i reads row places[i] / places_per_row of x.
  const std::int32_t* places = nullptr;
  std::int32_t places_per_row = 1;

  KOKKOS_INLINE_FUNCTION const float* token(std::int32_t i, std::int32_t group) const {
    const std::size_t row =
        static_cast<std::size_t>(places == nullptr ? i : places[i] / places_per_row);
    return x + row * x_stride + static_cast<std::size_t>(group) * static_cast<std::size_t>(w.cols);
  }
};

/// Teams for a dense product, dense or block-diagonal: (panel, up to `tile` tokens) each.
struct DenseJobs {
  PackedMatrix w;
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
  std::int32_t tokens;
  std::int32_t tile;
  std::int32_t group_rows;

  std::size_t teams() const {
    return static_cast<std::size_t>(w.panels()) *
           static_cast<std::size_t>((tokens + tile - 1) / tile);
  }
  KOKKOS_INLINE_FUNCTION bool job(std::int32_t team, Job& job) const {
    const std::int32_t panels = (w.rows + kPanelRows - 1) / kPanelRows;
    const std::int32_t first = team / panels * tile;
    job.w = w;
    job.panel = team % panels;
    job.count = tokens - first < tile ? tokens - first : tile;
    job.x = x + static_cast<std::size_t>(first) * x_stride;
    job.x_stride = x_stride;
    job.y = y + static_cast<std::size_t>(first) * y_stride;
    job.y_stride = y_stride;
    job.group_rows = group_rows;
    return true;
  }
};

/// Some tokens of one expert: those at the sorted places first .. first + count - 1.
struct ExpertTile {
  std::int32_t expert;
  std::int32_t first;
  std::int32_t count;
};

/// Teams for one of the three products of all picked experts: (panel, tile) each. The host knows an
/// upper bound of the tiles only; the others have nothing to do.
struct ExpertJobs {
  const PackedMatrix* experts;  ///< this product's matrix of each expert, `matrices` apart
  std::int32_t matrices;
  Storage storage;  ///< matrices of other storages are left to another launch
  std::int32_t rows;
  const ExpertTile* tiles;
  const std::int32_t* tile_count;
  std::int32_t most_tiles;
  const float* x;
  std::size_t x_stride;
  float* y;  ///< rows in the order of the sorted places
  std::size_t y_stride;
  const std::int32_t* places;  ///< sorted by expert; null if x is in this order
  std::int32_t places_per_row;

  std::size_t teams() const {
    return static_cast<std::size_t>((rows + kPanelRows - 1) / kPanelRows) *
           static_cast<std::size_t>(most_tiles);
  }
  KOKKOS_INLINE_FUNCTION bool job(std::int32_t team, Job& job) const {
    // Tiles first: the idle ones, at the end, are spread over all panels and so over all threads.
    const std::int32_t number = team % most_tiles;
    if (number >= *tile_count) return false;
    const ExpertTile tile = tiles[number];
    job.w = experts[tile.expert * matrices];
    if (job.w.storage != storage) return false;
    const std::size_t first = static_cast<std::size_t>(tile.first);
    job.panel = team / most_tiles;
    job.count = tile.count;
    job.x = places == nullptr ? x + first * x_stride : x;
    job.x_stride = x_stride;
    job.y = y + first * y_stride;
    job.y_stride = y_stride;
    job.group_rows = rows;
    if (places != nullptr) job.places = places + first;
    job.places_per_row = places_per_row;
    return true;
  }
};

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

/// Up to this many tokens are multiplied straight from the packed words.
inline constexpr std::int32_t kFewTokens = 4;

/// Launches the product of some jobs, whose tiles hold up to `tokens` tokens, and matrices of this
/// storage. Unless `exact`, tokens may be rounded as the weights are.
template <class Space, class Jobs>
void multiply(const Launcher<Space>& launch, std::string_view label, const Cost& cost,
              const Jobs& jobs, Storage storage, std::int32_t cols, std::int32_t tokens,
              bool exact) {
  // A panel alone keeps one team busy: on the host, its chunks are spread over the threads.
  const int chunks = (cols + kChunk<Space> - 1) / kChunk<Space>;
  const int host_team =
      jobs.teams() == 1 && kOnHost<Space> ? std::min(chunks, launch.space().concurrency()) : 1;
  const auto with = [&]<Storage S, bool Pairs>() {
    if (tokens == 1) {
      using Kernel = MultiplyFew<Space, S, 1, Pairs, Jobs>;
      launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(cols), Kernel{jobs},
             host_team);
    } else if (tokens <= kFewTokens) {
      using Kernel = MultiplyFew<Space, S, kFewTokens, Pairs, Jobs>;
      launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(cols), Kernel{jobs},
             host_team);
    } else {
      using Kernel = MultiplyMany<Space, S, Pairs, Jobs>;
      launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(), Kernel{jobs});
    }
  };
  switch (storage) {
    case Storage::f32:
      return with.template operator()<Storage::f32, false>();
    case Storage::bf16:
      if constexpr (kHasBf16Pairs<Space>) {
        if (!exact) return with.template operator()<Storage::bf16, true>();
      }
      return with.template operator()<Storage::bf16, false>();
    case Storage::fp8:
      return with.template operator()<Storage::fp8, false>();
    case Storage::fp4:
      return with.template operator()<Storage::fp4, false>();
  }
}

/// Tokens to a team's tile, for a pass of so many.
template <class Space>
constexpr std::int32_t tile_tokens(std::int32_t tokens) {
  if (tokens <= kFewTokens) return tokens == 1 ? 1 : kFewTokens;
  using Kernel = MultiplyMany<Space, Storage::f32, false, DenseJobs>;
  if (!kOnHost<Space>) return Kernel::kTile;
  // As few tiles as possible, all of nearly the same size.
  const std::int32_t tiles = (tokens + Kernel::kTile - 1) / Kernel::kTile;
  const std::int32_t even = (tokens + tiles - 1) / tiles;
  return (even + Kernel::T - 1) / Kernel::T * Kernel::T;
}

}  // namespace ds4::inline v0_1::kokkos
