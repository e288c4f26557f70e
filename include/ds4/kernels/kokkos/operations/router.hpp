// Routers. The equations are those of kernels/reference/router.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
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

/// The choice of experts, as in ds4::ops.
template <class Space>
class RouterOperations {
 public:
  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<Index, k> experts, RowsView<Element, k> weights,
                     RowsView<const Element, E> logits, std::span<const Index> ids,
                     const Constants<Space, std::int32_t, V, k>& tid2eid, double scale) {
    route<E, k>(experts, weights, logits, raw(ids.data()), raw(tid2eid.data()), nullptr, scale);
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<Index, k> experts, RowsView<Element, k> weights,
                      RowsView<const Element, E> logits, const Constants<Space, float, E>& bias,
                      double scale) {
    route<E, k>(experts, weights, logits, nullptr, nullptr, raw(bias.data()), scale);
  }

 private:
  template <std::size_t E, std::size_t k>
  void route(RowsView<Index, k> experts, RowsView<Element, k> weights,
             RowsView<const Element, E> logits, const std::int32_t* ids, const std::int32_t* table,
             const float* bias, double scale) {
    using Kernel = Route<Space, static_cast<int>(E), static_cast<int>(k)>;
    backend_of(this).launch("ds4::route",
                            moves(logits.size() + 2 * weights.size(), 4 * logits.size()),
                            logits.extent(0), kTeam, Kernel::scratch(),
                            Kernel{raw(experts), raw(weights), raw(logits), ids, table, bias,
                                   static_cast<float>(scale)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
