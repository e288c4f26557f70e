// Random damage to bytes, of the kinds that damaged and hostile files show.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

namespace ds4::test {

namespace detail {

/// One edit. The same for the same state of `random` on every machine.
inline void edit(std::string& text, std::string_view other, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  constexpr std::string_view kPieces[] = {"0",     "-1",   "18446744073709551615",
                                          "1e30",  "{",    "}",
                                          "[",     "]",    "\"",
                                          ",",     "null", "[]",
                                          "\xff",  "\n",   "\\u0000",
                                          "F64",   "{}",   "[[[",
                                          ":",     "4.5",  "9",
                                          "..",    "/",    "true",
                                          "\"\"",  " ",    "\xed\xa0\x80",
                                          "\\",    "(",    ")",
                                          "*",     "+",    "{1,9}",
                                          "\\ud8", "|",    "\xe2\x80\xae",
                                          "?",     "\x1b", "\xf0\x9f"};
  constexpr std::string_view kNumbers[] = {
      "0",          "-0",         "-1",         "1e400",
      "1e308",      "5e-324",     "0.5",        "1.0",
      "255",        "65536",      "1048575",    "1048576",
      "2147483647", "2147483648", "4294967295", "9223372036854775807",
      "128",        "7",          "3",          "9223372036854775808",
      "1e19",       "-1e400",     "4294967296", "18446744073709551615",
      "2",          "1",          "64",         "18446744073709551616"};
  const std::size_t at = below(text.size());
  const std::size_t length = below(std::size_t{1} << below(6));
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  switch (below(16)) {
    case 0:
    case 1:
      if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, std::string(text, below(text.size()), length));
      break;
    case 4:
    case 5:
      text.insert(at, kPieces[below(std::size(kPieces))]);
      break;
    case 6:
      text.replace(at, length, kPieces[below(std::size(kPieces))]);
      break;
    case 7:
      if (below(4) == 0) text.resize(at);
      break;
    case 8:
    case 9: {  // the next number
      const auto begin =
          std::find_if(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), is_digit);
      const auto end = std::find_if_not(begin, text.end(), is_digit);
      text.replace(begin, end, kNumbers[below(std::size(kNumbers))]);
      break;
    }
    case 10: {  // a length or another binary number, often the first
      constexpr std::array<std::uint64_t, 10> kValues{0,
                                                      1,
                                                      0x7f,
                                                      0xff,
                                                      1 << 20,
                                                      0x7fffffff,
                                                      0xffffffffff,
                                                      0x7fffffffffffffff,
                                                      1 << 30,
                                                      ~std::uint64_t{0}};
      const std::uint64_t value = kValues[below(kValues.size())] + below(3);
      const std::size_t begin = below(2) == 0 ? 0 : at;
      const std::size_t size = std::min<std::size_t>(std::size_t{1} << below(4), text.size());
      for (std::size_t i = 0; i < size && begin + i < text.size(); ++i) {
        text[begin + i] = static_cast<char>(value >> (8 * i) & 0xff);
      }
      break;
    }
    case 11: {  // nesting, closed or not
      if (below(3) != 0) break;
      const std::size_t depth = below(8) == 0 ? 10'000 : below(100);
      const bool array = below(2) == 0;
      std::string nest;
      for (std::size_t i = 0; i < depth; ++i) nest += array ? "[" : "{\"a\":";
      const std::string close(below(2) == 0 ? 0 : depth, array ? ']' : '}');
      text.insert(at, nest + (array || close.empty() ? "" : "1") + close);
      break;
    }
    case 12: {  // a key or a list's element once more
      const std::size_t begin = std::min(text.find('"', at), text.size());
      const std::size_t end = std::min(text.find(',', begin), text.size());
      text.insert(begin, std::string(text, begin, end - begin) + ",");
      break;
    }
    case 13: {
      std::string bytes(below(16), '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      text.insert(at, bytes);
      break;
    }
    default:  // one file's beginning, another's end
      if (below(4) == 0) {
        text.replace(at, text.npos, std::string(other.substr(below(other.size()))));
      } else {
        text.insert(at, other.substr(below(other.size()), length));
      }
  }
}

}  // namespace detail

/// text with up to three random edits; some bring in pieces of other. The same for the same state
/// of `random` on every machine.
inline std::string mutated(std::string text, std::mt19937& random, std::string_view other = {}) {
  constexpr std::size_t kMost = 1 << 16;  // bytes: what a fuzzer's inputs have
  for (std::size_t edits = 1 + random() % 3; edits > 0; --edits) detail::edit(text, other, random);
  if (text.size() > kMost) text.resize(kMost);
  return text;
}

}  // namespace ds4::test
