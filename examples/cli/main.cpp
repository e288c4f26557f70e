// ds4: runs DeepSeek-V4 models. The verbs are in files of their own.
#include <csignal>
#include <exception>
#include <string>

#include <ds4/checkpoint/fault_guard.hpp>
#include <ds4/core/error.hpp>

#include "cli/io.hpp"
#include "cli/ranks.hpp"
#include "cli/verb.hpp"

int main(int argc, char** argv) {
  using namespace ds4::cli;
  constexpr int kFailure = 1;
  reserve_standard_files();
  std::signal(SIGPIPE, SIG_IGN);  // print() sees that a pipe is closed
  std::signal(SIGXFSZ, SIG_IGN);  // and writing, that a file is as large as it may be
  const ds4::FaultGuard guard;
  try {
#ifdef DS4_CLI_MPI
    return run_on_ranks(run_command_line, argc, argv);
#else
    return run_command_line(argc, argv);
#endif
  } catch (const Quit&) {
  } catch (const ds4::Error& error) {
    complain(error.what());
  } catch (const std::exception& error) {
    complain(std::string("ds4: ") + error.what());
  }
  return kFailure;
}
