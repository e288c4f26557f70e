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

#include <ds4/detail/messages.hpp>

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

/// Accepts whole numbers from `least` to the largest that every use has room for.
inline CLI::Validator expect_count(std::int32_t least) {
  return expect<std::int32_t>("a whole number from " + std::to_string(least) + " to " +
                                  std::to_string(std::numeric_limits<std::int32_t>::max()),
                              [least](std::int32_t value) { return value >= least; });
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
