// Decoding with drafts: the drafter guesses, one pass of the model verifies.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/model.hpp>

namespace ds4::inline v0_1 {

/// One sequence that decode_with_drafts() goes on with: `id`, the token that was chosen last, is
/// taken in, and at most `limit` tokens are returned. Sampler and length are the sequence's own.
template <ModelConfig C, Backend B>
struct DraftedSequence {
  ///@{
  /// See above.
  State<C, B>* state;
  std::int32_t id;
  Sampler* sampler;
  DraftLength* length;
  std::size_t limit = std::numeric_limits<std::size_t>::max();
  ///@}
};

/// One step of decoding for a batch: takes in the `id` of each sequence, and returns the tokens
/// that follow it, at least one and at most `limit`. All but the last are taken in as well; that
/// one is for the next step. A draft is as long as `length` says, as far as the context, the limit
/// and the state's rollback_limit allow; the states have to keep drafts (State::keep_drafts). All
/// drafts are made together, and one pass of the model verifies them.
///
/// At temperature 0 the tokens are those that decoding one by one gives; above, they have the same
/// distribution (Sampler::judge). What was drafted in vain leaves nothing in the states. Throws as
/// Model::prefill and Sampler do. Source: model.md 9.2 and 19.3.
template <ModelConfig C, Backend B>
std::vector<std::vector<std::int32_t>> decode_with_drafts(
    Model<C, B>& model, std::span<const DraftedSequence<C, B>> batch) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::size_t count = batch.size();
  std::vector<typename Model<C, B>::DraftRequest> requests;
  std::vector<std::size_t> wished;  // sequences with a draft
  for (std::size_t i = 0; i < count; ++i) {
    const DraftedSequence<C, B>& of = batch[i];
    const std::size_t wanted =
        std::min({of.length->next(model.longest_draft()),
                  of.limit - std::min<std::size_t>(of.limit, 1), of.state->rollback_limit()});
    if (wanted == 0) continue;
    requests.push_back({of.state, of.id, wanted});
    wished.push_back(i);
  }
  std::vector<std::vector<std::int32_t>> passes(count);
  for (std::size_t i = 0; i < count; ++i) passes[i] = {batch[i].id};
  std::vector<std::vector<std::vector<double>>> probabilities(
      count);  // that drafts were drawn with
  if (!requests.empty()) {
    const auto drafts = model.draft(
        std::span<const typename Model<C, B>::DraftRequest>(requests),
        [&](std::size_t j, std::span<const float> logits) {
          const std::size_t i = wished[j];
          return batch[i].sampler->draft(logits, probabilities[i].emplace_back());
        },
        [&](std::size_t j, float confidence) {
          const std::size_t i = wished[j];
          return batch[i].length->goes_on(probabilities[i].size(), confidence);
        });
    for (std::size_t j = 0; j < wished.size(); ++j) {
      passes[wished[j]].insert(passes[wished[j]].end(), drafts[j].begin(), drafts[j].end());
    }
  }

  std::vector<typename Model<C, B>::Sequence> sequences;
  for (std::size_t i = 0; i < count; ++i) sequences.push_back({batch[i].state, passes[i]});
  const auto logits = model.forward(sequences, LogitsOf::all);
  std::vector<std::vector<std::int32_t>> chosen(count);
  std::vector<DraftStep> steps;
  std::size_t row = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::span<const std::int32_t> drafts = std::span(passes[i]).subspan(1);
    Sampler& sampler = *batch[i].sampler;
    std::size_t accepted = 0;
    for (; accepted < drafts.size(); ++accepted) {
      const std::int32_t drafted = drafts[accepted];
      chosen[i].push_back(
          sampler.judge(logits[row + accepted].flat(), drafted, probabilities[i][accepted]));
      if (chosen[i].back() != drafted) break;
    }
    if (accepted == drafts.size()) chosen[i].push_back(sampler(logits[row + accepted].flat()));
    row += passes[i].size();
    batch[i].state->rollback(drafts.size() - accepted);
    steps.push_back({drafts.size(), accepted});
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  for (std::size_t i = 0; i < count; ++i) {
    steps[i].seconds = seconds;
    batch[i].length->report(steps[i]);
  }
  return chosen;
}

/// The same for one sequence.
template <ModelConfig C, Backend B>
std::vector<std::int32_t> decode_with_drafts(
    Model<C, B>& model, State<C, B>& state, std::int32_t id, Sampler& sampler, DraftLength& length,
    std::size_t limit = std::numeric_limits<std::size_t>::max()) {
  const DraftedSequence<C, B> sequence{&state, id, &sampler, &length, limit};
  return decode_with_drafts(model, std::span(&sequence, 1))[0];
}

}  // namespace ds4::inline v0_1
