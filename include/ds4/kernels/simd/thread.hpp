// The calling thread: the processors that it is kept on, and the time that it has had.
#pragma once

#include <ctime>
#include <span>

#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::simd {

/// Keeps the calling thread on these processors from now on; whether the system allows it.
inline bool place_thread([[maybe_unused]] std::span<const int> processors) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) {
    if (processor >= 0 && processor < CPU_SETSIZE) CPU_SET(processor, &set);
  }
  return ::sched_setaffinity(0, sizeof set, &set) == 0;
#else
  return false;
#endif
}

/// Keeps the calling thread on some processors for as long as it lives, where the system allows it.
class Pin {
 public:
  /// Without processors the thread stays as it is.
  explicit Pin([[maybe_unused]] std::span<const int> processors) {
#if defined(__linux__)
    if (processors.empty()) return;
    if (::sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    pinned_ = place_thread(processors);
#endif
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() {
#if defined(__linux__)
    if (pinned_) ::sched_setaffinity(0, sizeof before_, &before_);
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t before_;
  bool pinned_ = false;
#endif
};

/// Seconds of a processor that the calling thread has had.
inline double thread_seconds() {
  std::timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace ds4::inline v0_1::simd
