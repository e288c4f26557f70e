// How the next token of a served sequence is chosen.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/decode/sampler.hpp>

namespace ds4::inline v0_1 {

/// What a sequence may go on with, token by token. A value behind a pointer: each sequence has one
/// of its own.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// Whether a token may come next.
  virtual bool allows(std::int32_t id) const = 0;
  /// Sets the logits [V] of the tokens that may not come next to -inf; one at least may.
  virtual void restrict(std::span<float> logits) const = 0;
  /// The token that was chosen.
  virtual void accept(std::int32_t id) = 0;
};

/// How to choose tokens: a sampler's options, and what changes the logits in front of it.
struct ChoiceOptions {
  SamplerOptions sampler = {};  ///< see there
  /// Tokens less likely than this share of the likeliest one's probability are left out; [0, 1].
  float min_p = 0.0f;
  ///@{
  /// Taken off the logits of tokens that were generated before: once, and for each time.
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  ///@}
  std::vector<std::pair<std::int32_t, float>> bias = {};  ///< added to the logits of these ids
};

/// A token, and how likely it was.
struct TokenLogprob {
  ///@{
  /// Natural logarithm of softmax(logits)[id].
  std::int32_t id = 0;
  float logprob = 0.0f;
  ///@}
};

/// The log-probability of one token under logits [V], and of the `most` likeliest ones, the
/// likeliest first, a tie to the lower id.
inline std::pair<TokenLogprob, std::vector<TokenLogprob>> log_probabilities(
    std::span<const float> logits, std::int32_t id, std::size_t most) {
  const float largest = logits[detail::checked_argmax(logits)];
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  const double log_sum = std::log(sum) + largest;
  const auto of = [&](std::int32_t token) {
    const double logit = logits[static_cast<std::size_t>(token)];
    return TokenLogprob{token, static_cast<float>(logit - log_sum)};
  };
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  most = std::min(most, order.size());
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(most);
  std::partial_sort(order.begin(), end, order.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  std::vector<TokenLogprob> likeliest;
  for (auto at = order.begin(); at != end; ++at) likeliest.push_back(of(*at));
  return {of(id), std::move(likeliest)};
}

/// Chooses the tokens of one sequence.
class TokenChooser {
 public:
  /// Throws Error that names the first option out of range. The constraint may be null.
  TokenChooser(ChoiceOptions options, std::shared_ptr<TokenConstraint> constraint)
      : options_(std::move(options)),
        sampler_(options_.sampler),
        constraint_(std::move(constraint)) {
    if (!(options_.min_p >= 0 && options_.min_p <= 1)) {
      throw Error("min_p",
                  "expected a number from 0 to 1, found " + std::to_string(options_.min_p));
    }
  }

  /// The next token behind logits [V], which are as the model made them.
  std::int32_t operator()(std::span<const float> logits) {
    std::int32_t id = 0;
    if (is_plain()) {
      id = sampler_(logits);
    } else {
      changed_.assign(logits.begin(), logits.end());
      change(changed_);
      id = sampler_(changed_);
      // Drawing again from the others gives each its share of what is allowed, and is seldom
      // needed.
      if (constraint_ && !constraint_->allows(id)) {
        constraint_->restrict(changed_);
        id = sampler_(changed_);
      }
    }
    if (penalises()) ++seen_[id];
    if (constraint_) constraint_->accept(id);
    return id;
  }

  /// Whether the sampler alone chooses; drafts can then be judged by it.
  bool is_plain() const {
    return !constraint_ && !penalises() && options_.min_p == 0 && options_.bias.empty();
  }
  /// For drafts.
  Sampler& sampler() { return sampler_; }

 private:
  bool penalises() const {
    return options_.presence_penalty != 0 || options_.frequency_penalty != 0;
  }
  void change(std::span<float> logits) const {
    const auto at = [&](std::int32_t id) -> float* {
      const auto index = static_cast<std::size_t>(id);
      return index < logits.size() ? &logits[index] : nullptr;
    };
    for (const auto& [id, value] : options_.bias) {
      if (float* const logit = at(id)) *logit += value;
    }
    for (const auto& [id, times] : seen_) {
      if (float* const logit = at(id)) {
        *logit -=
            options_.presence_penalty + options_.frequency_penalty * static_cast<float>(times);
      }
    }
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    for (const std::int32_t id : options_.sampler.never) {
      if (float* const logit = at(id)) *logit = kNever;
    }
    if (options_.min_p > 0 && options_.sampler.temperature > 0) {
      const float least = *std::ranges::max_element(logits) +
                          options_.sampler.temperature * std::log(options_.min_p);
      for (float& logit : logits) {
        if (logit < least) logit = kNever;
      }
    }
  }

  ChoiceOptions options_;
  Sampler sampler_;
  std::shared_ptr<TokenConstraint> constraint_;
  std::unordered_map<std::int32_t, std::size_t> seen_;  // how often each was chosen
  std::vector<float> changed_;                          // [V], working memory
};

}  // namespace ds4::inline v0_1
