// Tests of ds4/kernels/simd/team.hpp, team_size.hpp, crew.hpp, barrier.hpp and sleep.hpp.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/processors.hpp>
#include <ds4/kernels/simd/barrier.hpp>
#include <ds4/kernels/simd/crew.hpp>
#include <ds4/kernels/simd/sleep.hpp>
#include <ds4/kernels/simd/team.hpp>
#include <ds4/kernels/simd/team_size.hpp>

namespace {

namespace simd = ds4::simd;

// Longer than a wait spins.
void pause_longer_than_a_spin() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

TEST_CASE("crew: every part once, on the same thread each time, whatever the number before") {
  simd::Crew crew(6);
  std::vector<std::thread::id> threads(6);
  for (int round = 0; round < 500; ++round) {
    const auto count = static_cast<std::size_t>(1 + round * 7 % 6);
    CAPTURE(count);
    std::vector<std::size_t> calls(6);
    std::atomic<bool> moved = false;
    auto work = [&](std::size_t lane) {
      ++calls[lane];
      const auto id = std::this_thread::get_id();
      if (threads[lane] == std::thread::id()) threads[lane] = id;
      if (threads[lane] != id) moved = true;
    };
    crew.run(count, work);
    REQUIRE(std::count(calls.begin(), calls.end(), 1) == static_cast<std::ptrdiff_t>(count));
    REQUIRE(!moved);
  }
  CHECK(threads[0] == std::this_thread::get_id());
  CHECK(std::set(threads.begin(), threads.end()).size() == 6);
}

TEST_CASE("crew: a part that takes long is waited for, also by threads that sleep") {
  simd::Crew crew(3);
  for (std::size_t slow = 0; slow < 3; ++slow) {
    std::atomic<int> ended = 0;
    auto work = [&](std::size_t lane) {
      if (lane == slow) pause_longer_than_a_spin();
      ++ended;
    };
    crew.run(3, work);
    CHECK(ended == 3);
    pause_longer_than_a_spin();  // the threads now sleep until the next work
  }
}

TEST_CASE("crew: a thread of its own that computes alone may throw") {
  simd::Crew crew(4);
  auto fails = [](std::size_t) { throw 5; };
  CHECK_THROWS_AS(crew.run(1, fails), int);
  int calls = 0;
  auto counts = [&](std::size_t) { ++calls; };
  crew.run(1, counts);
  CHECK(calls == 1);
}

TEST_CASE(
    "barrier: nobody goes on before the last has come, with uneven work and more lanes than "
    "processors") {
  constexpr std::size_t kLanes = 9;
  simd::Team team({.threads = kLanes, .adapts = false});
  std::vector<std::uint32_t> written(kLanes);
  std::atomic<std::size_t> wrong = 0;
  std::atomic<std::uint32_t> spent = 0;
  team.run([&](std::size_t lane, std::size_t lanes) {
    for (std::uint32_t round = 1; round <= 400; ++round) {
      // Whose turn it is comes late: some rounds a little, some after all the others sleep.
      if (round % lanes == lane) {
        if (round % 50 == 0) pause_longer_than_a_spin();
        for (std::uint32_t i = 0; i < round % 7 * 1000; ++i) ++spent;
      }
      written[lane] = round;
      team.barrier().wait();
      for (const std::uint32_t other : written) wrong += other == round ? 0 : 1;
      team.barrier().wait();
    }
  });
  CHECK(wrong == 0);
}

TEST_CASE("barrier: says whether a lane slept") {
  simd::Barrier barrier;
  do {  // until the other lane is there first
    barrier.reset(2);
    CHECK(!barrier.slept());
    CHECK(barrier.spun() == std::chrono::nanoseconds(0));
    std::thread other([&] { barrier.wait(); });
    pause_longer_than_a_spin();
    barrier.wait();
    other.join();
  } while (!barrier.slept());
  CHECK(barrier.spun() > std::chrono::nanoseconds(0));
}

TEST_CASE("sleep: no change is missed, however close it is to falling asleep") {
  // Two threads hand a turn to each other; a wake that is lost would end this in the time limit.
  simd::WaitedFor turns[2];
  constexpr std::uint32_t kTurns = 3000;
  std::thread other([&] {
    for (std::uint32_t i = 0; i < kTurns; ++i) {
      turns[0].wait_while(i);
      if (i % 500 == 0) pause_longer_than_a_spin();
      turns[1].increase();
    }
  });
  for (std::uint32_t i = 0; i < kTurns; ++i) {
    if (i % 300 == 0) pause_longer_than_a_spin();
    turns[0].increase();
    turns[1].wait_while(i);
  }
  other.join();
  CHECK(turns[0].load() == kTurns);
  CHECK(turns[1].load() == kTurns);
}

// A machine of which other programs have some processors. A team that needs these too has them in
// turns, and all its lanes then do `in_step` of what lanes with processors of their own do.
struct Machine {
  std::size_t processors;
  std::size_t taken;
  double in_step;
  double work = 5e-4;  // of a pass: seconds of one processor

