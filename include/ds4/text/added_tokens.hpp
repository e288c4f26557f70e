// Finding added tokens in text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ds4::inline v0_1::detail {

/// A set of strings, searched for leftmost first and longest of those that begin there.
class AddedTokenFinder {
 public:
  using Entry = std::pair<std::string, std::int32_t>;  // content, not empty, and id

  AddedTokenFinder() = default;

  explicit AddedTokenFinder(std::vector<Entry> tokens) : tokens_(std::move(tokens)) {
    std::sort(tokens_.begin(), tokens_.end());
    for (const Entry& token : tokens_) begins_[byte(token.first, 0)] = true;
  }

  /// Cuts text: calls token(id) for each token found and gap(std::string_view) for each stretch,
  /// not empty, between them, in order.
  template <class Token, class Gap>
  void cut(std::string_view text, Token&& token, Gap&& gap) const {
    std::size_t done = 0;
    for (std::size_t i = 0; i < text.size();) {
      const Entry* found = begins_[byte(text, i)] ? longest(text.substr(i)) : nullptr;
      if (!found) {
        ++i;
        continue;
      }
      if (i > done) gap(text.substr(done, i - done));
      token(found->second);
      done = i += found->first.size();
    }
    if (done < text.size()) gap(text.substr(done));
  }

 private:
  static unsigned char byte(std::string_view text, std::size_t i) {
    return static_cast<unsigned char>(text[i]);
  }

  /// Narrows the sorted tokens to those that share one more byte with text, until none is left.
  const Entry* longest(std::string_view text) const {
    const Entry* best = nullptr;
    auto first = tokens_.begin();
    auto last = tokens_.end();
    for (std::size_t i = 0; i < text.size(); ++i) {
      const unsigned char wanted = byte(text, i);
      first = std::partition_point(first, last,
                                   [&](const Entry& t) { return byte(t.first, i) < wanted; });
      last = std::partition_point(first, last,
                                  [&](const Entry& t) { return byte(t.first, i) == wanted; });
      if (first == last) break;
      if (first->first.size() == i + 1) best = &*first++;  // a prefix sorts before the rest
    }
    return best;
  }

  std::vector<Entry> tokens_;          // sorted by bytes
  std::array<bool, 256> begins_ = {};  // bytes that some token begins with
};

}  // namespace ds4::inline v0_1::detail
