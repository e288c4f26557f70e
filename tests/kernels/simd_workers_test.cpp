// Tests of ds4/kernels/simd/training/workers.hpp and helpers.hpp.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/kernels/simd/training/helpers.hpp>
#include <ds4/kernels/simd/training/workers.hpp>

namespace training = ds4::simd::training;

TEST_CASE("workers: every task runs once, in memory of its own, whatever the threads") {
  constexpr std::size_t kFloats = 70;
  for (const std::size_t threads : {1U, 2U, 3U, 7U}) {
    CAPTURE(threads);
    training::Workers workers(threads);
    for (std::size_t round = 0; round < 300; ++round) {
      const std::size_t count = round % 23;
      std::vector<std::size_t> runs(count);
      std::atomic<std::size_t> overwritten{0};
      workers.run(count, kFloats, [&](std::size_t task, float* scratch) {
        const auto mark = static_cast<float>(task);
        std::fill_n(scratch, kFloats, mark);
        ++runs[task];
        overwritten += static_cast<std::size_t>(
            std::count_if(scratch, scratch + kFloats, [&](float x) { return x != mark; }));
      });
      REQUIRE(std::ranges::all_of(runs, [](std::size_t times) { return times == 1; }));
      REQUIRE(overwritten == 0);
    }
  }
}

TEST_CASE("helpers: those that do not come are not waited for, those that are at work are") {
  training::Helpers helpers(2);
  // Each helper that comes stays until the caller has done its part.
  std::atomic<bool> is_done{false};
  std::atomic<std::size_t> inside{0};
  std::atomic<std::size_t> finished{0};
  auto work = [&](std::size_t lane) {
    if (lane == 0) {
      while (inside == 0) std::this_thread::yield();
      is_done = true;
      return;
    }
    ++inside;
    while (!is_done) std::this_thread::yield();
    ++finished;
  };
  helpers.run(work);
  CHECK(inside >= 1);
  CHECK(finished == inside);

  // Work of which nothing is left once the caller returns: whoever comes later is not let in.
  std::atomic<bool> is_over{false};
  std::atomic<std::size_t> late{0};
  for (int i = 0; i < 1000; ++i) {
    is_over = false;
    auto nothing = [&](std::size_t) { late += is_over ? 1 : 0; };
    helpers.run(nothing);
    is_over = true;
  }
  CHECK(late == 0);
}

TEST_CASE("helpers: without work they never start, and they end with their owner") {
  const auto helpers = std::make_unique<training::Helpers>(3);
  std::size_t calls = 0;
  training::Helpers none(0);
  auto work = [&](std::size_t lane) { calls += lane + 1; };
  none.run(work);
  CHECK(calls == 1);
}
