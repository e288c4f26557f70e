// A pass of the multi-token-prediction layer over rows of one or more sequences.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/mtp.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/state/state.hpp>

namespace ds4::inline v0_1 {

/// Rows of one sequence for mtp_pass(): those from `first` on, `next` the tokens that follow each.
template <ModelConfig C, Backend B>
struct MtpRows {
  ///@{
  /// See above; the last `rows` of them get logits.
  State<C, B>* state;
  std::size_t first;
  std::vector<std::int32_t> next;
  std::size_t rows;
  ///@}
};

/// The logits [n, V] of the rows that get some, sequence after sequence; of the others only what
/// these see is made. `chain`: the streams of a sequence's last row stand for those of the next
/// position. Source: model.md 9.1.
template <ModelConfig C, Backend B>
Rows<typename B::Scalar, C::vocab_size> mtp_pass(B& backend, const ModelWeights<C, B>& weights,
                                                 std::span<const MtpRows<C, B>> batch, bool chain,
                                                 StageObserver<typename B::Scalar>* observer) {
  using Mtp = MtpLayer<C, B>;
  constexpr std::size_t N = C::hc_mult;
  constexpr std::size_t D = C::hidden_size;
  constexpr std::size_t V = C::vocab_size;
  assert(weights.mtp);
  const Mtp& mtp = *weights.mtp;

  // First the rows of all sequences that others only see, then those that get logits.
  std::vector<std::int32_t> host_next;
  std::vector<Segment> segments;
  std::vector<typename Mtp::Layer::State*> states;
  std::vector<State<C, B>*> owners;
  const auto add = [&](const MtpRows<C, B>& of, std::size_t begin, std::size_t count) {
    if (count == 0) return;
    const auto ids = std::span(of.next).subspan(begin, count);
    // What is forgotten is what a rollback cannot reach: the row of the last token, and a draft's,
    // come again.
    const std::size_t end = of.first + of.next.size();
    segments.push_back({host_next.size(), count, of.first + begin,
                        of.state->rollback_limit() + end + 1 - of.state->position()});
    states.push_back(&detail::StateParts::drafts(*of.state).mtp.layer);
    owners.push_back(of.state);
    host_next.insert(host_next.end(), ids.begin(), ids.end());
  };
  for (const auto& of : batch) add(of, 0, of.next.size() - of.rows);
  const std::size_t seen = host_next.size();
  const std::size_t seen_segments = segments.size();
  for (const auto& of : batch) add(of, of.next.size() - of.rows, of.rows);
  const std::size_t S = host_next.size();
  // The second part's rows count from its own first.
  std::vector<Segment> last_segments(segments.begin() + static_cast<std::ptrdiff_t>(seen_segments),
                                     segments.end());
  for (Segment& segment : last_segments) segment.first -= seen;

  Rows<typename B::Scalar, V> logits(S - seen);
  backend.run([&](B& lane) {
    const PassRegion<B> whole(lane, observer, last_segments, S - seen);
    auto scratch = lane.scratch();
    const auto next = scratch.upload(host_next);
    const auto rotary =
        rotary_of<C>(lane, scratch, std::span<const Segment>(segments), AttentionKind::sliding);
    auto input = scratch.template rows<N, D>(S);
    {
      auto streams_memory = lane.scratch();
      auto X = streams_memory.template rows<N, D>(S);
      for (std::size_t i = 0; i < segments.size(); ++i) {
        ops::read_rows(lane, X.rows(segments[i].first, segments[i].count).template as<N * D>(),
                       detail::StateParts::drafts(*owners[i]).mtp.streams, segments[i].position);
      }
      mtp.project(lane, input, X, next, weights.embed);
    }
    const auto part = [&](std::size_t begin, std::size_t count, std::span<const Segment> of) {
      const typename Pass<C, B>::Rotary table{rotary.cos.rows(begin, count),
                                              rotary.sin.rows(begin, count)};
      return Pass<C, B>{lane,     next.subspan(begin, count), of, table, table,
                        observer, C::num_hidden_layers};
    };
    const std::span all(states);
    if (seen > 0) {
      mtp.layer.append_window(part(0, seen, std::span(segments).first(seen_segments)),
                              input.rows(0, seen), all.first(seen_segments));
    }
    const Pass<C, B> pass = part(seen, S - seen, last_segments);
    const auto last = input.rows(seen, S - seen);
    mtp.layer.forward(pass, last, all.subspan(seen_segments));
    for (std::size_t i = 0; chain && i < last_segments.size(); ++i) {
      const Segment& of = last_segments[i];
      ops::append(lane, detail::StateParts::drafts(*owners[seen_segments + i]).mtp.streams,
                  last.rows(of.first + of.count - 1, 1).template as<N * D>());
    }
    auto y = scratch.template rows<D>(S - seen);
    final_norm<C, B>(pass, y, mtp.hc_head, mtp.norm, last);
    auto result = scratch.template result<V>(logits.view());
    ops::linear(lane, result, y, weights.head);
    lane.deliver(logits.flat(), result.as_const().flat());
  });
  return logits;
}

}  // namespace ds4::inline v0_1
