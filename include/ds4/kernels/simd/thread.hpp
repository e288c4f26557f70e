// The calling thread: the processor that it is kept on, and the time that it has had.
#pragma once

#include <ctime>

#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::simd {

/// Keeps the calling thread on one processor for as long as it lives, where the system allows it.
class Pin {
 public:
  /// No number below 0 is a processor's: the thread stays as it is.
  explicit Pin([[maybe_unused]] int processor) {
#if defined(__linux__)
    if (processor < 0 || processor >= CPU_SETSIZE) return;
    if (::sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    pinned_ = ::sched_setaffinity(0, sizeof one, &one) == 0;
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
