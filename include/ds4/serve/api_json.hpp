// Texts of JSON values for a server's answers.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/utf8.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1::detail {

inline std::string json_null() { return "null"; }
inline std::string json_bool(bool value) { return value ? "true" : "false"; }
/// A string; bytes that are not UTF-8 become U+FFFD.
inline std::string json_text(std::string_view text) {
  std::string valid;
  append_utf8(valid, text);
  std::string out = "\"";
  append_json_characters(out, valid);
  return out += '"';
}
template <std::integral T>
std::string json_number(T value) {
  return std::to_string(value);
}
/// The shortest digits of a number; the largest for infinities, which JSON does not have.
inline std::string json_number(double value) {
  constexpr double kLargest = 9999.0;
  if (!std::isfinite(value)) value = value < 0 ? -kLargest : kLargest;
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return {digits.data(), end};
}
/// An object of members whose values are JSON; those with an empty value are left out.
inline std::string json_object(std::span<const std::pair<std::string_view, std::string>> members) {
  std::string out = "{";
  for (const auto& [name, value] : members) {
    if (value.empty()) continue;
    if (out.size() > 1) out += ", ";
    out += json_text(name) + ": " + value;
  }
  return out += '}';
}
inline std::string json_object(
    std::initializer_list<std::pair<std::string_view, std::string>> members) {
  return json_object(std::span(members.begin(), members.size()));
}
inline std::string json_array(std::span<const std::string> values) {
  std::string out = "[";
  for (const std::string& value : values) {
    if (out.size() > 1) out += ", ";
    out += value;
  }
  return out += ']';
}

}  // namespace ds4::inline v0_1::detail
