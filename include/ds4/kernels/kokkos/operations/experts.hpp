// Kernels of the mixture of experts: routers, sorting of tokens by expert, the weighted sum. The
// equations are those of kernels/reference/router.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/jobs.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// The experts of a token and their weights; a team per token. With a table, experts = table[id];
/// otherwise the k of the largest sqrt(softplus(logit)) + bias, best first, a tie to the lower one.
template <class Space, int E, int k>
struct Route {
  std::int32_t* experts;  ///< [S, k]
  float* weights;         ///< [S, k]
  const float* logits;    ///< [S, E]
  const std::int32_t* ids;
  const std::int32_t* table;  ///< [V, k] or null
  const float* bias;          ///< [E] or null
  float scale;

  KOKKOS_FUNCTION static constexpr std::size_t scratch() { return E * sizeof(float); }

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const float* row = logits + s * E;
    std::int32_t* chosen = experts + s * k;
    if (table != nullptr) {
      const std::int32_t* of_token = table + static_cast<std::size_t>(ids[s]) * k;
      for_each(team, k, [&](int i) { chosen[i] = of_token[i]; });
    } else {
      auto* score = fast_memory<float, Space>(team, scratch());
      for_each(team, E, [&](int e) { score[e] = sqrt_softplus(row[e]) + bias[e]; });
      team.team_barrier();
      std::uint64_t last = ~std::uint64_t{0};
      for (int i = 0; i < k; ++i) {
        std::uint64_t best = 0;  // of those behind the last one
        Kokkos::parallel_reduce(
            Kokkos::TeamThreadRange(team, E),
            [&](int e, std::uint64_t& most) {
              const std::uint64_t key = order_key(score[e], static_cast<std::uint32_t>(e));
              if (key < last && key > most) most = key;
            },
            Kokkos::Max<std::uint64_t>(best));
        last = best;
        Kokkos::single(Kokkos::PerTeam(team),
                       [&] { chosen[i] = static_cast<std::int32_t>(index_of(best)); });
      }
    }
    team.team_barrier();
    Kokkos::single(Kokkos::PerTeam(team), [&] {
      float sum = 0.0f;
      for (int i = 0; i < k; ++i) sum += sqrt_softplus(row[chosen[i]]);
      for (int i = 0; i < k; ++i) {
        weights[s * k + static_cast<std::size_t>(i)] =
            sqrt_softplus(row[chosen[i]]) / (sum + 1e-20f) * scale;
      }
    });
  }
};

/// Sorts the places (token * k + choice) by expert and cuts each expert's into tiles. One team.
template <class Space>
struct SortByExpert {
  const std::int32_t* picks;  ///< [places]
  std::int32_t* order;        ///< [places]: the place at each sorted position
  std::int32_t* position;     ///< [places]: where each place went
  ExpertTile* tiles;
  std::int32_t* tile_count;
  int places;
  int experts;
  int tile;

  static constexpr int kTeamSize = 256;
  KOKKOS_FUNCTION static constexpr std::size_t scratch(int experts) {
    return 2 * static_cast<std::size_t>(experts) * sizeof(std::int32_t);
  }

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    auto* count = fast_memory<std::int32_t, Space>(team, scratch(experts));
    std::int32_t* next = count + experts;  // where an expert's next place goes
    for_each(team, experts, [&](int e) { count[e] = 0; });
    team.team_barrier();
    for_each(team, places, [&](int p) { Kokkos::atomic_add(&count[picks[p]], 1); });
    team.team_barrier();
    Kokkos::single(Kokkos::PerTeam(team), [&] {
      std::int32_t first = 0;
      std::int32_t number = 0;
      for (int e = 0; e < experts; ++e) {
        next[e] = first;
        for (std::int32_t at = 0; at < count[e]; at += tile) {
          tiles[number++] = {e, first + at, min_of(tile, count[e] - at)};
        }
        first += count[e];
      }
      *tile_count = number;
    });
    team.team_barrier();
    // The order within an expert changes nothing: a token's product does not depend on it.
    for_each(team, places, [&](int p) {
      const std::int32_t at = Kokkos::atomic_fetch_add(&next[picks[p]], 1);
      order[at] = p;
      position[p] = at;
    });
  }
};

/// y[s, :] = sum_i weights[s, i] * rows[position[s * k + i], :]; a team per token.
template <class Space, int k>
struct CombineExperts {
  float* y;
  const float* rows;
  const float* weights;
  const std::int32_t* position;
  int D;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const float* from[k];
    float weight[k];
    for (int i = 0; i < k; ++i) {
      const std::size_t place = s * k + static_cast<std::size_t>(i);
      from[i] = rows + static_cast<std::size_t>(position[place]) * static_cast<std::size_t>(D);
      weight[i] = weights[place];
    }
    float* out = y + s * static_cast<std::size_t>(D);
    for_each(team, D, [&](int c) {
      float sum = 0.0f;
      for (int i = 0; i < k; ++i) sum = multiply_add(weight[i], from[i][c], sum);
      out[c] = sum;
    });
  }
};

}  // namespace ds4::inline v0_1::kokkos
