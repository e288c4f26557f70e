// Finding added tokens in text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ds4/core/utf8.hpp>

namespace ds4::inline v0_1::detail {

/// A token matched as it stands in the text, before anything else.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;  // not empty
  bool special = false;
  bool normalized = false;   // matched in normalised text, and is normalised itself
  bool single_word = false;  // not where a letter or the like stands beside it
  bool lstrip = false;       // takes the white space in front of it
  bool rstrip = false;       // and behind it
};

/// Whether a character (valid UTF-8) has Unicode's property White_Space.
inline bool is_white_space(std::string_view character) {
  if (character.size() == 1) {
    return character[0] == ' ' || (character[0] >= '\t' && character[0] <= '\r');
  }
  using namespace std::string_view_literals;
  constexpr std::array kOthers{"\u0085"sv, "\u00A0"sv, "\u1680"sv, "\u2028"sv,
                               "\u2029"sv, "\u202F"sv, "\u205F"sv, "\u3000"sv};
  return std::ranges::count(kOthers, character) != 0 ||
         (character >= "\u2000"sv && character <= "\u200A"sv);
}

/// The last character of text (valid UTF-8, not empty).
inline std::string_view last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return text.substr(begin);
}

/// Added tokens, searched for leftmost first and longest of those that begin there. Source:
/// AddedVocabulary of huggingface/tokenizers, whose every result this gives: what a token strips
/// may hold others, which count unless they strip too, and one that is no single word hides the
/// shorter ones inside of it.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;

  /// Of equal contents, as normalising makes them, the first one counts; which one does is open in
  /// the reference.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    std::unordered_set<std::string> contents;
    std::erase_if(tokens_, [&](const AddedToken& t) { return !contents.insert(t.content).second; });
    std::ranges::sort(tokens_, {}, &AddedToken::content);
    for (const AddedToken& token : tokens_) begins_[byte(token.content, 0)] = true;
  }

  /// Cuts text: calls token(id) for each token found and gap(std::string_view) for each stretch,
  /// not empty, between them, in order. is_word(character) says whether a character belongs to
  /// words.
  template <class Token, class Gap, class IsWord>
  void cut(std::string_view text, Token&& token, Gap&& gap, IsWord&& is_word) const {
    std::size_t done = 0;         // text before it is in a token or a gap
    std::size_t space_begin = 0;  // white space that was looked at last: no text is read again
    std::size_t space_end = 0;    // for each of many tokens in front of it
    for (std::size_t i = 0; i < text.size();) {
      const AddedToken* found = begins_[byte(text, i)] ? longest(text.substr(i)) : nullptr;
      if (!found) {
        ++i;
        continue;
      }
      std::size_t begin = i;
      std::size_t end = i += found->content.size();
      if (found->single_word &&
          ((begin > 0 && is_word(last_character(text.substr(0, begin)))) ||
           (end < text.size() && is_word(first_character(text.substr(end)))))) {
        continue;
      }
      if (found->lstrip) begin = std::max(begin, done);
      while (found->lstrip && begin > done) {
        const std::string_view before = last_character(text.substr(0, begin));
        if (!is_white_space(before)) break;
        begin -= before.size();
      }
      if (found->rstrip) {
        if (end < space_begin || end > space_end) {
          space_begin = space_end = end;
          while (space_end < text.size()) {
            const std::string_view behind = first_character(text.substr(space_end));
            if (!is_white_space(behind)) break;
            space_end += behind.size();
          }
        }
        end = space_end;
      }
      if (begin >= end) continue;  // the token before it has stripped it away
      if (begin > done) gap(text.substr(done, begin - done));
      token(found->id);
      done = end;
    }
    if (done < text.size()) gap(text.substr(done));
  }

 private:
  static unsigned char byte(std::string_view text, std::size_t i) {
    return static_cast<unsigned char>(text[i]);
  }
  static std::string_view first_character(std::string_view text) {
    return text.substr(0, utf8_prefix(text).length);
  }

  /// Narrows the sorted tokens to those that share one more byte with text, until none is left.
  const AddedToken* longest(std::string_view text) const {
    const AddedToken* best = nullptr;
    auto first = tokens_.begin();
    auto last = tokens_.end();
    for (std::size_t i = 0; i < text.size(); ++i) {
      const unsigned char wanted = byte(text, i);
      first = std::partition_point(
          first, last, [&](const AddedToken& t) { return byte(t.content, i) < wanted; });
      last = std::partition_point(
          first, last, [&](const AddedToken& t) { return byte(t.content, i) == wanted; });
      if (first == last) break;
      if (first->content.size() == i + 1) best = &*first++;  // a prefix sorts before the rest
    }
    return best;
  }

  std::vector<AddedToken> tokens_;     // sorted by bytes
  std::array<bool, 256> begins_ = {};  // bytes that some token begins with
};

}  // namespace ds4::inline v0_1::detail
