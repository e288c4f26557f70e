// The one exception type of the library and the form of its text.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// What a program can do about an Error: each kind is met by another measure.
enum class ErrorKind : std::uint8_t {
  input,    ///< what the caller gave, as ids, a text or options: another input
  context,  ///< more tokens than the context has room for: fewer of them
  file,     ///< a file that is not there, or not what it should be: another file
  lost,     ///< a state that a failed pass has left half written: another state
  memory,   ///< no memory for a pass: the same again later
  stopped,  ///< a StopCheck has ended the pass: nothing, it was asked for
};

/// Every run-time failure of the library: a bad file, configuration or input.
/// what() is one line, "ds4: <where>: <what, expected, found>": where names the file, tensor or
/// argument. Shape mistakes in a program do not get here, they fail to compile.
class Error : public std::runtime_error {
 public:
  ///@{
  /// The text is "ds4: <where>: <what>"; the kind is input unless told.
  Error(std::string_view where, std::string_view what) : Error(ErrorKind::input, where, what) {}
  Error(ErrorKind kind, std::string_view where, std::string_view what)
      : std::runtime_error("ds4: " + std::string(where) + ": " + std::string(what)), kind_(kind) {}
  ///@}

  /// What can be done about it.
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace ds4::inline v0_1
