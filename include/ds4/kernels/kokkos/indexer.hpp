// The lightning indexer: scores of a slab of entries, and the best entries so far.
//
// Differs from the reference: entries are scored kSlab at a time and each slab's are merged with
// the best so far, so memory does not grow with the context.
#pragma once

#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/attention.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Entries that are scored between two merges.
inline constexpr int kSlab = 4096;

/// scores[j, i] of the queries j of one sequence and the entries begin + i of a slab: sum over
/// heads of weight * relu(q . key) / sqrt(nI dI). Teams of (some queries, kKeys entries).
template <class Space, int nI, int dI, bool Bf16>
struct ScoreEntries {
  using Member = typename Launcher<Space>::Member;
  static constexpr int L = kLanes<Space>;
  static constexpr int kKeys = 32;
  static constexpr int kQueries = 8;
  static constexpr int kHeads = 4;  // side by side in a thread
  static constexpr int kParts = kOnHost<Space> ? 1 : kTeam / kKeys;
  static constexpr int kStride = kOnHost<Space> ? kKeys : kKeys + 1;

  float* scores;         ///< [queries, kSlab]
  const float* q;        ///< [queries, nI, dI]
  const float* weights;  ///< [queries, nI]
  const std::byte* keys;
  int queries;
  int begin;
  int count;  ///< entries of the slab

