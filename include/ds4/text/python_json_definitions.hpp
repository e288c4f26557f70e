// What python_json.hpp declares.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/text/python_json.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// What repr() of a Python float gives: the shortest digits that round to it.
inline std::string python_float(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific)
                       .ptr;
  const std::string_view text(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  const std::size_t at = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(at + 1)).c_str());
  std::string digits;
  for (const char c : text.substr(0, at)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out = std::signbit(value) ? "-" : "";
  if (exponent >= -4 && exponent < 16) {
    if (exponent < 0)
      return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() <= whole)
      return out + digits + std::string(whole - digits.size(), '0') + ".0";
    return out + digits.substr(0, whole) + "." + digits.substr(whole);
  }
  out += digits.substr(0, 1);
  if (digits.size() > 1) out += "." + digits.substr(1);
  const std::string power = std::to_string(std::abs(exponent));
  return out + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
}

/// Builds a PythonJson from the parser's events.
class PythonJsonBuilder {
 public:
  using json = nlohmann::json;

  PythonJson take() { return std::move(root_); }

  bool null() { return scalar("null"); }
  bool boolean(bool value) { return scalar(value ? "true" : "false"); }
  bool number_integer(json::number_integer_t value) { return scalar(std::to_string(value)); }
  bool number_unsigned(json::number_unsigned_t value) { return scalar(std::to_string(value)); }
  bool number_float(json::number_float_t value, const std::string& text) {
    // An integer beyond 64 bits comes here, too.
    const bool integer = text.find_first_of(".eE") == text.npos;
    return scalar(integer ? text : python_float(value));
  }
  bool string(std::string& value) {
    add({PythonJson::Kind::string, std::move(value), {}, {}});
    return true;
  }
  bool binary(json::binary_t&) { return false; }  // no such thing in JSON text
  bool start_object(std::size_t) { return open(PythonJson::Kind::object); }
  bool start_array(std::size_t) { return open(PythonJson::Kind::array); }
  bool key(std::string& name) {
    keys_.back() = std::move(name);
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t, const std::string&, const json::exception&) { return false; }

 private:
  static constexpr std::size_t kDeepest = 256;

  bool scalar(std::string text) {
    add({PythonJson::Kind::scalar, std::move(text), {}, {}});
    return true;
  }
  PythonJson& add(PythonJson value) {
    if (open_.empty()) return root_ = std::move(value);
    PythonJson& in = *open_.back();
    if (in.kind == PythonJson::Kind::object) {
      for (std::size_t i = 0; i < in.names.size(); ++i) {
        if (in.names[i] == keys_.back()) return in.items[i] = std::move(value);
      }
      in.names.push_back(keys_.back());
    }
    return in.items.emplace_back(std::move(value));
  }
  bool open(PythonJson::Kind kind) {
    if (open_.size() == kDeepest) return false;
    // What is open is the last of its parent, which grows only when this is closed.
    open_.push_back(&add({kind, {}, {}, {}}));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  PythonJson root_;
  std::vector<PythonJson*> open_;
  std::vector<std::string> keys_;  // of each that is open, the last name
};

/// Appends the value as Python writes it.
inline void write_python_json(std::string& out, const PythonJson& value) {
  const auto quoted = [&](std::string_view characters) {
    out += '"';
    append_json_characters(out, characters);
    out += '"';
  };
  using Kind = PythonJson::Kind;
  if (value.kind == Kind::scalar) out += value.text;
  if (value.kind == Kind::string) quoted(value.text);
  if (value.kind != Kind::array && value.kind != Kind::object) return;
  out += value.kind == Kind::array ? '[' : '{';
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    if (i > 0) out += ", ";
    if (value.kind == Kind::object) {
      quoted(value.names[i]);
      out += ": ";
    }
    write_python_json(out, value.items[i]);
  }
  out += value.kind == Kind::array ? ']' : '}';
}

}  // namespace detail

DS4_FUNCTION PythonJson PythonJson::parse(std::string_view json) {
  detail::PythonJsonBuilder builder;
  // nlohmann takes a NUL for the end of the text and would not see what follows.
  const bool has_nul = json.find('\0') != json.npos;
  if (has_nul || !nlohmann::json::sax_parse(json.begin(), json.end(), &builder)) {
    throw Error("json", "expected JSON, found " + detail::in_quotes(json));
  }
  return builder.take();
}

DS4_FUNCTION void append_json_characters(std::string& out, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
  constexpr std::string_view kEscapes = "\"\\nrtbf";
  for (const char c : text) {
    if (const std::size_t at = kEscaped.find(c); at != kEscaped.npos) {
      out += {'\\', kEscapes[at]};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += {kDigits[static_cast<unsigned char>(c) >> 4],
              kDigits[static_cast<unsigned char>(c) & 15u]};
    } else {
      out += c;
    }
  }
}

DS4_FUNCTION std::string PythonJson::dump() const {
  std::string out;
  detail::write_python_json(out, *this);
  return out;
}

}  // namespace ds4::inline v0_1
