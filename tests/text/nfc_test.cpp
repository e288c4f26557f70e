// Tests of ds4/text/nfc.hpp against Python's unicodedata: scripts/nfc-tables says how the checksums
// are made.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/utf8.hpp>
#include <ds4/text/nfc.hpp>
#include <ds4/text/nfc_tables.hpp>

namespace {

using ds4::detail::nfc;

std::string utf8(char32_t c) {
  std::string out;
  const auto byte = [&](char32_t bits) { out += static_cast<char>(bits); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else {
    byte(c < 0x10000 ? 0xE0 | c >> 12 : 0xF0 | c >> 18);
    if (c >= 0x10000) byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
  return out;
}

/// FNV-1a over lines.
class Checksum {
 public:
  void add(std::string_view text) {
    for (const char c : text) step(c);
    step('\n');
  }
  std::uint64_t value() const { return value_; }

 private:
  void step(char c) { value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001B3u; }
  std::uint64_t value_ = 0xCBF29CE484222325u;
};

/// One step of the generator that both sides draw from.
std::uint64_t next(std::uint64_t& random) {
  return random = random * 6364136223846793005u + 1442695040888963407u;
}

}  // namespace

TEST_CASE("nfc: composition, order of marks, exclusions and Hangul") {
  struct Case {
    const char* text;
    const char* expected;
  };
  for (const Case& c : {
           Case{"", ""},
           Case{"plain", "plain"},
           Case{"e\u0301", "\u00E9"},
           Case{"\u00E9", "\u00E9"},
           Case{"\u0301e", "\u0301e"},             // nothing in front of it
           Case{"a\u0323\u0307", "\u1EA1\u0307"},  // in order
           Case{"a\u0307\u0323", "\u1EA1\u0307"},  // put in order
           Case{"\u1E9B\u0323", "\u1E9B\u0323"},   // blocked: no such character
           Case{"\u1E0B\u0323", "\u1E0D\u0307"},   // taken apart first
           Case{"a\u0315\u0300\u05AE\u0301b", "\u00E0\u05AE\u0301\u0315b"},  // equal classes: order
           Case{"a\u0301\u0301", "\u00E1\u0301"},
           Case{"\u212B", "\u00C5"},                    // a character for another
           Case{"\u2126\u0344", "\u03A9\u0308\u0301"},  // excluded: never comes back
           Case{"\u0958", "\u0915\u093C"},              // excluded script
           Case{"\u2ADC", "\u2ADD\u0338"},
           Case{"\uFB1D", "\u05D9\u05B4"},
           Case{"\u09C7\u09BE", "\u09CB"},                    // two starters
           Case{"\u09C7\u09BC\u09BE", "\u09C7\u09BC\u09BE"},  // blocked by a mark
           Case{"\u1100\u1161\u11A8", "\uAC01"},
           Case{"\uAC00\u11A8", "\uAC01"},
           Case{"\uAC01\u11A8", "\uAC01\u11A8"},  // has its final consonant
           Case{"\u1100\u1161\u1161", "\uAC00\u1161"},
           Case{"\uAC00\u11A7", "\uAC00\u11A7"},  // in front of the final consonants
           Case{"\u1100\u0301\u1161", "\u1100\u0301\u1161"},
           Case{"\U0001D15E", "\U0001D157\U0001D165"},
           Case{"\U0002F800", "\u4E3D"},
           Case{"\U00011131\U00011127", "\U0001112E"},
           Case{"\u1F80", "\u1F80"},  // apart in three steps
           Case{"\u03B1\u0345\u0313", "\u1F80"},
       }) {
    CAPTURE(c.text);
    CHECK(nfc(c.text) == c.expected);
    CHECK(nfc(c.expected) == c.expected);
    CHECK(nfc("x" + std::string(c.text) + "y") == "x" + std::string(c.expected) + "y");
  }
}

TEST_CASE("nfc: every character, alone and among marks") {
  Checksum sum;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    sum.add(nfc(utf8(c)));
    sum.add(nfc("e" + utf8(c) + "\u0323\u0301"));
  }
  CHECK(sum.value() == 0x32C1084DB9483F97u);
}

TEST_CASE("nfc: mixtures of all that takes part in an equivalence") {
  std::vector<char32_t> alphabet;
  for (const auto& entry : ds4::detail::kDecompositions) {
    alphabet.insert(alphabet.end(), {entry.character, entry.first});
    if (entry.second != 0) alphabet.push_back(entry.second);
  }
  const auto add_all = [&](char32_t first, char32_t end, char32_t step) {
    for (char32_t c = first; c < end; c += step) alphabet.push_back(c);
  };
  for (const auto& range : ds4::detail::kCombiningRanges) add_all(range.first, range.last + 1, 1);
  add_all(0x1100, 0x1200, 1);
  add_all(0xAC00, 0xAC00 + 11172, 97);
  add_all(0x20, 0x7F, 1);
  std::ranges::sort(alphabet);
  alphabet.erase(std::ranges::unique(alphabet).begin(), alphabet.end());
  REQUIRE(alphabet.size() == 4622);

  Checksum sum;
  std::uint64_t random = 1;
  bool idempotent = true;
  for (int i = 0; i < 50000; ++i) {
    std::string text;
    for (std::uint64_t n = (next(random) >> 40) % 12 + 1; n > 0; --n) {
      text += utf8(alphabet[(next(random) >> 33) % alphabet.size()]);
    }
    const std::string normal = nfc(text);
    idempotent = idempotent && nfc(normal) == normal;
    sum.add(normal);
  }
  CHECK(sum.value() == 0xA242C300591E8F90u);
  CHECK(idempotent);
}

TEST_CASE("nfc: a long run of marks, and text that grows") {
  // In the order that an insertion sort takes longest for: hours for these.
  constexpr std::size_t kMarks = 500'000;
  std::string text = "a";
  std::string expected = "\u1EA1";  // with the first dot below
  for (std::size_t i = 0; i < kMarks; ++i) text += "\u0301";
  for (std::size_t i = 0; i < kMarks; ++i) text += "\u0323";
  for (std::size_t i = 1; i < kMarks; ++i) expected += "\u0323";
  for (std::size_t i = 0; i < kMarks; ++i) expected += "\u0301";
  CHECK((nfc(text) == expected));
  std::string notes;
  for (int i = 0; i < 1000; ++i) notes += "\U0001D160";
  CHECK(nfc(notes).size() == 3 * notes.size());
}
