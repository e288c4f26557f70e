// Shared-KV attention: some heads of a query against one list of keys, which are the values too.
//
// Differs from the reference: keys are taken in tiles of kKeyTile, read once for all heads of a
// team, with an online softmax. Tiles are counted from the start of a query's own list, so the
// result does not depend on the other queries of a pass.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Where the queries of one sequence find their keys.
struct SequenceKeys {
  const std::byte* window = nullptr;   ///< rows of the tokens from window_first on
  const std::byte* entries = nullptr;  ///< compressed entries from 0 on, or null
  std::uint32_t window_first = 0;
  std::uint32_t position = 0;  ///< of its first query
  std::uint32_t first = 0;     ///< row of that query
  std::uint32_t count = 0;     ///< its queries
  bool block = false;          ///< all of them see what the last one's position says
};

/// Sequences that one launch looks at; a larger batch takes several.
inline constexpr std::size_t kSequences = 8;

/// Value `i` of a row of float32 or BF16.
template <bool Bf16>
KOKKOS_INLINE_FUNCTION float row_value(const std::byte* row, int i) {
  if constexpr (Bf16) {
    const std::uint32_t bits = reinterpret_cast<const std::uint16_t*>(row)[i];
    return std::bit_cast<float>(bits << 16);
  } else {
    return reinterpret_cast<const float*>(row)[i];
  }
}

/// out[s, h] for (query, Heads heads) teams: sum over keys of softmax * key, the softmax over
/// q[s, h] . key / sqrt(d) and the sink. q, out [S, H, d]; sink [H]. A query at t has the window
/// rows that Segment::window() says, then its picks, or without picks every entry w < (t + 1) /
/// ratio.
template <class Space, int d, int Heads, bool Bf16>
struct Attend {
  using Member = typename Launcher<Space>::Member;
  static constexpr int L = kLanes<Space>;
  static constexpr int kKeyTile = kOnHost<Space> ? 16 : 8;
  /// Heads and keys whose products a thread sums side by side.
  static constexpr int kProductHeads = kOnHost<Space> && Heads % 2 == 0 ? 2 : 1;
  static constexpr int kProductKeys = kOnHost<Space> ? 4 : 1;
  /// A product of a query and a key is summed in so many parts.
  static constexpr int kParts = kOnHost<Space> ? 1 : 8;
  static constexpr int kBlocks = (d + L - 1) / L;  // of channels
  static constexpr int kPadded = kBlocks * L;
  static constexpr int kPart = (kBlocks + kParts - 1) / kParts;  // blocks of a part
  static constexpr int kStride = kOnHost<Space> ? kPadded : kPadded + 1;
  /// Blocks whose sums a thread keeps.
  static constexpr int kMine = kOnHost<Space> ? kBlocks : (kBlocks + kTeam - 1) / kTeam;

  float* out;
  const float* q;
  const float* sink;
  const std::int32_t* picks;  ///< [S, top_k] ascending, or null
  int top_k;
  Kokkos::Array<SequenceKeys, kSequences> sequences;
  int first;  ///< query of the first team
  int H;
  int W;
  int ratio;  ///< 0: no entries

  static int head_blocks(int H) { return (H + Heads - 1) / Heads; }
  KOKKOS_FUNCTION static constexpr std::size_t scratch() {
    return sizeof(float) * (Heads * kPadded + kKeyTile * kStride + Heads * kKeyTile * kParts +
                            Heads * kKeyTile + 3 * Heads);
  }

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const int blocks = (H + Heads - 1) / Heads;
    const int s = first + team.league_rank() / blocks;
    const int head = team.league_rank() % blocks * Heads;
    std::size_t number = 0;
    while (static_cast<std::uint32_t>(s) >= sequences[number].first + sequences[number].count) {
      ++number;
    }
    const SequenceKeys keys = sequences[number];
    const int t = static_cast<int>(keys.position + static_cast<std::uint32_t>(s) - keys.first);
    // As Segment::window() has it.
    const int in_window =
        keys.block ? min_of(static_cast<int>(keys.position), W) + static_cast<int>(keys.count)
                   : min_of(t + 1, W);
    const int window_end = keys.block ? static_cast<int>(keys.position + keys.count) : t + 1;
    int entries = ratio == 0 ? 0 : (t + 1) / ratio;
    const std::int32_t* chosen = nullptr;
    if (picks != nullptr) {
      chosen = picks + static_cast<std::size_t>(s) * static_cast<std::size_t>(top_k);
      entries = min_of(entries, top_k);
    }
    const int total = in_window + entries;
    const auto key = [&](int i) {
      constexpr std::size_t kBytes = d * (Bf16 ? 2 : 4);
      if (i < in_window) {
        const int row = window_end - in_window + i - static_cast<int>(keys.window_first);
        return keys.window + static_cast<std::size_t>(row) * kBytes;
      }
      const int entry = chosen == nullptr ? i - in_window : chosen[i - in_window];
      return keys.entries + static_cast<std::size_t>(entry) * kBytes;
    };

    float* memory = fast_memory<float, Space>(team, scratch());
    float* queries = memory;                       // [Heads, kPadded]
    float* tile = queries + Heads * kPadded;       // [kKeyTile, kStride]
    float* parts = tile + kKeyTile * kStride;      // [Heads, kKeyTile, kParts]
    float* p = parts + Heads * kKeyTile * kParts;  // [Heads, kKeyTile]
    float* top = p + Heads * kKeyTile;             // [Heads]
    float* sum = top + Heads;                      // [Heads]
    float* rescale = sum + Heads;                  // [Heads]
    const float scale = 1.0f / Kokkos::sqrt(static_cast<float>(d));

