// Tests of how many threads the ds4 program takes.
#include <string>

#include <doctest/doctest.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/core/processors.hpp>
#include <support/program.hpp>

namespace {

using ds4::test::program::contains;
using ds4::test::program::ds4_program;

std::string default_threads() {
  return "--threads UINT=" + std::to_string(ds4::usable_processors()) + " ";
}

TEST_CASE("program: threads unless told are those that the affinity mask has room for") {
  for (const std::string verb : {"run", "bench", "plan"}) {
    CHECK(contains(ds4_program({verb, "--help"}).out, default_threads()));
  }
#if defined(__linux__)
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(ds4::allowed_processors().back(), &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  for (const std::string verb : {"run", "bench", "plan", "train"}) {
    CHECK(contains(ds4_program({verb, "--help"}).out, "--threads UINT=1 "));
  }
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
#endif
}

}  // namespace
