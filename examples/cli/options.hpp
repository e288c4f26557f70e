// Checks of option values.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>

#include <ds4/core/messages.hpp>

namespace ds4::cli {

/// Accepts texts that are a T as a whole for which `holds`; `what` says that in words.
template <class T, std::predicate<T> Predicate>
CLI::Validator expect(std::string what, Predicate holds) {
  return CLI::Validator(
      [what = std::move(what), holds](const std::string& text) -> std::string {
        T value{};
        const char* const end = text.data() + text.size();
        const auto parsed = std::from_chars(text.data(), end, value);
        if (parsed.ec == std::errc{} && parsed.ptr == end && holds(value)) return {};
        return "expected " + what + ", found " + detail::in_quotes(text);
      },
      "");
}

/// Accepts whole numbers from `least` to `most`; unless told, the largest that every use has room
/// for.
inline CLI::Validator expect_count(std::int32_t least,
                                   std::int32_t most = std::numeric_limits<std::int32_t>::max()) {
  return expect<std::int32_t>(
      "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
      [=](std::int32_t value) { return value >= least && value <= most; });
}

/// What --threads accepts: more than any machine has, and not more than a process can start.
inline constexpr std::int32_t kMostThreads = 1024;

inline CLI::Validator expect_seed() {
  return expect<std::uint64_t>("a whole number below 2^64", [](std::uint64_t) { return true; });
}

/// Accepts what can be the name of a file: a variable that a script forgot to set cannot.
inline CLI::Validator expect_path() {
  return CLI::Validator(
      [](const std::string& text) {
        return text.empty() ? "expected a path, found an empty text" : "";
      },
      "");
}

}  // namespace ds4::cli
