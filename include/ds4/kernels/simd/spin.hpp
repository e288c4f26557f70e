// Waiting for another thread without giving the processor away, for a moment.
#pragma once

#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::simd {

/// Asks `done` again and again for some microseconds, and returns its last answer. Between threads
/// with a processor each a wait is seldom longer; after it the thread should sleep, so that the one
/// it waits for gets a processor.
template <class Done>
bool spin_until(Done done) {
  constexpr std::size_t kSpins = 2000;
  for (std::size_t spins = 0; spins < kSpins; ++spins) {
    if (done()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

}  // namespace ds4::inline v0_1::simd