    const float* of_token = q + static_cast<std::size_t>(s) * static_cast<std::size_t>(H * d);
    for (int h = 0; h < Heads; ++h) {
      const float* of_head = of_token + min_of(head + h, H - 1) * d;
      for_each(team, kPadded, [&](int c) { queries[h * kPadded + c] = c < d ? of_head[c] : 0.0f; });
    }
    for_each(team, Heads, [&](int h) {
      top[h] = sink[min_of(head + h, H - 1)];
      sum[h] = 1.0f;  // the sink's own exp(sink - top); it has no value
    });
    float values[Heads][kMine * L];
    for (int h = 0; h < Heads; ++h) {
      for (int i = 0; i < kMine * L; ++i) values[h][i] = 0.0f;
    }

    for (int begin = 0; begin < total; begin += kKeyTile) {
      const int n = min_of(kKeyTile, total - begin);
      for (int k = 0; k < n; ++k) {
        const std::byte* row = key(begin + k);
        for_each(team, kPadded,
                 [&](int c) { tile[k * kStride + c] = c < d ? row_value<Bf16>(row, c) : 0.0f; });
      }
      team.team_barrier();
      constexpr int kUnits = Heads / kProductHeads * (kKeyTile / kProductKeys) * kParts;
      for (int unit = team.team_rank(); unit < kUnits; unit += team.team_size()) {
        const int part = unit % kParts;
        const int k = unit / kParts % (kKeyTile / kProductKeys) * kProductKeys;
        const int h = unit / kParts / (kKeyTile / kProductKeys) * kProductHeads;
        if (k >= n) continue;
        products(parts + (h * kKeyTile + k) * kParts + part, queries + h * kPadded,
                 tile + k * kStride, part);
      }
      team.team_barrier();
      for_each(team, Heads, [&](int h) {
        float row[kKeyTile];
        float most = top[h];
        for (int k = 0; k < kKeyTile; ++k) {
          float dot = parts[(h * kKeyTile + k) * kParts];
          for (int part = 1; part < kParts; ++part)
            dot += parts[(h * kKeyTile + k) * kParts + part];
          row[k] = k < n ? dot * scale : top[h];
        }
        for (int k = 0; k < kKeyTile; ++k) most = row[k] > most ? row[k] : most;
        rescale[h] = exp_of(top[h] - most);
        top[h] = most;
        for (int k = 0; k < kKeyTile; ++k) {
          row[k] = k < n ? exp_of(row[k] - most) : 0.0f;
          p[h * kKeyTile + k] = row[k];
        }
        sum[h] = sum[h] * rescale[h] + sum_lanes(row);
      });
      team.team_barrier();
      for (int i = 0; i < kMine; ++i) {
        const int block = i * team.team_size() + team.team_rank();
        if (block < kBlocks) add_values(values, i, tile + block * L, p, rescale, n);
      }
      team.team_barrier();
    }

    float* result = out + static_cast<std::size_t>(s) * static_cast<std::size_t>(H * d);
    for (int i = 0; i < kMine; ++i) {
      const int block = i * team.team_size() + team.team_rank();
      if (block >= kBlocks) continue;
      for (int h = 0; h < Heads && head + h < H; ++h) {
        for (int l = 0; l < L; ++l) {
          if (block * L + l < d) {
            result[(head + h) * d + block * L + l] = values[h][i * L + l] / sum[h];
          }
        }
      }
    }
  }

 private:
  // One part of the products of some heads with some keys, in rows that are padded.
  KOKKOS_FUNCTION static void products(float* out, const float* q, const float* keys, int part) {
    constexpr int kProducts = kProductHeads * kProductKeys;
    float sum[kProducts][L];
    for (int i = 0; i < kProducts; ++i) {
      for (int l = 0; l < L; ++l) sum[i][l] = 0.0f;
    }
    const int end = min_of((part + 1) * kPart, kBlocks) * L;
    for (int c = part * kPart * L; c < end; c += L) {
      for (int i = 0; i < kProducts; ++i) {
        const float* a = q + i / kProductKeys * kPadded + c;
        const float* b = keys + i % kProductKeys * kStride + c;
        for (int l = 0; l < L; ++l) sum[i][l] = multiply_add(a[l], b[l], sum[i][l]);
      }
    }
    for (int i = 0; i < kProducts; ++i) {
      out[(i / kProductKeys * kKeyTile + i % kProductKeys) * kParts] = sum_lanes(sum[i]);
    }
  }

  // values of block `i` of this thread, rescaled, plus p * key of the tile's keys.
  KOKKOS_FUNCTION static void add_values(float (&values)[Heads][kMine * L], int i,
                                         const float* keys, const float* p, const float* rescale,
                                         int n) {
    float v[Heads][L];
    for (int h = 0; h < Heads; ++h) {
      for (int l = 0; l < L; ++l) v[h][l] = values[h][i * L + l] * rescale[h];
    }
    for (int k = 0; k < n; ++k) {
      const float* row = keys + k * kStride;
      for (int h = 0; h < Heads; ++h) {
        const float weight = p[h * kKeyTile + k];
        for (int l = 0; l < L; ++l) v[h][l] = multiply_add(weight, row[l], v[h][l]);
      }
    }
    for (int h = 0; h < Heads; ++h) {
      for (int l = 0; l < L; ++l) values[h][i * L + l] = v[h][l];
    }
  }
};

}  // namespace ds4::inline v0_1::kokkos
