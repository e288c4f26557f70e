// Text of error messages: file content made printable, and many problems as one error.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <ds4/core/error.hpp>
#include <ds4/core/utf8.hpp>

namespace ds4::inline v0_1::detail {

/// True for a well-formed UTF-8 character that can neither break a line nor steer a terminal: no
/// control character, U+2028, U+2029 or bidirectional control.
inline bool is_plain(std::string_view character) {
  if (character.size() == 1) return character[0] >= ' ' && character[0] != '\x7F';
  const auto within = [&](std::string_view first, std::string_view last) {
    return character >= first && character <= last;
  };
  return !within("\xC2\x80", "\xC2\x9F") && !within("\xE2\x80\x8E", "\xE2\x80\x8F") &&
         !within("\xE2\x80\xA8", "\xE2\x80\xAE") && !within("\xE2\x81\xA6", "\xE2\x81\xA9");
}

/// Appends text to out, bytes of ill-formed UTF-8 and of characters that are not plain as \xNN.
inline void append_printable(std::string& out, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  while (!text.empty()) {
    const Utf8Prefix next = utf8_prefix(text);
    const std::string_view character = text.substr(0, next.length);
    if (next.valid && is_plain(character)) {
      out += character;
    } else {
      for (const char c : character) {
        const auto byte = static_cast<unsigned char>(c);
        out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15u]};
      }
    }
    text.remove_prefix(next.length);
  }
}

/// text for a one-line message: escaped, and if longer than limit bytes shortened in the middle.
inline std::string printable(std::string_view text, std::size_t limit = 120) {
  std::string out;
  if (text.size() <= limit) {
    append_printable(out, text);
  } else {
    append_printable(out, text.substr(0, limit / 2));
    out += "...";
    append_printable(out, text.substr(text.size() - limit / 2));
  }
  return out;
}

/// printable() in double quotes.
inline std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

/// Collects what is wrong with one file, to be reported at once.
class Problems {
 public:
  static constexpr std::size_t kShown = 20;
  /// Bytes of text after which no more are shown: names that have to be escaped are long.
  static constexpr std::size_t kMaxText = 2000;

  void add(std::string_view problem) {
    if (hidden_ > 0 || shown_ == kShown || text_.size() > kMaxText) {
      ++hidden_;
      return;
    }
    ++shown_;
    append_text(problem);
  }
  /// Adds those of others, in their order.
  void append(const Problems& others) {
    if (others.empty()) return;
    append_text(others.text_);
    shown_ += others.shown_;
    hidden_ += others.hidden_;
  }
  bool empty() const { return shown_ == 0; }

  /// Throws one ds4::Error with the first problems and the number of the others, if any.
  void throw_if_any(std::string_view where) const {
    if (empty()) return;
    if (hidden_ == 0) throw Error(ErrorKind::file, where, text_);
    throw Error(ErrorKind::file, where, text_ + "; and " + std::to_string(hidden_) + " more");
  }

 private:
  void append_text(std::string_view text) {
    if (!text_.empty()) text_ += "; ";
    text_ += text;
  }

  std::size_t shown_ = 0;
  std::size_t hidden_ = 0;
  std::string text_;
};

}  // namespace ds4::inline v0_1::detail
