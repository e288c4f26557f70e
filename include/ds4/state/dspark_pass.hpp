// Passes of DSpark over blocks behind one or more sequences.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ds4/layers/dspark.hpp>
#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/state/state.hpp>

namespace ds4::inline v0_1 {

/// What a block pass leaves for the choice of tokens; block after block, kBlock rows each.
template <ModelConfig C, Backend B>
struct DsparkBlocks {
  Rows<typename B::Scalar, C::hidden_size> hidden;  ///< y, the collapsed streams before the norm
  Rows<typename B::Scalar, C::vocab_size> logits;   ///< U, before the Markov head
};

namespace detail {

/// The windows of some states, stage by stage.
template <ModelConfig C, Backend B>
struct StageWindows {
  using Window = typename DsparkDrafter<C, B>::Stage::State;
  std::vector<std::vector<Window*>> stages;
  std::vector<std::span<Window* const>> spans;  ///< of stages
};
template <ModelConfig C, Backend B>
StageWindows<C, B> stages_of(std::span<State<C, B>* const> states, std::size_t stages) {
  StageWindows<C, B> of;
  of.stages.resize(stages);
  for (std::size_t k = 0; k < stages; ++k) {
    for (State<C, B>* state : states)
      of.stages[k].push_back(&detail::StateParts::drafts(*state).dspark.windows[k]);
    of.spans.emplace_back(of.stages[k]);
  }
  return of;
}

/// Makes the window rows that blocks behind the states' positions need and that are not there yet.
template <ModelConfig C, Backend B>
void make_dspark_rows(B& backend, const DsparkDrafter<C, B>& drafter,
                      std::span<State<C, B>* const> states,
                      StageObserver<typename B::Scalar>* observer) {
  using Drafter = DsparkDrafter<C, B>;
  const std::size_t K = drafter.stages.size();
  std::vector<Segment> segments;
  std::vector<State<C, B>*> owners;
  std::size_t S = 0;
  for (State<C, B>* state : states) {
    const std::size_t first =
        detail::StateParts::drafts(*state).dspark.next_row(state->position(), K);
    const std::size_t count = state->position() - first;
    if (count == 0) continue;
    segments.push_back({S, count, first});
    owners.push_back(state);
    S += count;
  }
  if (S == 0) return;
  const std::vector<std::int32_t> nothing(S);  // no stage reads a token here
  const auto windows = stages_of<C, B>(std::span<State<C, B>* const>(owners), K);
  backend.run([&](B& lane) {
    auto scratch = lane.scratch();
    const auto ids = scratch.upload(nothing);
    const auto rotary =
        rotary_of<C>(lane, scratch, std::span<const Segment>(segments), AttentionKind::sliding);
    auto r = scratch.template rows<Drafter::M * Drafter::D>(S);
    for (std::size_t i = 0; i < segments.size(); ++i) {
      ops::read_rows(lane, r.rows(segments[i].first, segments[i].count),
                     detail::StateParts::drafts(*owners[i]).dspark.targets, segments[i].position);
    }
    drafter.append_windows(Pass<C, B>{lane, ids, segments, rotary, rotary, observer}, r,
                           windows.spans);
  });
}

}  // namespace detail

/// Runs DSpark's stages on a block behind each state's position: the anchor, the token chosen to
/// follow, and noise. The states have what a block needs (DraftState::reaches) and are as before.
/// Source: model.md 19.2.
template <ModelConfig C, Backend B>
DsparkBlocks<C, B> dspark_blocks(B& backend, const ModelWeights<C, B>& weights,
                                 std::span<State<C, B>* const> states,
                                 std::span<const std::int32_t> anchors,
                                 StageObserver<typename B::Scalar>* observer) {
  using Drafter = DsparkDrafter<C, B>;
  constexpr std::size_t N = Drafter::N;
  constexpr std::size_t D = Drafter::D;
  constexpr std::size_t kBlock = Drafter::kBlock;
  assert(weights.dspark);
  const Drafter& drafter = *weights.dspark;
  detail::make_dspark_rows<C, B>(backend, drafter, states, observer);

  const std::size_t S = states.size() * kBlock;
  std::vector<std::int32_t> host_ids(S, static_cast<std::int32_t>(C::dspark_noise_token_id));
  std::vector<Segment> segments;
  for (std::size_t i = 0; i < states.size(); ++i) {
    host_ids[i * kBlock] = anchors[i];
    // One token more than the block may be taken back: the window then keeps W rows before it.
    segments.push_back({i * kBlock, kBlock, states[i]->position(), kBlock + 1, true});
  }
  const auto windows = detail::stages_of<C, B>(states, drafter.stages.size());
  DsparkBlocks<C, B> made{Rows<typename B::Scalar, D>(S),
                          Rows<typename B::Scalar, C::vocab_size>(S)};
  backend.run([&](B& lane) {
    const PassRegion<B> whole(lane, observer, segments, S);
    auto scratch = lane.scratch();
    const auto ids = scratch.upload(host_ids);
    const auto rotary =
        rotary_of<C>(lane, scratch, std::span<const Segment>(segments), AttentionKind::sliding);
    Pass<C, B> pass{lane, ids, segments, rotary, rotary, observer};
    auto X = scratch.template rows<N, D>(S);
    ops::embed(lane, X, ids, weights.embed);
    drafter.run_stages(pass, X, windows.spans);
    auto y = scratch.template result<D>(made.hidden.view());
    drafter.hc_head.read(lane, y, X);
    lane.deliver(made.hidden.flat(), y.as_const().flat());
    auto normed = scratch.template rows<D>(S);
    ops::rms_norm(lane, normed, y, drafter.norm, C::rms_norm_eps);
    auto logits = scratch.template result<C::vocab_size>(made.logits.view());
    ops::linear(lane, logits, normed, weights.head);
    lane.deliver(made.logits.flat(), logits.as_const().flat());
  });
  for (State<C, B>* state : states)
    detail::StateParts::drafts(*state).dspark.truncate_windows(state->position());
  return made;
}

namespace detail {

/// Calls f(lane, scratch, w1) in a run of the backend with the Markov rows w1 [n, R] of tokens.
template <ModelConfig C, Backend B, class F>
void with_markov_rows(B& backend, const DsparkDrafter<C, B>& drafter,
                      std::span<const std::int32_t> tokens, F&& f) {
  constexpr std::size_t R = C::dspark_markov_rank;
  backend.run([&](B& lane) {
    auto scratch = lane.scratch();
    auto w1 = scratch.template rows<R>(tokens.size());
    ops::embed(lane, w1.template as<1, R>(), scratch.upload(tokens), drafter.markov_w1);
    f(lane, scratch, w1.as_const());
  });
}

}  // namespace detail

/// The Markov rows w1 [n, R] of tokens, which confidence reads. Source: model.md 19.3.
template <ModelConfig C, Backend B>
Rows<typename B::Scalar, C::dspark_markov_rank> markov_rows(B& backend,
                                                            const DsparkDrafter<C, B>& drafter,
                                                            std::span<const std::int32_t> tokens) {
  Rows<typename B::Scalar, C::dspark_markov_rank> rows(tokens.size());
  detail::with_markov_rows<C, B>(backend, drafter, tokens, [&](B& lane, auto&, auto w1) {
    lane.deliver(rows.flat(), w1.flat());
  });
  return rows;
}

/// What tokens add to the logits of the row behind them, [n, V]: markov_w2 markov_w1[token]. Not
/// made with the rows: it reads all of w2, for tokens alone that the confidence lets through.
/// Source: model.md 19.3.
template <ModelConfig C, Backend B>
Rows<typename B::Scalar, C::vocab_size> markov_logits(B& backend,
                                                      const DsparkDrafter<C, B>& drafter,
                                                      std::span<const std::int32_t> tokens) {
  Rows<typename B::Scalar, C::vocab_size> logits(tokens.size());
  detail::with_markov_rows<C, B>(backend, drafter, tokens, [&](B& lane, auto& scratch, auto w1) {
    auto bias = scratch.template result<C::vocab_size>(logits.view());
    ops::linear(lane, bias, w1, drafter.markov_w2);
    lane.deliver(logits.flat(), bias.as_const().flat());
  });
  return logits;
}

}  // namespace ds4::inline v0_1
