// The lightning indexer of CSA: which compressed entries a query attends to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/layers/compressor.hpp>
#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// Scores every visible entry for every query and keeps the index_topk best.
/// Source: model.md 5.2; paper 2.3.1, eqs. 13 to 17.
template <ModelConfig C, std::size_t Ratio, Backend B>
struct Indexer {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t nI = C::index_n_heads;
  static constexpr std::size_t dI = C::index_head_dim;
  using T = typename B::Element;
  using Log = typename B::template IndexLog<dI>;
  using Keys = Compressor<C, dI, Ratio, true, B, Log>;
  using State = typename Keys::State;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<nI * dI, C::q_lora_rank> wq_b;
  typename B::template Matrix<nI, D> weights_proj;
  Keys compressor;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("wq_b.weight", wq_b);
    visitor("weights_proj.weight", weights_proj);
    visitor.group("compressor.", compressor);
  }

  /// Takes in a pass's rows and writes each query's picks [S, index_topk], -1 for none. qr
  /// [S, q_lora] is the query residual, x [S, D] the layer's input. A query at t sees the entries
  /// w < (t + 1) / Ratio; up to index_topk of them, all are kept.
  void pick(const Pass<C, B>& pass, RowsView<typename B::Index, C::index_topk> picks,
            RowsView<const T, D> x, RowsView<const T, C::q_lora_rank> qr,
            std::span<State* const> states) const {
    B& backend = pass.backend;
    const auto region = pass.region("indexer");
    auto scratch = backend.scratch();
    auto q = scratch.template rows<nI, dI>(pass.rows());
    auto weights = scratch.template rows<nI>(pass.rows());
    ops::linear(backend, q.template as<nI * dI>(), qr, wq_b);
    ops::rotate(backend, q, pass.compress);
    ops::linear(backend, weights, x, weights_proj);
    compressor.append(pass, x, states, "indexer.kv");

    auto keys = scratch.template array<const Log*>(states.size());
    for (std::size_t i = 0; i < states.size(); ++i) keys[i] = &states[i]->entries;
    ops::pick_entries<Ratio>(backend, picks, q, weights, pass.segments,
                             std::span<const Log* const>(keys));
    pass.observe("indexer.q", q);
    pass.observe("indexer.weights", weights);
    pass.observe("indexer.topk", picks);
  }
};

}  // namespace ds4::inline v0_1
