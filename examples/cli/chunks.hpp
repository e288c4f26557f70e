// --chunks: the sizes of the passes that take a sequence in.
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ds4/core/messages.hpp>

#include "cli/verb.hpp"

namespace ds4::cli {

/// "5,64,1" as numbers; nothing if that is not a list of numbers of at least 1.
inline std::optional<std::vector<std::size_t>> parse_chunks(std::string_view text) {
  std::vector<std::size_t> chunks;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    const auto parsed = std::from_chars(at, end, chunks.emplace_back(0));
    if (parsed.ec != std::errc{} || chunks.back() == 0) return std::nullopt;
    if (parsed.ptr == end) return chunks;
    if (*parsed.ptr != ',') return std::nullopt;
    at = parsed.ptr + 1;
  }
}

/// Accepts what parse_chunks() does.
inline Check expect_chunks() {
  return [](const std::string& text) {
    return parse_chunks(text) ? ""
                              : "expected whole numbers of at least 1 with commas between, found " +
                                    detail::in_quotes(text);
  };
}

}  // namespace ds4::cli
