// Waiting for another thread without giving the processor away, for a moment.
#pragma once

#include <chrono>
#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::simd {

/// How a wait ended, and how long it took: nothing if too short to look at the clock.
struct Spun {
  bool done;
  std::chrono::nanoseconds time;
};

/// Asks `done` again and again for so long, and returns its last answer.
template <class Done>
Spun spin_until(Done done, std::chrono::nanoseconds longest) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kSpins = 64;  // about a microsecond
  const auto spin = [&] {
    for (std::size_t spins = 0; spins < kSpins; ++spins) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    return false;
  };
  if (spin()) return {true, {}};
  for (const auto start = Clock::now();;) {
    const bool met = spin();
    const auto time = Clock::now() - start;
    if (met || time >= longest) return {met, time};
  }
}

}  // namespace ds4::inline v0_1::simd
