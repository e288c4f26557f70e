// Regular expressions that cut text into pieces, run by PCRE2 within fixed limits.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8  // pcre2.h wants one; only names that end in _8 are used here
#endif
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include <pcre2.h>

#include <ds4/core/error.hpp>
#include <ds4/core/utf8.hpp>

namespace ds4::inline v0_1::detail {

/// PCRE2's own text for one of its error codes.
inline std::string pcre2_message(int code) {
  PCRE2_UCHAR8 buffer[256];
  const int length = pcre2_get_error_message_8(code, buffer, sizeof buffer);
  return length < 0 ? "PCRE2 error " + std::to_string(code)
                    : std::string(reinterpret_cast<const char*>(buffer));
}

/// What matching writes to, and what it may still take: one for each text and thread, shared by any
/// number of expressions.
class RegexScratch {
 public:
  /// Limits for texts of up to text_size bytes. Throws std::bad_alloc.
  explicit RegexScratch(std::size_t text_size)
      : data_(pcre2_match_data_create_8(1, nullptr), pcre2_match_data_free_8),
        quick_(pcre2_match_context_create_8(nullptr), pcre2_match_context_free_8),
        counted_(pcre2_match_context_create_8(nullptr), pcre2_match_context_free_8),
        most_(500'000 + 64 * text_size),
        left_(most_) {
    if (!data_ || !quick_ || !counted_) throw std::bad_alloc();
    // PCRE2's own limit holds for each position where a match may begin.
    set_limits(*quick_, 5'000);
    constexpr std::size_t kMost = std::numeric_limits<std::uint32_t>::max();
    set_limits(*counted_, static_cast<std::uint32_t>(std::min(most_, kMost)));
    pcre2_set_callout_8(counted_.get(), &count, &left_);
  }
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

  pcre2_match_data_8* data() { return data_.get(); }
  /// For a first attempt: a few steps at each position.
  pcre2_match_context_8* quick() { return quick_.get(); }
  /// For an expression with automatic callouts: all of them together may be most().
  pcre2_match_context_8* counted() { return counted_.get(); }
  std::size_t most() const { return most_; }

 private:
  using Context = std::unique_ptr<pcre2_match_context_8, decltype(&pcre2_match_context_free_8)>;

  static void set_limits(pcre2_match_context_8& context, std::uint32_t steps) {
    pcre2_set_match_limit_8(&context, steps);
    pcre2_set_depth_limit_8(&context, steps);
    pcre2_set_heap_limit_8(&context, 32 * 1024);  // KiB
  }
  static int count(pcre2_callout_block_8*, void* left) {
    auto& steps = *static_cast<std::size_t*>(left);
    if (steps == 0) return PCRE2_ERROR_CALLOUT;
    --steps;
    return 0;
  }

  std::unique_ptr<pcre2_match_data_8, decltype(&pcre2_match_data_free_8)> data_;
  Context quick_;
  Context counted_;
  std::size_t most_;
  std::size_t left_;  // steps, the expressions of a text together
};

/// One compiled expression. Copies share it; it is never written to, so threads may share it too.
class SplitRegex {
 public:
  /// Compiles pattern (valid UTF-8, with Unicode classes). Throws Error(where, ...) that begins
  /// with field.
  SplitRegex(std::string_view pattern, std::string_view where, std::string_view field)
      : quick_(compile(pattern, 0, where, field)),
        counted_(compile(pattern, PCRE2_AUTO_CALLOUT, where, field)) {}

  /// Calls piece(std::string_view) for every match and every stretch between matches of text
  /// (valid UTF-8), in order; together they are the whole text, none is empty. Throws Error when a
  /// limit is reached: the steps of backtracking are bounded for all of a text together, so that
  /// time grows with the text for any expression. What a step reads is not bounded.
  template <class Piece>
  void split(std::string_view text, RegexScratch& scratch, Piece&& piece) const {
    std::size_t done = 0;  // text before it has been handed out
    std::size_t from = 0;
    while (from < text.size()) {
      const auto [begin, end] = find(text, from, scratch);
      if (begin == std::string_view::npos) break;
      if (begin > done) piece(text.substr(done, begin - done));
      if (end > begin) piece(text.substr(begin, end - begin));
      done = from = end;
      // An empty match cuts the text; the search goes on one character later.
      if (begin == end && end < text.size()) from += utf8_prefix(text.substr(end)).length;
    }
    if (done < text.size()) piece(text.substr(done));
  }

  /// Whether there is a match in text (valid UTF-8). Throws Error as split() does.
  bool is_in(std::string_view text, RegexScratch& scratch) const {
    return find(text, 0, scratch).first != std::string_view::npos;
  }

 private:
  /// Begin and end of the first match at or after from; npos if there is none.
  std::pair<std::size_t, std::size_t> find(std::string_view text, std::size_t from,
                                           RegexScratch& scratch) const {
    const auto run = [&](const Code& code, pcre2_match_context_8* context, std::uint32_t options) {
      // The caller vouches for the text: a check would read all of it again for each match.
      return pcre2_match_8(code.get(), reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(),
                           from, PCRE2_NO_UTF_CHECK | options, scratch.data(), context);
    };
    int result = run(quick_, scratch.quick(), 0);
    // Long runs of text, and searches that backtrack without end: every step is counted.
    if (is_limit(result)) result = run(counted_, scratch.counted(), 0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = run(counted_, scratch.counted(), PCRE2_NO_JIT);
    }
    if (result == PCRE2_ERROR_NOMATCH) return {std::string_view::npos, std::string_view::npos};
    if (result < 0) {
      throw Error("encode", "expected the tokenizer's regular expressions to take at most " +
                                std::to_string(scratch.most()) + " steps, found \"" +
                                pcre2_message(result) + "\" at byte " + std::to_string(from) +
                                " of a text of " + std::to_string(text.size()));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer_8(scratch.data());
    if (span[0] < from || span[1] < span[0]) {
      throw Error("encode", "expected a match that begins before its end, found one moved by \\K");
    }
    return {span[0], span[1]};
  }

  using Code = std::shared_ptr<pcre2_code_8>;

  static Code compile(std::string_view pattern, std::uint32_t options, std::string_view where,
                      std::string_view field) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    Code code(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | options, &error,
                              &offset, nullptr),
              pcre2_code_free_8);
    if (!code) {
      throw Error(ErrorKind::file, where,
                  std::string(field) + ": expected a regular expression, found \"" +
                      pcre2_message(error) + "\" at byte " + std::to_string(offset));
    }
    // Where there is no JIT, pcre2_match_8 interprets: the same result, only slower.
    pcre2_jit_compile_8(code.get(), PCRE2_JIT_COMPLETE);
    return code;
  }

  static bool is_limit(int result) {
    return result == PCRE2_ERROR_MATCHLIMIT || result == PCRE2_ERROR_DEPTHLIMIT ||
           result == PCRE2_ERROR_HEAPLIMIT || result == PCRE2_ERROR_JIT_STACKLIMIT;
  }

  Code quick_;
  Code counted_;  // the same, with a callout at every step
};

}  // namespace ds4::inline v0_1::detail
