#include "cli/verb.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/io.hpp"

namespace ds4::cli {
namespace {

constexpr int kBadUsage = 2;

struct RegisteredVerb {
  int place;
  std::string_view name;
  const char* description;
  void (*add_options)(Verb& verb);
};

/// All of them, in the order in which their files are linked.
std::vector<RegisteredVerb>& registered_verbs() {
  static std::vector<RegisteredVerb> verbs;
  return verbs;
}

}  // namespace

Option Option::required() const {
  option_->required();
  return *this;
}

Option Option::capture_default_str() const {
  option_->capture_default_str();
  return *this;
}

Option Option::check(Check check) const {
  option_->check(CLI::Validator(std::move(check), ""));
  return *this;
}

Option Option::one_of(std::vector<std::string> texts) const {
  option_->check(CLI::IsMember(std::move(texts)));
  return *this;
}

Option Option::delimiter(char between) const {
  option_->delimiter(between);
  return *this;
}

Option Option::excludes(Option other) const {
  option_->excludes(other.option_);
  return *this;
}

Option Option::needs(Option other) const {
  option_->needs(other.option_);
  return *this;
}

template <class T>
Option Verb::add_option(const std::string& names, T& value, const std::string& help) {
  return Option(*app_->add_option(names, value, help));
}
template Option Verb::add_option(const std::string&, std::string&, const std::string&);
template Option Verb::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template Option Verb::add_option(const std::string&, std::int32_t&, const std::string&);
template Option Verb::add_option(const std::string&, std::size_t&, const std::string&);
template Option Verb::add_option(const std::string&, std::optional<std::size_t>&,
                                 const std::string&);
template Option Verb::add_option(const std::string&, std::vector<std::size_t>&, const std::string&);
template Option Verb::add_option(const std::string&, float&, const std::string&);
template Option Verb::add_option(const std::string&, double&, const std::string&);
template Option Verb::add_option(const std::string&, std::optional<double>&, const std::string&);

Option Verb::add_flag(const std::string& names, bool& value, const std::string& help) {
  return Option(*app_->add_flag(names, value, help));
}

Option Verb::add_flag(const std::string& names, std::optional<bool>& value,
                      const std::string& help) {
  return Option(
      *app_->add_flag_function(names, [&value](std::int64_t count) { value = count > 0; }, help));
}

Option Verb::option(const std::string& name) const { return Option(*app_->get_option(name)); }

void Verb::footer(const std::string& text) { app_->footer(text); }

void Verb::callback(std::function<void()> run) { app_->callback(std::move(run)); }

VerbRegistration::VerbRegistration(int place, const char* name, const char* description,
                                   void (*add_options)(Verb& verb)) {
  registered_verbs().push_back({place, name, description, add_options});
}

int run_command_line(int argc, char** argv) {
  const std::string program(program_name());
  CLI::App app{"Runs DeepSeek-V4 models.", program};
  app.set_version_flag("--version", program + " " DS4_VERSION);
  app.require_subcommand(1);
  std::ranges::sort(registered_verbs(), {},
                    [](const RegisteredVerb& verb) { return std::tuple(verb.place, verb.name); });
  for (const RegisteredVerb& known : registered_verbs()) {
    Verb verb(*app.add_subcommand(std::string(known.name), known.description));
    known.add_options(verb);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    std::ostringstream text;
    app.exit(request, text, text);
    print(text.str());
  } catch (const CLI::ParseError& error) {
    std::string command = program;
    for (const CLI::App* verb : app.get_subcommands()) command += " " + verb->get_name();
    std::string text = error.what();
    if (app.get_subcommands().empty() && app.remaining_size() > 0) {
      text = "there is no subcommand " + app.remaining().front();
    }
    complain("ds4: " + text + "; see " + command + " --help");
    return kBadUsage;
  }
  return 0;
}

}  // namespace ds4::cli
