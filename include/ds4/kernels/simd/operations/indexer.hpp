// The lightning indexer's choice: lanes share the queries or, where they are few, their entries.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/simd/indexer.hpp>
#include <ds4/kernels/simd/logs.hpp>
#include <ds4/kernels/simd/scratch.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/top_k.hpp>

namespace ds4::inline v0_1::simd {

/// The operation of the indexer. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class IndexerOperations {
 public:
  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const float, nI, dI> q,
                    RowsView<const float, nI> weights, std::span<const Segment> segments,
                    std::span<const IndexLog<dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      if (segment.count >= 4 * lane().lanes()) {
        lane().for_part(segment.count, [&](std::size_t j) {
          const std::size_t s = segment.first + j;
          Scratch memory = lane().scratch();
          const IndexQuery query = lay_out_query(memory, q[s], weights[s], *keys[i]);
          const std::size_t visible = (segment.position + j + 1) / Ratio;
          simd::TopK best(memory.own<Candidate>(2 * TopK), TopK);
          score(best, query, *keys[i], nI, 0, visible);
          write_picks(picks[s], best);
        });
        continue;
      }
      for (std::size_t j = 0; j < segment.count; ++j) {  // the lanes share a query's entries
        const std::size_t s = segment.first + j;
        const std::size_t visible = (segment.position + j + 1) / Ratio;
        if (visible <= TopK) {
          if (lane().is_leader()) {
            for (std::size_t e = 0; e < TopK; ++e) {
              picks(s, e) = e < visible ? static_cast<std::int32_t>(e) : -1;
            }
          }
          continue;
        }
        Scratch memory = lane().scratch();
        simd::TopK best(memory.own<Candidate>(2 * TopK), TopK);
        add_best(best, TopK, q[s], weights[s], *keys[i], 0, visible);
        if (lane().is_leader()) write_picks(picks[s], best);
        lane().wait_for_all();
      }
    }
    lane().wait_for_all();
  }

  /// Adds to the leader's `best` the topk entries of the largest scores of begin .. end - 1 for one
  /// query; begin is a multiple of kKeyBlock.
  template <std::size_t nI, std::size_t dI>
  void add_best(simd::TopK& best, std::size_t topk, TensorView<const float, nI, dI> q,
                TensorView<const float, nI> weights, const IndexLog<dI>& keys, std::size_t begin,
                std::size_t end) {
    Scratch memory = lane().scratch();
    auto* counts = memory.shared<std::size_t>(lane().lanes());
    auto* buffers = memory.shared<Candidate>(lane().lanes() * 2 * topk);
    const IndexQuery query = lay_out_query(memory, q, weights, keys);
    const auto mine = lane().part(end - begin, kKeyBlock);
    simd::TopK own(buffers + lane().index() * 2 * topk, topk);
    score(own, query, keys, nI, begin + mine.begin, begin + mine.end);
    counts[lane().index()] = own.finish().size();
    lane().wait_for_all();
    if (lane().is_leader()) {
      for (std::size_t l = 0; l < lane().lanes(); ++l) {
        for (std::size_t c = 0; c < counts[l]; ++c) best.add(buffers[l * 2 * topk + c]);
      }
    }
    lane().wait_for_all();
  }

  /// Ascending, so that the values are summed in one order.
  template <std::size_t TopK>
  static void write_picks(TensorView<std::int32_t, TopK> picks, simd::TopK& best) {
    const std::span<const Candidate> found = best.finish();
    for (std::size_t i = 0; i < TopK; ++i) picks[i] = i < found.size() ? found[i].entry : -1;
    std::sort(picks.data(), picks.data() + found.size());
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  template <std::size_t nI, std::size_t dI>
  IndexQuery lay_out_query(Scratch& memory, TensorView<const float, nI, dI> q,
                           TensorView<const float, nI> weights, const IndexLog<dI>& keys) {
    auto* laid_out = memory.own<std::byte>(padded_heads(nI) * dI * sizeof(float));
    auto* scaled = memory.own<float>(padded_heads(nI));
    lane().kernels().lay_out_query(laid_out, scaled, q.data(), weights.data(), nI, dI, keys.bf16());
    return {laid_out, scaled};
  }

  /// Scores the entries begin .. end - 1; begin is a multiple of kKeyBlock.
  template <std::size_t dI>
  void score(simd::TopK& best, const IndexQuery& query, const IndexLog<dI>& keys, std::size_t nI,
             std::size_t begin, std::size_t end) {
    alignas(64) float scores[kKeyBlock];
    for (std::size_t e = begin; e < end; e += kKeyBlock) {
      lane().kernels().score_block(scores, keys.key_block(e / kKeyBlock), query, nI, dI,
                                   keys.bf16());
      best.add(scores, static_cast<std::int32_t>(e), std::min(kKeyBlock, end - e));
    }
  }
};

}  // namespace ds4::inline v0_1::simd
