// Canonical composition of Unicode text (NFC), which some tokenizers begin with. Ours, as what is
// packaged (utf8proc, ICU) sorts marks by insertion: a long run of them takes time that grows with
// its square, and every user of the library would link one more for what no release asks for.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/utf8.hpp>
#include <ds4/text/nfc_tables.hpp>

namespace ds4::inline v0_1::detail {

/// Composes text piece by piece. Source: Unicode, sections 3.11 and 3.12.
class NfcComposer {
 public:
  /// What comes next.
  void push(char32_t character) {
    const std::size_t before = pending_.size();
    decompose(character);
    // Nothing of what is pending is moved or composed over a starter that composes with nothing in
    // front of it.
    const Part& first = pending_[before];
    if (first.combining_class == 0 && !composes_backwards(first.character)) flush(before);
  }

  /// The composed text; the composer then begins anew.
  std::string finish() {
    flush(pending_.size());
    return std::exchange(out_, {});
  }

 private:
  struct Part {
    char32_t character;
    std::uint8_t combining_class;
  };

  // Hangul syllables: leading consonant, vowel, maybe final consonant.
  static constexpr char32_t kSyllable = 0xAC00, kL = 0x1100, kV = 0x1161, kT = 0x11A7;
  static constexpr char32_t kLs = 19, kVs = 21, kTs = 28;

  static bool is_in(char32_t character, char32_t first, char32_t count) {
    return character >= first && character - first < count;
  }
  static bool is_syllable(char32_t character) {
    return is_in(character, kSyllable, kLs * kVs * kTs);
  }

  static std::uint8_t combining_class(char32_t character) {
    if (character < kCombiningRanges.front().first) return 0;
    const auto next =
        std::ranges::upper_bound(kCombiningRanges, character, {}, &CombiningRange::first);
    const CombiningRange& range = *(next - 1);
    return character <= range.last ? range.combining_class : std::uint8_t{0};
  }

  static bool composes_backwards(char32_t character) {
    return is_in(character, kV, kVs) || is_in(character, kT + 1, kTs - 1) ||
           std::ranges::binary_search(kComposingStarters, character);
  }

  static std::optional<char32_t> composed(char32_t first, char32_t second) {
    if (is_in(first, kL, kLs) && is_in(second, kV, kVs)) {
      return kSyllable + ((first - kL) * kVs + (second - kV)) * kTs;
    }
    if (is_syllable(first) && (first - kSyllable) % kTs == 0 && is_in(second, kT + 1, kTs - 1)) {
      return first + (second - kT);
    }
    const auto parts = [](std::uint16_t place) {
      return std::pair(kDecompositions[place].first, kDecompositions[place].second);
    };
    const auto found =
        std::ranges::lower_bound(kCompositions, std::pair(first, second), std::less<>(), parts);
    if (found == kCompositions.end() || parts(*found) != std::pair(first, second)) return {};
    return kDecompositions[*found].character;
  }

  void decompose(char32_t character) {
    if (is_syllable(character)) {
      const char32_t index = character - kSyllable;
      pending_.push_back({kL + index / (kVs * kTs), 0});
      pending_.push_back({kV + index % (kVs * kTs) / kTs, 0});
      if (index % kTs != 0) pending_.push_back({kT + index % kTs, 0});
      return;
    }
    const auto found =
        std::ranges::lower_bound(kDecompositions, character, {}, &Decomposition::character);
    if (found == kDecompositions.end() || found->character != character) {
      pending_.push_back({character, combining_class(character)});
      return;
    }
    decompose(found->first);
    if (found->second != 0) decompose(found->second);
  }

  /// By class, those of one class in their order.
  void sort(std::span<Part> marks) {
    std::array<std::size_t, 257> places{};
    for (const Part& part : marks) ++places[part.combining_class + std::size_t{1}];
    std::partial_sum(places.begin(), places.end(), places.begin());
    sorted_.resize(marks.size());
    for (const Part& part : marks) sorted_[places[part.combining_class]++] = part;
    std::ranges::copy(sorted_, marks.begin());
  }

  /// Composes and writes the first `count` parts that are pending.
  void flush(std::size_t count) {
    const auto begin = pending_.begin();
    const auto end = begin + static_cast<std::ptrdiff_t>(count);
    const auto is_starter = [](const Part& part) { return part.combining_class == 0; };
    for (auto from = begin; from != end;) {
      from = std::find_if_not(from, end, is_starter);
      const auto to = std::find_if(from, end, is_starter);
      if (!std::ranges::is_sorted(from, to, {}, &Part::combining_class)) sort({from, to});
      from = to;
    }
    auto kept = begin;
    auto starter = end;
    int last = -1;  // class of what stands between the starter and the next part; -1: nothing
    for (auto part = begin; part != end; ++part) {
      if (starter != end && last < part->combining_class) {
        if (const auto whole = composed(starter->character, part->character)) {
          starter->character = *whole;
          continue;
        }
      }
      last = part->combining_class;
      *kept = *part;
      if (last == 0) {
        starter = kept;
        last = -1;
      }
      ++kept;
    }
    for (auto part = begin; part != kept; ++part) write(part->character);
    pending_.erase(begin, end);
  }

  void write(char32_t character) {
    const auto byte = [&](char32_t bits) { out_ += static_cast<char>(bits); };
    const auto rest = [&](int shift) { byte(0x80 | (character >> shift & 0x3F)); };
    if (character < 0x80) {
      byte(character);
    } else if (character < 0x800) {
      byte(0xC0 | character >> 6);
      rest(0);
    } else if (character < 0x10000) {
      byte(0xE0 | character >> 12);
      rest(6);
      rest(0);
    } else {
      byte(0xF0 | character >> 18);
      rest(12);
      rest(6);
      rest(0);
    }
  }

  std::vector<Part> pending_;
  std::vector<Part> sorted_;  // working memory
  std::string out_;
};

/// Text (valid UTF-8) in normalisation form C: at most three times as long, in O(n).
inline std::string nfc(std::string_view text) {
  // Below U+0300 nothing composes, and these bytes begin nothing above.
  constexpr unsigned char kFirstLead = 0xCC;
  const auto is_low = [](char c) { return static_cast<unsigned char>(c) < kFirstLead; };
  if (std::ranges::all_of(text, is_low)) return std::string(text);
  NfcComposer composer;
  while (!text.empty()) {
    const std::size_t length = utf8_prefix(text).length;
    char32_t character = static_cast<unsigned char>(text[0]);
    if (length > 1) character &= 0x7Fu >> length;
    for (std::size_t i = 1; i < length; ++i) {
      character = character << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
    }
    composer.push(character);
    text.remove_prefix(length);
  }
  return composer.finish();
}

}  // namespace ds4::inline v0_1::detail
