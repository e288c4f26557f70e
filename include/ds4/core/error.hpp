// The one exception type of the library and the form of its text.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Every run-time failure of the library: a bad file, configuration or input.
/// what() is one line, "ds4: <where>: <what, expected, found>": where names the file, tensor or
/// argument. Shape mistakes in a program do not get here, they fail to compile.
class Error : public std::runtime_error {
 public:
  /// The text is "ds4: <where>: <what>".
  Error(std::string_view where, std::string_view what)
      : std::runtime_error("ds4: " + std::string(where) + ": " + std::string(what)) {}
};

}  // namespace ds4::inline v0_1