  // Processors that work.
  double rate(std::size_t lanes) const {
    return static_cast<double>(lanes) * (shares(lanes) ? in_step : 0.95);
  }
  bool shares(std::size_t lanes) const { return lanes + taken > processors; }
};

// Passes for some seconds; the processors that worked, on average.
double rate_of(simd::TeamSize& size, const Machine& machine, double seconds) {
  double work = 0.0;
  double time = 0.0;
  while (time < seconds) {
    const double took = machine.work / machine.rate(size.lanes());
    size.note({took, machine.work, machine.shares(size.lanes())});
    work += machine.work;
    time += took;
  }
  return work / time;
}

TEST_CASE("team size: all lanes, at every pass, while none has to sleep") {
  for (const std::size_t most : {1U, 2U, 3U, 64U}) {
    simd::TeamSize size(most);
    for (int i = 0; i < 100'000; ++i) {
      REQUIRE(size.lanes() == most);
      size.note({1e-3, 0.1e-3, false});
    }
  }
}

TEST_CASE("team size: lanes that sleep now and then are not given up for fewer that can do less") {
  simd::TeamSize size(2);
  for (int i = 0; i < 100'000; ++i) {
    REQUIRE(size.lanes() == 2);
    size.note({1e-3, 1.2e-3, i % 10 == 0});
  }
}

TEST_CASE("team size: as many lanes as there are processors for, if the others hold these up") {
  for (const Machine machine : {Machine{2, 1, 0.3}, Machine{2, 1, 0.1}, Machine{4, 1, 0.3},
                                Machine{16, 1, 0.4}, Machine{16, 15, 0.03}, Machine{64, 1, 0.3}}) {
    CAPTURE(machine.processors);
    CAPTURE(machine.taken);
    simd::TeamSize size(machine.processors);
    rate_of(size, machine, 2.0);
    const double best = machine.rate(machine.processors - machine.taken);
    CHECK(rate_of(size, machine, 20.0) > 0.9 * best);
  }
}

TEST_CASE("team size: all lanes where they get as much done as fewer would") {
  for (const Machine machine : {Machine{2, 2, 0.5}, Machine{8, 8, 0.5}, Machine{64, 64, 0.4}}) {
    CAPTURE(machine.processors);
    simd::TeamSize size(machine.processors);
    CHECK(rate_of(size, machine, 20.0) > 0.9 * machine.rate(machine.processors));
  }
}

TEST_CASE("team size: all lanes again within seconds once the others have ended") {
  for (const std::size_t processors : {2U, 8U, 64U}) {
    CAPTURE(processors);
    simd::TeamSize size(processors);
    rate_of(size, {processors, processors - 1, 0.1 / static_cast<double>(processors)}, 30.0);
    CHECK(size.lanes() < processors);
    const Machine idle{processors, 0, 0.0};
    rate_of(size, idle, 5.0);
    CHECK(size.lanes() == processors);
    CHECK(rate_of(size, idle, 1.0) > 0.99 * idle.rate(processors));
  }
}

TEST_CASE("team size: what is tried takes little of the time, however long a pass is") {
  // Sleeping, but not for want of processors: fewer lanes would be no faster.
  const Machine machine{4, 4, 0.2, 2.0};
  simd::TeamSize size(4);
  CHECK(rate_of(size, machine, 2000.0) > 0.85 * machine.rate(4));
}

TEST_CASE("team: a pinned lane is on a processor of its own, and its thread as before afterwards") {
  const std::vector<int> before = ds4::allowed_processors();
  const std::size_t cores = ds4::one_processor_per_core(before).size();
  for (const std::size_t threads : {cores, cores + 1}) {  // with more lanes than cores none is
    simd::Team team({.threads = threads, .adapts = false, .pin = true});
    std::vector<std::vector<int>> processors(threads);
    team.run([&](std::size_t lane, std::size_t) { processors[lane] = ds4::allowed_processors(); });
    CHECK(ds4::allowed_processors() == before);
#if defined(__linux__)
    std::set<int> taken;
    for (const auto& allowed : processors) {
      CHECK(allowed.size() == (threads == cores ? 1 : before.size()));
      taken.insert(allowed.front());
    }
    if (threads == cores) CHECK(taken.size() == cores);
#endif
  }
  simd::Team team({.threads = cores, .adapts = false});
  std::atomic<std::size_t> free = 0;
  team.run([&](std::size_t, std::size_t) { free += ds4::allowed_processors() == before ? 1 : 0; });
  CHECK(free == cores);
}

TEST_CASE("team: all lanes stay within its slice of the cores, for good but for the caller's") {
  const std::vector<int> before = ds4::allowed_processors();
  const std::vector<int> cores = ds4::one_processor_per_core(before);
  for (std::size_t first = 0; first < std::min<std::size_t>(cores.size(), 2); ++first) {
    const std::size_t count = std::max<std::size_t>(1, cores.size() / 2);
    if (first + count > cores.size()) break;
    const std::vector<int> slice(cores.begin() + static_cast<std::ptrdiff_t>(first),
                                 cores.begin() + static_cast<std::ptrdiff_t>(first + count));
    CHECK(simd::places_of({.first_core = first, .cores = count}).threads ==
          std::min(count, ds4::usable_processors()));
    simd::Team team({.threads = 3, .adapts = false, .first_core = first, .cores = count});
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::vector<int>> processors(3);
      team.run(
          [&](std::size_t lane, std::size_t) { processors[lane] = ds4::allowed_processors(); });
#if defined(__linux__)
      for (const auto& allowed : processors) CHECK(allowed == slice);
#endif
      CHECK(ds4::allowed_processors() == before);
    }
  }
  const auto message = [&](std::size_t first, std::size_t count) -> std::string {
    try {
      const simd::Team team({.first_core = first, .cores = count});
    } catch (const ds4::Error& error) {
      return error.what();
    }
    return "";
  };
  const std::string all = std::to_string(cores.size());
  CHECK(message(cores.size(), 1) == "ds4: cores: found 1 from number " + all +
                                        " on, expected some of the " + all +
                                        " that the process may run on");
  CHECK(message(0, cores.size() + 1).starts_with("ds4: cores: found "));
  CHECK(message(0, cores.size()).empty());
}

