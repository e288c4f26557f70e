// The sampler: from one row of logits to the next token id.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// Throws Error unless logits has a finite value and no NaN or +infinity. Returns the index of the
/// greatest, the lowest of equals.
inline std::size_t checked_argmax(std::span<const float> logits) {
  if (logits.empty() || logits.size() > std::numeric_limits<std::int32_t>::max()) {
    throw Error("logits",
                "expected from 1 to 2^31 - 1 values, found " + std::to_string(logits.size()));
  }
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < std::numeric_limits<float>::infinity())) {  // catches NaN as well
      throw Error("logits", "expected finite values or -inf, found " + std::to_string(logits[i]) +
                                " at index " + std::to_string(i));
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (std::isinf(logits[best])) {
    throw Error("logits",
                "expected a finite value, found -inf in all " + std::to_string(logits.size()));
  }
  return best;
}

}  // namespace detail

/// The index of the greatest of logits [V], the lowest of equals. Throws Error if logits is empty,
/// has a NaN or +infinity, or no finite value.
inline std::int32_t argmax(std::span<const float> logits) {
  return static_cast<std::int32_t>(detail::checked_argmax(logits));
}

/// How to choose from the distribution softmax(logits / temperature).
struct SamplerOptions {
  float temperature = 1.0f;  ///< 0: always the most likely token
  float top_p = 1.0f;        ///< keep the fewest most likely tokens whose mass reaches it; (0, 1]
  std::int32_t top_k = 0;    ///< keep the most likely top_k tokens, before top_p; 0: all
  std::uint64_t seed = 0;    ///< same seed and logits, same tokens, whatever the compiler
  /// Ids that count as if their logits were -inf, e.g. Tokenizer::ids_without_token; those that the
  /// logits do not have are ignored.
  std::vector<std::int32_t> never = {};
};

/// Draws token ids. A value: a copy continues with the same random numbers as the original. Each
/// draw at a temperature above 0 takes one random number, a draft that is rejected one more; greedy
/// choice takes none.
class Sampler {
 public:
  /// Throws Error that names the first option out of range.
  explicit Sampler(SamplerOptions options = {})
      : options_(std::move(options)), random_(options_.seed) {
    if (!(options_.temperature >= 0 && std::isfinite(options_.temperature))) {
      refuse("temperature", "a finite number, at least 0", std::to_string(options_.temperature));
    }
    if (!(options_.top_p > 0 && options_.top_p <= 1)) {
      refuse("top_p", "a number above 0, at most 1", std::to_string(options_.top_p));
    }
    if (options_.top_k < 0) refuse("top_k", "at least 0", std::to_string(options_.top_k));
  }

  /// As given to the constructor.
  const SamplerOptions& options() const { return options_; }

  /// The next token for logits [V]. Probabilities are in double; among equal logits the lower id
  /// counts as the more likely; -inf is never drawn. O(V), and O(log V) more for each token that
  /// top_p keeps. Throws Error like argmax().
  std::int32_t operator()(std::span<const float> logits) {
    logits = allowed(logits);
    const std::size_t best = detail::checked_argmax(logits);
    if (options_.temperature == 0) return static_cast<std::int32_t>(best);
    weigh(logits, best);
    return draw();
  }

  /// A draft from the logits [V] of another model, and the probabilities [V] that it was drawn with
  /// (none at temperature 0), for `judge`.
  std::int32_t draft(std::span<const float> logits, std::vector<double>& probabilities) {
    const std::int32_t id = (*this)(logits);
    probabilities.clear();
    if (options_.temperature == 0) return id;
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    probabilities.reserve(weights_.size());
    for (const double weight : weights_) probabilities.push_back(weight / total);
    return id;
  }

