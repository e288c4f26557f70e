// The order in which a training run reads its tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/random_stream.hpp>

namespace ds4::inline v0_1 {

/// Packed documents cut into windows: a stream of tokens is read again and again, each time from
/// another offset and in another order, in windows of context + 1 tokens of which each but the last
/// predicts the next. Window number i is a function of the seed alone, so that a run can go on
/// where another stopped. Source: model.md 18.
class TokenWindows {
 public:
  /// Throws ds4::Error for fewer tokens than two windows take.
  TokenWindows(std::vector<std::int32_t> tokens, std::size_t context, std::uint64_t seed)
      : tokens_(std::move(tokens)), context_(context), seed_(seed) {
    if (tokens_.size() < 2 * context + 1) {
      throw Error("training text", "found " + std::to_string(tokens_.size()) +
                                       " tokens, expected at least " +
                                       std::to_string(2 * context + 1) + " for a context of " +
                                       std::to_string(context));
    }
  }

  /// Windows of one reading: whatever its offset, they fit.
  std::size_t per_epoch() const { return (tokens_.size() - 1) / context_ - 1; }

  /// Window number `number` of the run, context + 1 tokens.
  std::span<const std::int32_t> window(std::size_t number) {
    const std::size_t epoch = number / per_epoch();
    if (order_.empty() || epoch != epoch_) shuffle(epoch);
    return std::span(tokens_).subspan(offset_ + order_[number % per_epoch()] * context_,
                                      context_ + 1);
  }

 private:
  void shuffle(std::size_t epoch) {
    detail::RandomStream random(seed_, "epoch " + std::to_string(epoch));
    epoch_ = epoch;
    offset_ = random.next() % context_;
    order_.resize(per_epoch());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    for (std::size_t i = order_.size(); i > 1; --i) {
      std::swap(order_[i - 1], order_[random.next() % i]);
    }
  }

  std::vector<std::int32_t> tokens_;
  std::size_t context_;
  std::uint64_t seed_;
  std::size_t epoch_ = 0;
  std::size_t offset_ = 0;
  std::vector<std::size_t> order_;  // of the windows of this epoch
};

}  // namespace ds4::inline v0_1
