// Sleeping until a number changes.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
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
    const std::int64_t longest =
        old % kTry == 0 ? kLongestSpin : longest_.load(std::memory_order_relaxed);
    const Spun spun = spin_until([&] { return load() != old; }, std::chrono::nanoseconds(longest));
    if (!spun.done) {
      longest_.store(std::max(longest / 2, kShortestSpin), std::memory_order_relaxed);
      sleep_while(old);
    } else if (longest < kLongestSpin) {
      longest_.store(std::min(2 * longest, kLongestSpin), std::memory_order_relaxed);
    }
    return spun;
  }

 private:
  // Nanoseconds. Between threads with a processor each a wait is seldom longer; behind it the
  // thread sleeps, so that the one it waits for gets a processor. That costs up to this long when
  // both are woken again, so waiting longer would lose more than it can gain. Where processors are
  // short the other one comes only when this one sleeps: each spin in vain halves the next, and one
  // of kTry is as long as ever, to find out when that is over.
  static constexpr std::int64_t kLongestSpin = 100'000;
  static constexpr std::int64_t kShortestSpin = 2'000;
  static constexpr std::uint32_t kTry = 32;

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
  std::atomic<std::int64_t> longest_{kLongestSpin};  // of the next spin
};

}  // namespace ds4::inline v0_1::simd
