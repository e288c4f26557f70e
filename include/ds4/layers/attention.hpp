// Shared-KV attention: window, compressed entries, sink, grouped output projection.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <ds4/layers/compressor.hpp>
#include <ds4/layers/indexer.hpp>
#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// Where the queries of one segment find their keys: the window's rows and the compressed entries.
template <class Log>
struct KeySource {
  ///@{
  /// The window's rows, [kWidth] each.
  static constexpr std::size_t kWidth = Log::kWidth;
  const Log* window = nullptr;
  ///@}
  const Log* entries = nullptr;  ///< null in a sliding layer
};

/// Stands for a part that a kind of layer does not have.
struct Absent {
  /// Keeps nothing.
  struct State {
    /// There is none.
    template <class Self, class F>
    static void for_each_log(Self&, F&&) {}
  };
};

/// The attention of a layer of compress ratio m = Ratio: sliding (0), CSA or HCA.
/// Source: model.md 5; paper 2.3.
template <ModelConfig C, std::size_t Ratio, Backend B>
struct Attention {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr AttentionKind kKind = attention_kind<C>(Ratio);
  static constexpr bool kCompressed = kKind != AttentionKind::sliding;
  static constexpr bool kIndexed = kKind == AttentionKind::csa;
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t H = C::num_attention_heads;
  static constexpr std::size_t d = C::head_dim;
  static constexpr std::size_t G = C::o_groups;
  static constexpr std::size_t q_lora = C::q_lora_rank;
  static constexpr std::size_t o_lora = C::o_lora_rank;
  using T = typename B::Element;
  using KeyLog = typename B::template KeyLog<d>;
  using Entries =
      std::conditional_t<kCompressed, Compressor<C, d, kCompressed ? Ratio : 1, kIndexed, B>,
                         Absent>;
  using Index = std::conditional_t<kIndexed, Indexer<C, kIndexed ? Ratio : 1, B>, Absent>;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<q_lora, D> wq_a;
  typename B::template Parameter<q_lora> q_norm;
  typename B::template Matrix<H * d, q_lora> wq_b;
  typename B::template Matrix<d, D> wkv;
  typename B::template Parameter<d> kv_norm;
  typename B::template Parameter<H> attn_sink;
  typename B::template Matrix<G * o_lora, H * d / G> wo_a;
  typename B::template Matrix<D, G * o_lora> wo_b;
  [[no_unique_address]] Entries compressor;
  [[no_unique_address]] Index indexer;
  ///@}

  /// What a sequence keeps for this layer: the last W - 1 rotated kv rows, and the compressors'.
  struct State {
    ///@{
    /// The window's rows, and what the parts keep.
    KeyLog window;
    [[no_unique_address]] typename Entries::State compressor;
    [[no_unique_address]] typename Index::State indexer;
    ///@}

    /// Calls f(log, tokens to a row, first_needed) for each log of `self`, a State or const State.
    /// A sequence at a position has rows up to position / (tokens to a row), and needs those from
    /// first_needed(position) on.
    template <class Self, class F>
    static void for_each_log(Self& self, F&& f) {
      f(self.window, 1, &Attention::first_in_window);
      Entries::State::for_each_log(self.compressor, f);
      Index::State::for_each_log(self.indexer, f);
    }
  };

  /// The first token that the query at this position sees, other than itself.
  static constexpr std::size_t first_in_window(std::size_t position) {
    return position - std::min(position, C::sliding_window - 1);
  }

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("wq_a.weight", wq_a);
    visitor("q_norm.weight", q_norm);
    visitor("wq_b.weight", wq_b);
    visitor("wkv.weight", wkv);
    visitor("kv_norm.weight", kv_norm);
    visitor("attn_sink", attn_sink);
    visitor("wo_a.weight", wo_a);
    visitor("wo_b.weight", wo_b);
    if constexpr (kCompressed) visitor.group("compressor.", compressor);
    if constexpr (kIndexed) visitor.group("indexer.", indexer);
  }

  /// Adds the rotated kv rows of the normed input x [S, D] to the windows; one state per segment of
  /// the pass.
  void append_window(const Pass<C, B>& pass, RowsView<const T, D> x,
                     std::span<State* const> states) const;
  /// What no later query can see of the windows goes.
  void forget_window(const Pass<C, B>& pass, std::span<State* const> states) const {
    for (std::size_t i = 0; i < states.size(); ++i) {
      ops::forget_before(pass.backend, states[i]->window,
                         first_in_window(pass.segments[i].earliest()));
    }
  }

  /// out [S, D] for the normed input x [S, D]; one state per segment of the pass.
  void forward(const Pass<C, B>& pass, RowsView<T, D> out, RowsView<const T, D> x,
               std::span<State* const> states) const;
};

