// Threads that help another with its work as far as the machine lets them run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/sleep.hpp>
#include <ds4/kernels/simd/threads.hpp>

namespace ds4::inline v0_1::simd::training {

/// Threads for work that whoever comes takes piece by piece. One that has not begun when there is
/// nothing left is not waited for: where other programs have the processors, the work takes as long
/// as the calling thread alone takes for it, not as long as every thread's turn to come.
class Helpers {
 public:
  /// `count` threads, which start with the first work.
  explicit Helpers(std::size_t count) : count_(count) {}
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;
  ~Helpers() {
    stops_.store(true, std::memory_order_relaxed);
    round_.increase();
    threads_.join();
  }

  /// Calls work(0) here and work(i) on helpers i = 1, 2, ... that are in time. work must return
  /// when nothing is left to take, and not throw; a helper may be called again, or not at all. All
  /// calls have returned when this does. Throws ds4::Error in a process that fork() has made since
  /// threads were started.
  template <class Work>
  void run(Work& work) {
    threads_.check();
    while (threads_.size() < count_) {
      threads_.start([this, lane = threads_.size() + 1] { help(lane); });
    }
    call_ = [](void* all, std::size_t lane) { (*static_cast<Work*>(all))(lane); };
    work_ = &work;
    gate_.store(kOpen, std::memory_order_release);
    round_.increase();
    work(0);
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (;;) {
      const std::uint32_t before = empty_.load();
      if (gate_.load(std::memory_order_acquire) == 0) return;
      empty_.wait_while(before);
    }
  }

 private:
  void help(std::size_t lane) {
    std::uint32_t seen = 0;
    for (;;) {
      round_.wait_while(seen);
      seen = round_.load();
      if (stops_.load(std::memory_order_relaxed)) return;
      if (!enter()) continue;
      call_(work_, lane);
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) empty_.increase();
    }
  }

  // Whether the work of now is still going on, which then waits for this helper.
  bool enter() {
    std::uint32_t gate = gate_.load(std::memory_order_relaxed);
    while ((gate & kOpen) != 0) {
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  static constexpr std::uint32_t kOpen = 1U << 31U;
  WaitedFor round_;                                 // works so far
  alignas(64) std::atomic<std::uint32_t> gate_{0};  // kOpen, and the helpers inside
  WaitedFor empty_;                                 // times that the last helper left a shut gate
  void (*call_)(void*, std::size_t) = nullptr;
  void* work_ = nullptr;
  std::atomic<bool> stops_{false};
  std::size_t count_;
  Threads threads_;
};

}  // namespace ds4::inline v0_1::simd::training
