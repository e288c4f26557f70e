// Tokens that keep an answer within a grammar of JSON.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <ds4/serve/byte_grammar.hpp>
#include <ds4/serve/json_grammar.hpp>
#include <ds4/serve/token_chooser.hpp>
#include <ds4/text/tokenizer.hpp>

namespace ds4::inline v0_1 {

/// The texts of a tokenizer's tokens in their order, special ones left out: those that begin alike
/// are checked once. Shared by all constraints.
class TokenTexts {
 public:
  /// Of all tokens but the special ones and those in `without`.
  TokenTexts(const Tokenizer& tokenizer, std::span<const std::int32_t> without) {
    for (std::size_t i = 0; i < tokenizer.vocab_size(); ++i) {
      const auto id = static_cast<std::int32_t>(i);
      const std::string& bytes = tokenizer.token_bytes(id);
      by_id_.emplace_back();
      if (bytes.empty() || tokenizer.is_special(id) || std::ranges::count(without, id) != 0)
        continue;
      by_id_.back() = bytes;
      sorted_.push_back({bytes, id, 0});
    }
    std::ranges::sort(sorted_, {}, [](const Entry& e) { return std::tie(e.text, e.id); });
    for (std::size_t i = 1; i < sorted_.size(); ++i) {
      const std::string_view before = sorted_[i - 1].text;
      sorted_[i].common = static_cast<std::size_t>(
          std::ranges::mismatch(before, sorted_[i].text).in1 - before.begin());
    }
  }

  /// A token's bytes; none if it may not come.
  std::string_view operator[](std::int32_t id) const {
    const auto at = static_cast<std::size_t>(id);
    return at < by_id_.size() ? std::string_view(by_id_[at]) : std::string_view();
  }

  /// Calls f(id) for each token that a text in this state may go on with.
  template <class F>
  void for_each_fitting(const GrammarState& state, F&& f) const {
    std::vector<GrammarState> states{state};  // behind each byte of what is looked at
    std::size_t failed = std::numeric_limits<std::size_t>::max();  // bytes that do not fit
    for (const Entry& entry : sorted_) {
      if (entry.common >= failed) continue;
      failed = std::numeric_limits<std::size_t>::max();
      states.resize(std::min(states.size(), entry.common + 1), state);
      while (states.size() <= entry.text.size()) {
        GrammarState next = states.back();
        if (!next.push(static_cast<unsigned char>(entry.text[states.size() - 1]))) {
          failed = states.size();
          break;
        }
        states.push_back(std::move(next));
      }
      if (failed > entry.text.size()) f(entry.id);
    }
  }

 private:
  struct Entry {
    std::string text;
    std::int32_t id;
    std::size_t common;  // bytes that the one in front begins with as well
  };
  std::vector<std::string> by_id_;
  std::vector<Entry> sorted_;
};

/// Keeps what comes behind the reasoning within a grammar, up to an end token.
class JsonConstraint final : public TokenConstraint {
 public:
  /// Where the turn begins with reasoning, `behind` is the token that ends it.
  JsonConstraint(std::shared_ptr<const TokenTexts> texts, const JsonGrammar& grammar,
                 std::vector<std::int32_t> ends, std::optional<std::int32_t> behind)
      : texts_(std::move(texts)),
        state_(grammar.grammar, grammar.root),
        ends_(std::move(ends)),
        behind_(behind) {}

  bool allows(std::int32_t id) const override {
    if (behind_) return true;
    if (std::ranges::count(ends_, id) != 0) return state_.is_complete();
    const std::string_view text = (*texts_)[id];
    GrammarState state = state_;
    return !text.empty() && std::ranges::all_of(text, [&](char c) {
      return state.push(static_cast<unsigned char>(c));
    });
  }
  void restrict(std::span<float> logits) const override {
    if (behind_) return;
    std::vector<bool> fits(logits.size());
    const auto allow = [&](std::int32_t id) {
      if (static_cast<std::size_t>(id) < fits.size()) fits[static_cast<std::size_t>(id)] = true;
    };
    if (state_.goes_on()) texts_->for_each_fitting(state_, allow);
    if (state_.is_complete()) std::ranges::for_each(ends_, allow);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (!fits[i]) logits[i] = -std::numeric_limits<float>::infinity();
    }
  }
  void accept(std::int32_t id) override {
    if (behind_) {
      if (id == *behind_) behind_.reset();
      return;
    }
    for (const char c : (*texts_)[id]) state_.push(static_cast<unsigned char>(c));
  }

 private:
  std::shared_ptr<const TokenTexts> texts_;
  GrammarState state_;
  std::vector<std::int32_t> ends_;
  std::optional<std::int32_t> behind_;
};

}  // namespace ds4::inline v0_1
