// Sleeping until a number changes.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <climits>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <ds4/kernels/simd/spin.hpp>

namespace ds4::inline v0_1::simd {

/// A number that threads wait for. std::atomic can do the same, but GCC's yields four times before
/// it sleeps: on a busy machine each time is a turn for another program, and Linux takes what was
/// left of the thread's own share as given away.
class WaitedFor {
 public:
  /// The number; what its writer did before can be seen.
  std::uint32_t load() const { return value_.load(std::memory_order_acquire); }

  /// Adds one and wakes who sleeps.
  void increase() {
    value_.fetch_add(1);
    if (sleepers_.load() == 0) return;
#if defined(__linux__)
    ::syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
    value_.notify_all();
#endif
  }

  /// Returns when the number is not `old`: spins, and then sleeps.
  Spun wait_while(std::uint32_t old) {
    const Spun spun = spin_until([&] { return load() != old; });
    if (!spun.done) sleep_while(old);
    return spun;
  }

 private:
  // The marks of sleepers and the changes of the number have one order for all threads (seq_cst):
  // either the sleeper sees the change, or the one who made it sees the sleeper.
  void sleep_while(std::uint32_t old) {
    sleepers_.fetch_add(1);
    while (value_.load() == old) {
#if defined(__linux__)
      ::syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
      value_.wait(old);
#endif
    }
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));
  alignas(64) std::atomic<std::uint32_t> value_{0};
  std::atomic<std::uint32_t> sleepers_{0};
};

}  // namespace ds4::inline v0_1::simd
