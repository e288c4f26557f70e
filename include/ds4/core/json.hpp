// Strict reading of JSON from files that nobody vouches for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1::detail {

/// Arrays and objects inside each other that parse_json() accepts.
inline constexpr std::size_t kMaxJsonDepth = 64;

/// A value as messages show it: scalars themselves, of containers the kind.
inline std::string describe(const nlohmann::json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  if (value.is_object()) return "an object";
  return value.dump();
}

/// value if it is an integer that a std::size_t can hold; 4.0 is no integer.
inline std::optional<std::size_t> as_size(const nlohmann::json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (!value.is_number_unsigned() && value.get<std::int64_t>() < 0) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number > std::numeric_limits<std::size_t>::max()) return std::nullopt;
  return static_cast<std::size_t>(number);
}

/// Builds the value from the parser's events; the parser itself needs no stack, so the depth is
/// bounded before anything recurses.
class JsonBuilder {
 public:
  using json = nlohmann::json;

  explicit JsonBuilder(std::string_view where) : where_(where) {}

  json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(json::number_integer_t value) { return add(value); }
  bool number_unsigned(json::number_unsigned_t value) { return add(value); }
  bool number_float(json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(json::binary_t&) { return false; }  // no such thing in JSON text
  bool start_object(std::size_t) { return open(json::object()); }
  bool start_array(std::size_t) { return open(json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    auto [entry, is_new] = open_.back()->get_ref<json::object_t&>().try_emplace(std::move(name));
    if (!is_new)
      throw Error(ErrorKind::file, where_,
                  "expected each key once, found " + in_quotes(entry->first) + " again");
    member_ = &entry->second;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...": only ours is needed.
    std::string_view text = error.what();
    if (const std::size_t end = text.find("] "); end != text.npos) text.remove_prefix(end + 2);
    throw Error(ErrorKind::file, where_, "expected JSON, found " + printable(text, 240));
  }

 private:
  json* place(json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<json::array_t&>();
      return &array.emplace_back(std::move(value));
    }
    return &(*member_ = std::move(value));
  }
  bool add(json value) {
    place(std::move(value));
    return true;
  }
  bool open(json container) {
    if (open_.size() == kMaxJsonDepth) {
      throw Error(ErrorKind::file, where_,
                  "expected at most " + std::to_string(kMaxJsonDepth) +
                      " levels of nested JSON, found more");
    }
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view where_;
  json root_;
  std::vector<json*> open_;  // the containers around the next value, outermost first
  json* member_ = nullptr;   // where the value of the last key goes
};

/// The value of a JSON text (RFC 8259). Throws ds4::Error at `where` for anything else, and for
/// repeated keys, ill-formed UTF-8, numbers beyond double and more than kMaxJsonDepth levels.
inline nlohmann::json parse_json(std::string_view where, std::string_view text) {
  // nlohmann takes a NUL for the end of the text and would not see what follows.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) {
    throw Error(ErrorKind::file, where,
                "expected JSON, found a NUL at byte " + std::to_string(nul));
  }
  JsonBuilder builder(where);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &builder);
  return builder.take();
}

/// parse_json() of a file. Throws ds4::Error as well if the file cannot be read, is empty or has
/// more than max_bytes: a value can take twenty times the memory of its text.
inline nlohmann::json read_json(const std::filesystem::path& path,
                                std::size_t max_bytes = std::size_t{64} << 20) {
  const MappedFile file(path);
  const std::string where = printable_path(path);
  if (file.bytes().size() > max_bytes) {
    throw Error(ErrorKind::file, where,
                "expected JSON of at most " + std::to_string(max_bytes) + " bytes, found " +
                    std::to_string(file.bytes().size()));
  }
  return parse_json(where,
                    {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
}

}  // namespace ds4::inline v0_1::detail
