// Where the threads of a team wait for each other.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/sleep.hpp>
#include <ds4/kernels/simd/spin.hpp>

namespace ds4::inline v0_1::simd {

/// What a lane that waits throws when another one does not come any more.
struct LaneLeft {};

/// Where the lanes of a team meet. Waiting spins for a moment: with a core per lane it costs a
/// fraction of a microsecond. Then it sleeps, so that lanes without a core of their own get one.
class Barrier {
 public:
  /// Before lanes meet: how many there are.
  void reset(std::size_t lanes) {
    lanes_ = lanes;
    left_.store(false, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    spun_.store(0, std::memory_order_relaxed);
    slept_.store(false, std::memory_order_relaxed);
  }

  /// Returns when all lanes have called it. Throws LaneLeft if one will not.
  void wait() {
    const std::uint32_t round = round_.load();
    look_for_left();  // behind the load: what ends this round has not been counted yet
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == lanes_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.increase();
      return;
    }
    const Spun spun = round_.wait_while(round);
    if (spun.time.count() > 0) spun_.fetch_add(spun.time.count(), std::memory_order_relaxed);
    if (!spun.done) slept_.store(true, std::memory_order_relaxed);
    look_for_left();
  }

  /// Instead of wait(), for a lane that will not come: lets out those that wait, now or later.
  void leave() {
    left_.store(true, std::memory_order_release);
    round_.increase();
  }

  ///@{
  /// Since the lanes were counted: the time that all of them spent in long spins, and whether one
  /// had to sleep.
  std::chrono::nanoseconds spun() const {
    return std::chrono::nanoseconds(spun_.load(std::memory_order_relaxed));
  }
  bool slept() const { return slept_.load(std::memory_order_relaxed); }
  ///@}

 private:
  void look_for_left() const {
    if (left_.load(std::memory_order_acquire)) throw LaneLeft();
  }

  alignas(64) std::atomic<std::size_t> arrived_{0};
  WaitedFor round_;
  alignas(64) std::atomic<std::chrono::nanoseconds::rep> spun_{0};
  std::atomic<bool> slept_{false};
  std::atomic<bool> left_{false};
  std::size_t lanes_ = 1;
};

}  // namespace ds4::inline v0_1::simd
