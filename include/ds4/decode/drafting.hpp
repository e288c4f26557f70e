// Decoding with drafts: the multi-token-prediction layer guesses, one pass of the model verifies.
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

/// One step of decoding: takes in `id`, the token that was chosen last, and returns the tokens that
/// follow it, at least one and at most `limit`. All but the last are taken in as well; that one is
/// for the next step. The draft is as long as `length` says, as far as the context, the limit and
/// the state's rollback_limit allow; the state has to keep drafts (State::keep_drafts).
///
/// At temperature 0 the tokens are those that decoding one by one gives; above, they have the same
/// distribution (Sampler::judge). What was drafted in vain leaves nothing in the state. Throws as
/// Model::prefill and Sampler do. Source: model.md 9.2.
template <ModelConfig C, Backend B>
std::vector<std::int32_t> decode_with_drafts(
    Model<C, B>& model, State<C, B>& state, std::int32_t id, Sampler& sampler, DraftLength& length,
    std::size_t limit = std::numeric_limits<std::size_t>::max()) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::size_t wanted =
      std::min({length.next(), limit - std::min<std::size_t>(limit, 1), state.rollback_limit()});
  std::vector<std::vector<double>> probabilities;  // that each draft was drawn with
  std::vector<std::int32_t> pass{id};
  if (wanted > 0) {
    const auto drafts = model.draft(state, id, wanted, [&](std::span<const float> logits) {
      return sampler.draft(logits, probabilities.emplace_back());
    });
    pass.insert(pass.end(), drafts.begin(), drafts.end());
  }
  const std::span<const std::int32_t> drafts = std::span(pass).subspan(1);

  const auto logits = model.forward(state, pass);
  std::vector<std::int32_t> chosen;
  std::size_t accepted = 0;
  for (; accepted < drafts.size(); ++accepted) {
    const std::int32_t drafted = drafts[accepted];
    chosen.push_back(sampler.judge(logits[accepted].flat(), drafted, probabilities[accepted]));
    if (chosen.back() != drafted) break;
  }
  if (accepted == drafts.size()) chosen.push_back(sampler(logits[accepted].flat()));
  state.rollback(drafts.size() - accepted);
  length.report(
      {drafts.size(), accepted, std::chrono::duration<double>(Clock::now() - start).count()});
  return chosen;
}

}  // namespace ds4::inline v0_1
