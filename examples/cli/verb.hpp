// The command line: verbs, which make themselves known, and their options. CLI11 is included by
// verb.cpp alone, as its headers take seconds to compile.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace ds4::cli {

/// Says what is wrong with the text of an option; nothing, if it is accepted.
using Check = std::function<std::string(const std::string& text)>;

/// An option of a verb; all copies stand for the same.
class Option {
 public:
  explicit Option(CLI::Option& option) : option_(&option) {}

  Option required() const;
  /// The help tells the value that the variable has at this time.
  Option capture_default_str() const;
  Option check(Check check) const;
  Option one_of(std::vector<std::string> texts) const;
  /// Values may stand behind one another in one text, with this between them.
  Option delimiter(char between) const;
  Option excludes(Option other) const;
  Option needs(Option other) const;

 private:
  CLI::Option* option_;
};

/// A verb whose options are being added. The variables of the options must outlive it: those that
/// the callback keeps do.
class Verb {
 public:
  explicit Verb(CLI::App& app) : app_(&app) {}

  /// Names as CLI11 has them: "--chunks", or "CONFIG" for an argument. For the types of verb.cpp.
  template <class T>
  Option add_option(const std::string& names, T& value, const std::string& help);
  /// "--think,!--no-think": the second one makes it false.
  Option add_flag(const std::string& names, bool& value, const std::string& help);
  Option add_flag(const std::string& names, std::optional<bool>& value, const std::string& help);
  /// One that has been added.
  Option option(const std::string& name) const;

  /// Text below the help.
  void footer(const std::string& text);
  /// What the verb does.
  void callback(std::function<void()> run);

 private:
  CLI::App* app_;
};

/// Makes a verb known to the program that it is linked into: each has one of these, static, in a
/// file of its own.
class VerbRegistration {
 public:
  /// `place`: ds4 --help lists verbs by it, those that are used most first; equal ones by name.
  VerbRegistration(int place, const char* name, const char* description,
                   void (*add_options)(Verb& verb));
};

/// What --help and messages call the program. Generated from program.cpp.in.
std::string_view program_name();

/// Runs the verb of the command line; the exit code, if it throws nothing.
int run_command_line(int argc, char** argv);

}  // namespace ds4::cli
