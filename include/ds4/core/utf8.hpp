// UTF-8: where characters end, and repair of ill-formed text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ds4::inline v0_1::detail {

/// How a text that is to be read as UTF-8 begins.
struct Utf8Prefix {
  std::size_t length = 0;   ///< bytes of the character, or of the ill-formed or cut-off sequence
  bool valid = false;       ///< the bytes are a whole, well-formed character
  bool unfinished = false;  ///< not valid, but the text ends where more bytes could make it so
};

/// The first character of text (not empty). An ill-formed sequence has the length of its "maximal
/// subpart" (Unicode, section 3.9), the unit that is replaced by one U+FFFD.
inline Utf8Prefix utf8_prefix(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const std::size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and code points above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < need; ++i) {
    if (i == text.size()) return {i, false, true};
    const bool fits = i == 1 ? byte(i) >= low && byte(i) <= high : (byte(i) & 0xC0) == 0x80;
    if (!fits) return {i, false, false};
  }
  return {need, true, false};
}

/// Number of leading bytes of text that are well-formed UTF-8.
inline std::size_t utf8_valid_length(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const Utf8Prefix next = utf8_prefix(text.substr(i));
    if (!next.valid) break;
    i += next.length;
  }
  return i;
}

/// Appends bytes to out, each ill-formed sequence as one U+FFFD. A sequence that the end of bytes
/// cuts off is replaced too, or, with hold_unfinished, left out. Returns how many bytes were used.
inline std::size_t append_utf8(std::string& out, std::string_view bytes,
                               bool hold_unfinished = false) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    const std::size_t valid = utf8_valid_length(bytes.substr(i));
    out.append(bytes, i, valid);
    i += valid;
    if (i == bytes.size()) break;
    const Utf8Prefix bad = utf8_prefix(bytes.substr(i));
    if (bad.unfinished && hold_unfinished) break;
    out += "\xEF\xBF\xBD";
    i += bad.length;
  }
  return i;
}

}  // namespace ds4::inline v0_1::detail
