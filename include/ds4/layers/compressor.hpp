// The compressors of CSA and HCA: m tokens become one entry.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include <ds4/layers/pass.hpp>
#include <ds4/layers/rotary.hpp>

namespace ds4::inline v0_1 {

/// Compresses every m = Ratio tokens to an entry of Width values. Overlapping (CSA, indexer): the
/// first half of a token's projection feeds the next window's entry, the second half its own.
/// EntryLog is where the entries go. Source: model.md 5.1 and 5.2; paper 2.3.1 and 2.3.2.
template <ModelConfig C, std::size_t Width, std::size_t Ratio, bool Overlapping, Backend B,
          class EntryLog = typename B::template KeyLog<Width>>
struct Compressor {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t kProjected = Overlapping ? 2 * Width : Width;
  using T = typename B::Element;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<kProjected, D> wkv;
  typename B::template Matrix<kProjected, D> wgate;
  typename B::template Parameter<Ratio, kProjected> ape;
  typename B::template Parameter<Width> norm;
  ///@}

  /// What a sequence keeps: projections of the tokens that later entries still need (the tail, and
  /// for overlapping windows the last full one), and all entries so far.
  struct State {
    ///@{
    /// Projections by token, entries by window.
    typename B::template RowLog<kProjected> kv;
    typename B::template RowLog<kProjected> gate;
    EntryLog entries;
    ///@}

    /// Calls f(log, tokens to a row, first_needed) for each log; see Attention::State.
    template <class Self, class F>
    static void for_each_log(Self& self, F&& f) {
      f(self.kv, 1, &Compressor::first_needed);
      f(self.gate, 1, &Compressor::first_needed);
      f(self.entries, Ratio, [](std::size_t) { return std::size_t{0}; });
    }
  };

  /// The first token whose projections a sequence at this position still needs: those of the
  /// unfinished window, and for overlapping windows those of the last full one.
  static constexpr std::size_t first_needed(std::size_t position) {
    const std::size_t windows = position / Ratio;
    return (Overlapping && windows > 0 ? windows - 1 : windows) * Ratio;
  }

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("wkv.weight", wkv);
    visitor("wgate.weight", wgate);
    visitor("ape", ape);
    visitor("norm.weight", norm);
  }

  /// Takes in the rows x [S, D] of a pass and adds the entries of all windows that they complete;
  /// an unfinished window stays in the state. `stage` names the new entries to an observer.
  void append(const Pass<C, B>& pass, RowsView<const T, D> x, std::span<State* const> states,
              std::string_view stage) const;
};

template <ModelConfig C, std::size_t Width, std::size_t Ratio, bool Overlapping, Backend B,
          class EntryLog>
void Compressor<C, Width, Ratio, Overlapping, B, EntryLog>::append(const Pass<C, B>& pass,
                                                                   RowsView<const T, D> x,
                                                                   std::span<State* const> states,
                                                                   std::string_view stage) const {
  constexpr std::size_t kPairs = C::qk_rope_head_dim / 2;
  B& backend = pass.backend;
  const auto region = pass.region("compressor");
  auto scratch = backend.scratch();
  auto kv = scratch.template rows<kProjected>(pass.rows());
  auto gate = scratch.template rows<kProjected>(pass.rows());
  ops::linear(backend, kv, x, wkv);
  ops::linear(backend, gate, x, wgate);

  for (std::size_t i = 0; i < pass.segments.size(); ++i) {
    const Segment& segment = pass.segments[i];
    State& state = *states[i];
    ops::append(backend, state.kv, kv.rows(segment.first, segment.count));
    ops::append(backend, state.gate, gate.rows(segment.first, segment.count));

    const std::size_t first = segment.position / Ratio;
    const std::size_t windows = (segment.position + segment.count) / Ratio;
    if (const std::size_t count = windows - first; count > 0) {
      auto entries = scratch.template rows<Width>(count);
      ops::pool_entries<Ratio, Overlapping>(backend, entries, first, state.kv, state.gate, ape);
      ops::rms_norm(backend, entries, entries, norm, C::rms_norm_eps);

      RotaryTable<T, kPairs> table{scratch.template rows<kPairs>(count),
                                   scratch.template rows<kPairs>(count)};
      ops::rotary_table(backend, table, first * Ratio, Ratio,  // each window's first token
                        rotary_frequencies<C>(AttentionKind::csa));
      ops::rotate(backend, entries.template as<1, Width>(), table);
      pass.observe(stage, entries);
      ops::append(backend, state.entries, entries);
    }
    ops::forget_before(backend, state.kv, first_needed(segment.earliest()));
    ops::forget_before(backend, state.gate, first_needed(segment.earliest()));
  }
}

}  // namespace ds4::inline v0_1
