// The lightning indexer's choice of entries.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <Kokkos_Core.hpp>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/indexer.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/logs.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1::kokkos {

/// The picks of queries that see at most top_k entries: all of them.
template <class Space>
struct PickAll {
  std::int32_t* picks;
  int position;
  int ratio;
  int top_k;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const int visible = (position + team.league_rank() + 1) / ratio;
    std::int32_t* row =
        picks + static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(top_k);
    for_each(team, top_k, [&](int i) { row[i] = i < visible ? i : -1; });
  }
};

/// The indexer's choice, as in ds4::ops.
template <class Space>
class IndexerOperations {
 public:
  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<Index, TopK> picks, RowsView<const Element, nI, dI> q,
                    RowsView<const Element, nI> weights, std::span<const Segment> segments,
                    std::span<const KeyLog<Space, dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      const auto rows = picks.rows(segment.first, segment.count);
      const int position = static_cast<int>(segment.position);
      if ((segment.position + segment.count) / Ratio <= TopK) {
        backend_of(this).launch(
            "ds4::pick_all", moves(rows.size()), segment.count, kTeam, 0,
            PickAll<Space>{raw(rows), position, static_cast<int>(Ratio), static_cast<int>(TopK)});
      } else if (keys[i]->dtype() == DType::bf16) {
        pick_best<Ratio, true>(rows, q, weights, segment, *keys[i]);
      } else {
        pick_best<Ratio, false>(rows, q, weights, segment, *keys[i]);
      }
    }
  }

 private:
  template <std::size_t Ratio, bool Bf16, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_best(RowsView<Index, TopK> picks, RowsView<const Element, nI, dI> q,
                 RowsView<const Element, nI> weights, const Segment& segment,
                 const KeyLog<Space, dI>& keys) {
    auto& backend = backend_of(this);
    using Score = ScoreEntries<Space, static_cast<int>(nI), static_cast<int>(dI), Bf16>;
    using Merge = MergeBest<Space>;
    const std::size_t S = segment.count;
    const std::size_t visible = (segment.position + S) / Ratio;
    auto memory = backend.scratch();
    auto* scores = memory.template device<float>(S * kSlab);
    std::array<BestEntries, 2> best;
    for (auto& list : best) {
      list = {raw(memory.template device<float>(S * TopK)),
              raw(memory.template device<std::int32_t>(S * TopK)),
              raw(memory.template device<std::int32_t>(S))};
    }
    for (std::size_t begin = 0; begin < visible; begin += kSlab) {
      const std::size_t count = std::min<std::size_t>(kSlab, visible - begin);
      const Score score{raw(scores),
                        raw(q.rows(segment.first, S)),
                        raw(weights.rows(segment.first, S)),
                        keys.data(),
                        static_cast<int>(S),
                        static_cast<int>(begin),
                        static_cast<int>(count)};
      const Cost cost = Cost{static_cast<double>(count * keys.row_bytes()), 0} +
                        moves(S * (nI * (dI + 1) + count), 2 * S * count * nI * (dI + 1));
      backend.launch("ds4::score_entries", cost, score.teams(), kTeam, Score::scratch(), score);
      backend.launch("ds4::merge_best", moves(S * (count + 4 * TopK)), S, 256, Merge::scratch(),
                     Merge{best[0], best[1], raw(picks), raw(scores), static_cast<int>(begin),
                           static_cast<int>(count), static_cast<int>(segment.position),
                           static_cast<int>(Ratio), static_cast<int>(TopK)});
      std::swap(best[0], best[1]);
    }
  }
};

}  // namespace ds4::inline v0_1::kokkos