template <ModelConfig C, std::size_t Ratio, Backend B>
void Attention<C, Ratio, B>::append_window(const Pass<C, B>& pass, RowsView<const T, D> x,
                                           std::span<State* const> states) const {
  B& backend = pass.backend;
  auto scratch = backend.scratch();
  auto kv = scratch.template rows<d>(pass.rows());  // key and value are the same row
  ops::linear(backend, kv, x, wkv);
  ops::rms_norm(backend, kv, kv, kv_norm, C::rms_norm_eps);
  ops::rotate(backend, kv.template as<1, d>(), pass.rotary(kKind));
  pass.observe("attn.kv_rope", kv);
  for (std::size_t i = 0; i < states.size(); ++i) {
    const Segment& segment = pass.segments[i];
    ops::append(backend, states[i]->window, kv.rows(segment.first, segment.count));
  }
}

template <ModelConfig C, std::size_t Ratio, Backend B>
void Attention<C, Ratio, B>::forward(const Pass<C, B>& pass, RowsView<T, D> out,
                                     RowsView<const T, D> x, std::span<State* const> states) const {
  constexpr double eps = C::rms_norm_eps;
  const std::size_t S = pass.rows();
  const auto& rotary = pass.rotary(kKind);
  B& backend = pass.backend;
  const auto region = pass.region("attention");
  auto scratch = backend.scratch();

  auto qr = scratch.template rows<q_lora>(S);
  ops::linear(backend, qr, x, wq_a);
  ops::rms_norm(backend, qr, qr, q_norm, eps);
  pass.observe("attn.q_residual", qr);

  auto q = scratch.template rows<H, d>(S);
  ops::linear(backend, q.template as<H * d>(), qr, wq_b);
  ops::rms_norm(backend, q, q, eps);
  ops::rotate(backend, q, rotary);
  pass.observe("attn.q_rope", q);

  append_window(pass, x, states);
  if constexpr (kCompressed) {
    auto entries = scratch.template array<typename Entries::State*>(states.size());
    for (std::size_t i = 0; i < states.size(); ++i) entries[i] = &states[i]->compressor;
    compressor.append(pass, x, entries, "compressor.kv");
  }
  auto picks = scratch.template indices<C::index_topk>(kIndexed ? S : 0);
  if constexpr (kIndexed) {
    auto keys = scratch.template array<typename Index::State*>(states.size());
    for (std::size_t i = 0; i < states.size(); ++i) keys[i] = &states[i]->indexer;
    // The choice has no gradient: the indexer learns from a loss of its own.
    indexer.pick(pass, picks, ops::detached(backend, x), ops::detached(backend, qr), keys);
  }

  auto sources = scratch.template array<KeySource<KeyLog>>(states.size());
  for (std::size_t i = 0; i < states.size(); ++i) {
    sources[i].window = &states[i]->window;
    if constexpr (kCompressed) sources[i].entries = &states[i]->compressor.entries;
  }
  auto o = scratch.template rows<H, d>(S);
  {
    const auto core = pass.region("attend");
    ops::attend<kKind, Ratio, C::sliding_window>(backend, o, q, attn_sink, picks, pass.segments,
                                                 std::span<const KeySource<KeyLog>>(sources));
  }
  forget_window(pass, states);
  ops::rotate(backend, o, rotary, ops::Rotation::inverse);  // the value was rotated: undo it
  pass.observe("attn.out_unrotated", o);

  auto g = scratch.template rows<G, o_lora>(S);
  ops::grouped_linear(backend, g, o.template as<G, H * d / G>(), wo_a);
  pass.observe("attn.o_a", g);
  ops::linear(backend, out, g.template as<G * o_lora>(), wo_b);
}

}  // namespace ds4::inline v0_1
