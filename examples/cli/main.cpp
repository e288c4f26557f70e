// ds4: runs DeepSeek-V4 models. The verbs are in files of their own.
#include <csignal>
#include <exception>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>

#include <ds4/checkpoint/fault_guard.hpp>
#include <ds4/core/error.hpp>

#include "cli/io.hpp"
#include "cli/verbs.hpp"

namespace ds4::cli {
namespace {

constexpr int kFailure = 1;
constexpr int kBadUsage = 2;

int run_program(int argc, char** argv) {
  CLI::App app{"Runs DeepSeek-V4 models.", "ds4"};
  app.set_version_flag("--version", "ds4 " DS4_VERSION);
  app.require_subcommand(1);
  for (const auto add :
       {add_run, add_chat, add_logits, add_perplexity, add_tokenize, add_detokenize, add_inspect,
        add_bench, add_synth, add_plan, add_convert, add_trace, add_draw, add_routes, add_attend,
        add_check, add_gradients, add_train}) {
    add(app);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    std::ostringstream text;
    app.exit(request, text, text);
    print(text.str());
  } catch (const CLI::ParseError& error) {
    std::string command = "ds4";
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

}  // namespace
}  // namespace ds4::cli

int main(int argc, char** argv) {
  using namespace ds4::cli;
  reserve_standard_files();
  std::signal(SIGPIPE, SIG_IGN);  // print() sees that a pipe is closed
  std::signal(SIGXFSZ, SIG_IGN);  // and writing, that a file is as large as it may be
  const ds4::FaultGuard guard;
  try {
    return run_program(argc, argv);
  } catch (const Quit&) {
  } catch (const ds4::Error& error) {
    complain(error.what());
  } catch (const std::exception& error) {
    complain(std::string("ds4: ") + error.what());
  }
  return kFailure;
}