  static int key_blocks(int count) { return (count + kKeys - 1) / kKeys; }
  std::size_t teams() const {
    return static_cast<std::size_t>(key_blocks(count)) *
           static_cast<std::size_t>((queries + kQueries - 1) / kQueries);
  }
  KOKKOS_FUNCTION static constexpr std::size_t scratch() {
    return sizeof(float) * (dI * kStride + kParts * kKeys);
  }

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const int blocks = (count + kKeys - 1) / kKeys;
    const int first_key = team.league_rank() % blocks * kKeys;
    const int first_query = team.league_rank() / blocks * kQueries;
    float* tile = fast_memory<float, Space>(
        team, scratch());  // [dI, kStride]: a channel of all keys side by side
    float* parts = tile + dI * kStride;
    const std::byte* rows =
        keys + static_cast<std::size_t>(begin + first_key) * (dI * (Bf16 ? 2 : 4));
    const int there = min_of(kKeys, count - first_key);
    for_each(team, kKeys * dI, [&](int i) {
      const int k = i / dI;
      tile[i % dI * kStride + k] = k < there ? row_value<Bf16>(rows, i) : 0.0f;
    });
    team.team_barrier();
    const float scale =
        1.0f / Kokkos::sqrt(static_cast<float>(nI)) / Kokkos::sqrt(static_cast<float>(dI));
    const int last_query = min_of(first_query + kQueries, queries);
    for (int j = first_query; j < last_query; ++j) {
      const float* query = q + static_cast<std::size_t>(j) * (nI * dI);
      const float* weight = weights + static_cast<std::size_t>(j) * nI;
      for (int unit = team.team_rank(); unit < kParts * (kKeys / L); unit += team.team_size()) {
        const int lane = unit % (kKeys / L) * L;
        const int part = unit / (kKeys / L);
        float sum[L];
        for (int l = 0; l < L; ++l) sum[l] = 0.0f;
        for (int h = part * kHeads; h < nI; h += kParts * kHeads) {
          add_heads(sum, query, weight, tile + lane, h);
        }
        for (int l = 0; l < L; ++l) parts[part * kKeys + lane + l] = sum[l];
      }
      team.team_barrier();
      float* out = scores + static_cast<std::size_t>(j) * kSlab + first_key;
      for_each(team, there, [&](int k) {
        float sum = 0.0f;
        for (int part = 0; part < kParts; ++part) sum += parts[part * kKeys + k];
        out[k] = sum * scale;
      });
      team.team_barrier();
    }
  }

 private:
  KOKKOS_FUNCTION static void add_heads(float (&sum)[L], const float* query, const float* weight,
                                        const float* tile, int first) {
    float dot[kHeads][L];
    const float* of_head[kHeads];
    for (int h = 0; h < kHeads; ++h) {
      of_head[h] = query + min_of(first + h, nI - 1) * dI;
      for (int l = 0; l < L; ++l) dot[h][l] = 0.0f;
    }
    for (int c = 0; c < dI; ++c) {
      const float* row = tile + c * kStride;
      for (int h = 0; h < kHeads; ++h) {
        const float value = of_head[h][c];
        for (int l = 0; l < L; ++l) dot[h][l] = multiply_add(value, row[l], dot[h][l]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      if (first + h >= nI) break;
      const float w = weight[first + h];
      for (int l = 0; l < L; ++l) {
        sum[l] = multiply_add(w, dot[h][l] > 0.0f ? dot[h][l] : 0.0f, sum[l]);
      }
    }
  }
};

/// The best entries of each query so far, at most top_k, in the order of the entries.
struct BestEntries {
  float* values;          ///< [queries, top_k]
  std::int32_t* entries;  ///< [queries, top_k]
  std::int32_t* counts;   ///< [queries]
};

/// Merges a slab's scores with the best entries of the slabs before; a team per query. A query at
/// position + j sees the entries w < (position + j + 1) / ratio; ties go to the lower entry.
template <class Space>
struct MergeBest {
  using Member = typename Launcher<Space>::Member;
  static constexpr int kBuckets = 256;

  BestEntries before;  ///< of the slabs before, if begin > 0
  BestEntries after;
  std::int32_t* picks;  ///< [queries, top_k], -1 for none: those of this slab and the ones before
  const float* scores;  ///< [queries, kSlab]
  int begin;
  int count;
  int position;
  int ratio;
  int top_k;

  KOKKOS_FUNCTION static constexpr std::size_t scratch() {
    return kBuckets * sizeof(std::int32_t) + 4 * sizeof(std::int32_t);
  }

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const std::size_t j = static_cast<std::size_t>(team.league_rank());
    const std::size_t row = j * static_cast<std::size_t>(top_k);
    const int old = begin == 0 ? 0 : before.counts[j];
    const int visible = (position + team.league_rank() + 1) / ratio;
    const int n = old + max_of(0, min_of(visible - begin, count));
    const float* fresh = scores + j * kSlab;
    const auto value = [&](int i) {
      return i < old ? before.values[row + static_cast<std::size_t>(i)] : fresh[i - old];
    };
    const auto entry = [&](int i) {
      return i < old ? before.entries[row + static_cast<std::size_t>(i)] : begin + i - old;
    };
    const auto key = [&](int i) {
      return static_cast<std::uint32_t>(order_key(value(i), 0u) >> 32);
    };

    auto* buckets = fast_memory<std::int32_t, Space>(team, scratch());
    std::int32_t* found = buckets + kBuckets;  // the bucket, and how many of it are wanted
    // The key of the top_k-th best, eight bits at a time: `wanted` of those that share its bits so
    // far, the others above it.
    std::uint32_t threshold = 0;
    std::int32_t wanted = n;
    if (n > top_k) {
      wanted = top_k;
      for (int shift = 24; shift >= 0; shift -= 8) {
        for_each(team, kBuckets, [&](int b) { buckets[b] = 0; });
        team.team_barrier();
        const std::uint32_t known = shift == 24 ? 0u : 0xffffffffu << (shift + 8);
        for_each(team, n, [&](int i) {
          const std::uint32_t k = key(i);
          if ((k & known) == threshold) Kokkos::atomic_add(&buckets[k >> shift & 255u], 1);
        });
        team.team_barrier();
        Kokkos::single(Kokkos::PerTeam(team), [&] {
          std::int32_t left = wanted;
          int b = kBuckets - 1;
          while (buckets[b] < left) left -= buckets[b--];
          found[0] = b;
          found[1] = left;
        });
        team.team_barrier();
        threshold |= static_cast<std::uint32_t>(found[0]) << shift;
        wanted = found[1];
        team.team_barrier();
      }
    }
    // Keeps those above the threshold and the first `wanted` at it, in their order: both counts
    // share a number.
    Kokkos::parallel_scan(
        Kokkos::TeamThreadRange(team, n), [&](int i, std::int64_t& so_far, bool last) {
          const std::uint32_t k = key(i);
          const bool above = n <= top_k || k > threshold;
          const bool at = !above && k == threshold;
          if (last) {
            const auto equals = static_cast<std::int32_t>(so_far >> 32);
            const auto more = static_cast<std::int32_t>(so_far & 0xffffffff);
            if (above || (at && equals < wanted)) {
              const std::size_t to = row + static_cast<std::size_t>(more + min_of(equals, wanted));
              after.values[to] = value(i);
              after.entries[to] = entry(i);
              picks[to] = entry(i);
            }
          }
          so_far += (std::int64_t{at} << 32) + std::int64_t{above};
        });
    const int kept = min_of(n, top_k);
    for_each(team, top_k - kept,
             [&](int i) { picks[row + static_cast<std::size_t>(kept + i)] = -1; });
    Kokkos::single(Kokkos::PerTeam(team), [&] { after.counts[j] = kept; });
  }
};

}  // namespace ds4::inline v0_1::kokkos
