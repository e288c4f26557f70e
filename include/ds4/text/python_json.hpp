// JSON as Python writes it, which is how the releases' chat encoding shows it to a model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// A value of JSON text with what Python keeps of it: the order of keys, of a key that comes twice
/// the first place and the last value, and integers of any length.
struct PythonJson {
  ///@{
  /// What it is; a scalar is a number, true, false or null.
  enum class Kind : std::uint8_t { scalar, string, array, object };
  Kind kind = Kind::scalar;
  ///@}
  std::string text;                ///< a string's characters; of other scalars what Python writes
  std::vector<std::string> names;  ///< of an object's members
  std::vector<PythonJson> items;   ///< of an array, or an object's values

  /// Parses JSON text. Throws ds4::Error for text that is none, has an ill-formed character or a
  /// number beyond a double, or more than 256 arrays and objects inside each other.
  static PythonJson parse(std::string_view json);

  /// json.dumps(value, ensure_ascii=False).
  std::string dump() const;
};

/// Appends a string as JSON, with the escapes that Python uses and no others.
void append_json_characters(std::string& out, std::string_view text);

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/text/python_json_definitions.hpp>
#endif
