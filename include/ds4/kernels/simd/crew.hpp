// Threads that each do their part of a work at the same time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <ds4/kernels/simd/sleep.hpp>
#include <ds4/kernels/simd/threads.hpp>

namespace ds4::inline v0_1::simd {

/// Threads that are kept from work to work. One that has nothing to do, or waits for the others to
/// end, spins for a moment and then sleeps.
class Crew {
 public:
  /// Up to `most` threads, of which the caller of run() is one; the others start with the first
  /// work that needs them.
  explicit Crew(std::size_t most) : calls_(std::make_unique<WaitedFor[]>(most)) {}
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew() {
    call_ = nullptr;
    for (std::size_t i = 0; i < threads_.size(); ++i) calls_[i + 1].increase();
    threads_.join();
  }

  /// Calls work(0) here and work(1), ..., work(count - 1) on a thread each, the same one every
  /// time; all have returned when this does. With more than one, work must not throw. Throws
  /// ds4::Error in a process that fork() has made since threads were started.
  template <class Work>
  void run(std::size_t count, Work& work) {
    if (count == 1) return work(std::size_t{0});
    threads_.check();
    while (threads_.size() + 1 < count) {
      threads_.start([this, lane = threads_.size() + 1] { serve(lane); });
    }
    call_ = [](void* all, std::size_t lane) noexcept { (*static_cast<Work*>(all))(lane); };
    work_ = &work;
    left_.store(count - 1, std::memory_order_relaxed);
    const std::uint32_t before = ends_.load();
    for (std::size_t lane = 1; lane < count; ++lane) calls_[lane].increase();
    call_(work_, 0);
    ends_.wait_while(before);
  }

 private:
  void serve(std::size_t lane) {
    for (std::uint32_t seen = 0;; ++seen) {
      calls_[lane].wait_while(seen);
      if (call_ == nullptr) return;
      call_(work_, lane);
      if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) ends_.increase();
    }
  }

  std::unique_ptr<WaitedFor[]> calls_;  // of each thread, as not every work is for all
  Threads threads_;
  alignas(64) std::atomic<std::size_t> left_{0};  // threads that have not done their part
  WaitedFor ends_;                                // of works
  void (*call_)(void*, std::size_t) noexcept = nullptr;
  void* work_ = nullptr;
};

}  // namespace ds4::inline v0_1::simd