  /// The next token for logits [V] where `drafted` was drawn with the probabilities q [V]: the
  /// draft with probability min(1, p(drafted) / q(drafted)), and otherwise another one, drawn in
  /// proportion to max(p - q, 0). So tokens have the distribution p that operator() draws from,
  /// whatever q is. Throws Error like argmax(), and if there are not V probabilities or the draft
  /// is none that they allow. Source: model.md 9.3; Leviathan et al., arXiv
  /// 2211.17192, theorem 3.5.
  std::int32_t judge(std::span<const float> logits, std::int32_t drafted,
                     std::span<const double> q) {
    logits = allowed(logits);
    const std::size_t best = detail::checked_argmax(logits);
    if (options_.temperature == 0) return static_cast<std::int32_t>(best);
    const auto at = static_cast<std::size_t>(drafted);
    if (q.size() != logits.size() || at >= q.size() || !(q[at] > 0.0)) {
      throw Error("draft", "expected one of " + std::to_string(logits.size()) +
                               " tokens with a probability above 0, found " +
                               std::to_string(drafted) + " of " + std::to_string(q.size()));
    }
    weigh(logits, best);
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    if (uniform() * q[at] < weights_[at] / total) return drafted;
    double left = 0.0;
    for (std::size_t i = 0; i < q.size(); ++i) {
      weights_[i] = std::max(weights_[i] / total - q[i], 0.0);
      left += weights_[i];
    }
    return left > 0.0 ? draw() : drafted;  // p is q but for rounding
  }

 private:
  /// The logits, or a copy without those that are never drawn, whatever they are.
  std::span<const float> allowed(std::span<const float> logits) {
    if (options_.never.empty()) return logits;
    allowed_.assign(logits.begin(), logits.end());
    for (const std::int32_t id : options_.never) {
      const auto index = static_cast<std::size_t>(id);  // a negative one is huge
      if (index < allowed_.size()) allowed_[index] = -std::numeric_limits<float>::infinity();
    }
    return allowed_;
  }

  /// Sets the weights to exp((logits - largest) / temperature), 0 outside top_k and top_p.
  void weigh(std::span<const float> logits, std::size_t best) {
    weights_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = std::exp((double{logits[i]} - logits[best]) / options_.temperature);
    }
    filter(logits);
  }

  [[noreturn]] static void refuse(const char* option, const char* expected,
                                  const std::string& found) {
    throw Error(option, "expected " + std::string(expected) + ", found " + found);
  }

  /// Sets the weights of tokens outside top_k and top_p to 0.
  void filter(std::span<const float> logits) {
    const std::size_t size = logits.size();
    const bool limit_k = options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < size;
    if (!limit_k && options_.top_p == 1) return;

    // By logit, not by weight: distinct logits can round to one weight.
    const auto likelier = [&](std::int32_t a, std::int32_t b) {
      const float x = logits[static_cast<std::size_t>(a)];
      const float y = logits[static_cast<std::size_t>(b)];
      return x != y ? x > y : a < b;
    };
    order_.resize(size);
    std::iota(order_.begin(), order_.end(), 0);
    auto end = order_.end();  // what is kept is before it
    if (limit_k) {
      end = order_.begin() + options_.top_k;
      std::nth_element(order_.begin(), end - 1, order_.end(), likelier);
      drop(end, order_.end());
    }
    if (options_.top_p == 1) return;

    // A heap gives up the likeliest tokens one by one: the others never get sorted.
    const auto less_likely = [&](std::int32_t a, std::int32_t b) { return likelier(b, a); };
    const double wanted = options_.top_p * std::accumulate(weights_.begin(), weights_.end(), 0.0);
    std::make_heap(order_.begin(), end, less_likely);
    double mass = 0;
    do {
      std::pop_heap(order_.begin(), end, less_likely);
      mass += weights_[static_cast<std::size_t>(*--end)];
    } while (mass < wanted && end != order_.begin());
    drop(order_.begin(), end);
  }

  void drop(std::vector<std::int32_t>::iterator first, std::vector<std::int32_t>::iterator last) {
    for (; first != last; ++first) weights_[static_cast<std::size_t>(*first)] = 0;
  }

  /// An index with a probability proportional to its weight. Always walks in order of ids, so that
  /// the result does not depend on how a standard library orders what it selects; only the last bit
  /// of std::exp is left to the platform.
  std::int32_t draw() {
    const double target = uniform() * std::accumulate(weights_.begin(), weights_.end(), 0.0);
    double mass = 0;
    std::size_t chosen = 0;
    for (std::size_t i = 0; i < weights_.size() && mass <= target; ++i) {
      mass += weights_[i];
      if (weights_[i] > 0) chosen = i;
    }
    return static_cast<std::int32_t>(chosen);
  }

  /// In [0, 1). Not std::uniform_real_distribution, whose result the standard leaves open.
  double uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<float> allowed_;       // [V], working memory
  std::vector<double> weights_;      // [V], working memory
  std::vector<std::int32_t> order_;  // [V], working memory
};

}  // namespace ds4::inline v0_1
