// Threads that fork() leaves behind. Not for the thread sanitizer, which ends such a process.
#include <csignal>
#include <cstddef>
#include <memory>
#include <string>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ds4/core/error.hpp>
#include <ds4/kernels/simd/crew.hpp>
#include <ds4/kernels/simd/training/helpers.hpp>

namespace {

const auto kWork = [](std::size_t) {};

/// Whether the work is refused with an error that says why.
template <class Threads>
bool is_refused(Threads& threads) {
  try {
    auto work = kWork;
    if constexpr (requires { threads.run(2, work); }) {
      threads.run(2, work);
    } else {
      threads.run(work);
    }
  } catch (const ds4::Error& error) {
    return std::string(error.what()).find("fork()") != std::string::npos;
  }
  return false;
}

/// What f() returns in a process that fork() makes; false if it does not end in time.
template <class F>
bool in_fork(F&& f) {
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGALRM, SIG_DFL);
    ::alarm(20);
    ::_exit(f() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE_TEMPLATE("threads: behind fork() work is refused, and the owner ends", Owner,
                   ds4::simd::Crew, ds4::simd::training::Helpers) {
  auto owner = std::make_unique<Owner>(std::size_t{2});
  // None has been started: the other process starts its own.
  CHECK(in_fork([&] {
    const bool first = is_refused(*owner);
    const bool second = is_refused(*owner);
    owner.reset();
    return !first && !second;
  }));
  CHECK_FALSE(is_refused(*owner));
  CHECK(in_fork([&] {
    const bool refused = is_refused(*owner);
    owner.reset();
    return refused;
  }));
  CHECK_FALSE(is_refused(*owner));
}
