// The byte-level alphabet: how tokenizer.json spells bytes as printable characters.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace ds4::inline v0_1::detail {

/// The code point for each byte: printable Latin-1 characters stand for themselves, the other
/// bytes, in order, for U+0100 and on. All take at most two bytes in UTF-8.
inline constexpr std::array<unsigned, 256> kByteCodePoints = [] {
  std::array<unsigned, 256> points{};
  unsigned next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
    points[b] = printable ? b : next++;
  }
  return points;
}();

/// The byte for each code point; -1 where there is none.
inline constexpr std::array<int, 0x144> kCodePointBytes = [] {
  std::array<int, 0x144> bytes{};
  bytes.fill(-1);
  for (unsigned b = 0; b < 256; ++b) bytes[kByteCodePoints[b]] = static_cast<int>(b);
  return bytes;
}();

/// Appends the spelling of bytes to out.
inline void append_spelling(std::string& out, std::string_view bytes) {
  for (const char c : bytes) {
    const unsigned point = kByteCodePoints[static_cast<unsigned char>(c)];
    if (point < 0x80) {
      out += static_cast<char>(point);
    } else {
      out += static_cast<char>(0xC0 | point >> 6);
      out += static_cast<char>(0x80 | (point & 0x3F));
    }
  }
}

/// The bytes that spelling (valid UTF-8) stands for; one with characters outside the alphabet
/// stands for itself, as in the reference.
inline std::string unspell(std::string_view spelling) {
  std::string bytes;
  for (std::size_t i = 0; i < spelling.size(); ++i) {
    unsigned point = static_cast<unsigned char>(spelling[i]);
    if (point >= 0xE0) return std::string(spelling);
    if (point >= 0xC0) {
      point = (point & 0x1F) << 6 | (static_cast<unsigned char>(spelling[++i]) & 0x3F);
    }
    if (point >= kCodePointBytes.size() || kCodePointBytes[point] < 0) {
      return std::string(spelling);
    }
    bytes += static_cast<char>(kCodePointBytes[point]);
  }
  return bytes;
}

}  // namespace ds4::inline v0_1::detail