TEST_CASE("team: a pass while another runs on it is an error, and the team goes on") {
  simd::Team team({.threads = 2, .adapts = false});
  std::string message;
  team.run([&](std::size_t lane, std::size_t) {
    if (lane > 0) return;
    try {
      team.run([](std::size_t, std::size_t) {});
    } catch (const ds4::Error& error) {
      message = error.what();
    }
  });
  CHECK(message.starts_with("ds4: pass: found another on the same threads"));
  std::atomic<std::size_t> lanes = 0;
  team.run([&](std::size_t, std::size_t) { ++lanes; });
  CHECK(lanes == 2);
}

TEST_CASE("team: as many lanes as it is told, or as the process has processors") {
  for (const std::size_t threads : {0U, 1U, 5U}) {
    simd::Team team({.threads = threads, .adapts = false});
    const std::size_t expected = threads == 0 ? ds4::usable_processors() : threads;
    CHECK(team.threads() == expected);
    std::atomic<std::size_t> lanes = 0;
    team.run([&](std::size_t, std::size_t count) { lanes += count; });
    CHECK(lanes == expected * expected);
  }
}

TEST_CASE("team: one that adapts may have fewer lanes, and every pass has all of those it tells") {
  simd::Team team({.threads = 3, .adapts = true});
  std::atomic<std::size_t> wrong = 0;
  for (int pass = 0; pass < 60; ++pass) {
    std::atomic<std::size_t> calls = 0;
    std::atomic<std::size_t> told = 0;
    team.run([&](std::size_t lane, std::size_t lanes) {
      told = lanes;
      ++calls;
      if (lane == 0) pause_longer_than_a_spin();
      if (lanes > 1) team.barrier().wait();
    });
    wrong += calls == told && told >= 1 && told <= 3 ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(team.threads() == 3);
}

TEST_CASE("team: what a lane throws comes out behind the run, wherever the others are") {
  for (const std::size_t lanes : {1U, 2U, 5U}) {
    simd::Team team({.threads = lanes, .adapts = false});
    std::size_t wrong = 0;
    for (std::size_t round = 0; round < 200; ++round) {
      const std::size_t thrower = round % lanes;
      std::atomic<std::size_t> behind = 0;
      std::string text;
      try {
        team.run([&](std::size_t lane, std::size_t count) {
          const auto meet = [&] {
            if (count > 1) team.barrier().wait();
          };
          for (std::size_t i = 0; i < round % 3; ++i) meet();
          if (lane == thrower) {
            if (round % 20 == 0) pause_longer_than_a_spin();  // the others sleep
            throw std::runtime_error("lane " + std::to_string(lane));
          }
          if (round % 4 == 1 && lane == (thrower + 1) % count) return;  // has nothing to wait for
          meet();
          ++behind;
        });
      } catch (const std::runtime_error& error) {
        text = error.what();
      }
      wrong += text == "lane " + std::to_string(thrower) && behind == 0 ? 0 : 1;

      // The next run is like any other.
      std::atomic<std::size_t> met = 0;
      team.run([&](std::size_t, std::size_t count) {
        for (std::size_t i = 0; i < 3; ++i) {
          if (count > 1) team.barrier().wait();
          ++met;
        }
      });
      wrong += met == 3 * lanes ? 0 : 1;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("team: if several lanes throw, one of their exceptions comes out") {
  simd::Team team({.threads = 4, .adapts = false});
  for (int round = 0; round < 200; ++round) {
    CHECK_THROWS_AS(team.run([&](std::size_t lane, std::size_t) {
      if (lane == 3) team.barrier().wait();
      throw std::bad_alloc();
    }),
                    std::bad_alloc);
  }
}

}  // namespace
