// The routed experts: sorting of tokens by expert, their products, the weighted sum.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/binding.hpp>
#include <ds4/kernels/kokkos/jobs.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/linear.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

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

/// The routed experts, as in ds4::ops.
template <class Space>
class ExpertOperations {
 public:
  /// Differs from the reference: tokens are sorted by expert on the device, each expert's rows are
  /// multiplied with all its tokens, and a token's experts are added in the order of its choices.
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<Element, D> y, RowsView<const Element, D> x,
                      RowsView<const Index, k> picks, RowsView<const Element, k> weights,
                      const Experts<Space, Expert>& experts, double limit) {
    auto& backend = backend_of(this);
    constexpr std::size_t F = Expert::F;
    const std::size_t E = experts.size();
    const std::size_t S = x.extent(0);
    const std::size_t places = S * k;
    const auto tile = static_cast<std::size_t>(tile_tokens<Space>(static_cast<std::int32_t>(S)));
    const std::size_t most_tiles = std::min(places, std::min(E, places) + places / tile);
    auto memory = backend.scratch();
    auto* order = memory.template device<std::int32_t>(places);
    auto* position = memory.template device<std::int32_t>(places);
    auto* tiles = memory.template device<ExpertTile>(most_tiles);
    auto* tile_count = memory.template device<std::int32_t>(1);
    using Sort = SortByExpert<Space>;
    backend.launch("ds4::sort_by_expert", moves(3 * places), 1, Sort::kTeamSize,
                   Sort::scratch(static_cast<int>(E)),
                   Sort{raw(picks), raw(order), raw(position), raw(tiles), raw(tile_count),
                        static_cast<int>(places), static_cast<int>(E), static_cast<int>(tile)});

    auto gate = memory.template rows<F>(places);
    auto up = memory.template rows<F>(places);
    auto down = memory.template rows<D>(places);
    const auto product = [&](std::string_view label, std::size_t which, std::size_t rows,
                             std::size_t cols, const float* in, float* out,
                             const std::int32_t* gather) {
      ExpertJobs jobs{experts.table() + which,
                      3,
                      Storage::f32,
                      static_cast<std::int32_t>(rows),
                      raw(tiles),
                      raw(tile_count),
                      static_cast<std::int32_t>(most_tiles),
                      in,
                      cols,
                      out,
                      rows,
                      gather,
                      static_cast<std::int32_t>(k)};
      const auto size = [](std::size_t n) { return static_cast<double>(n); };
      const Cost cost{
          experts.bytes(which) * size(std::min(E, places)) + 4 * size(places) * size(rows + cols),
          2 * size(places) * size(rows) * size(cols)};
      for (const auto storage : {Storage::f32, Storage::bf16, Storage::fp8, Storage::fp4}) {
        if (!experts.has(which, storage)) continue;
        jobs.storage = storage;
        multiply(backend, label, cost, jobs, storage, static_cast<std::int32_t>(cols),
                 static_cast<std::int32_t>(tile), backend.is_exact());
      }
    };
    product("ds4::experts_w1", 0, F, D, raw(x), raw(gate), raw(order));
    product("ds4::experts_w3", 2, F, D, raw(x), raw(up), raw(order));
    backend.swiglu(gate, up.as_const(), limit);
    product("ds4::experts_w2", 1, D, F, raw(gate), raw(down), nullptr);
    backend.launch("ds4::combine_experts", moves(y.size() * (k + 1), 2 * y.size() * k), S, kTeam, 0,
                   CombineExperts<Space, static_cast<int>(k)>{raw(y), raw(down), raw(weights),
                                                              raw(position), static_cast<int>(D)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
