// Threads that run a pass together, and the scratch memory that they share.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <ds4/core/processors.hpp>
#include <ds4/kernels/simd/arena.hpp>
#include <ds4/kernels/simd/barrier.hpp>
#include <ds4/kernels/simd/crew.hpp>
#include <ds4/kernels/simd/team_size.hpp>
#include <ds4/kernels/simd/thread.hpp>

namespace ds4::inline v0_1::simd {

/// How a team uses its threads.
struct TeamOptions {
  std::size_t threads = 0;  ///< 0: usable_processors()
  /// Fewer lanes while other programs want the processors; see TeamSize.
  bool adapts = false;
  /// Each lane stays on one processor, if there are as many. What other threads do there is not
  /// known: a second team that is pinned takes the same ones.
  bool pin = false;
};

/// The threads of a backend and their memory; shared by the backend's lanes.
class Team {
 public:
  /// Its threads start with the first pass that needs them.
  explicit Team(const TeamOptions& options)
      : threads_(options.threads == 0 ? usable_processors() : options.threads),
        adapts_(options.adapts && threads_ > 1),
        size_(threads_),
        crew_(threads_),
        worked_(std::make_unique<Seconds[]>(threads_)),
        private_(std::make_unique<Arena[]>(threads_)) {
    if (options.pin) cores_ = one_processor_per_core(allowed_processors());
    if (cores_.size() < threads_) cores_.clear();
  }

  /// The most lanes that a pass has.
  std::size_t threads() const { return threads_; }
  Barrier& barrier() { return barrier_; }
  Arena& shared() { return shared_; }
  Arena& own(std::size_t lane) { return private_[lane]; }
  std::size_t scratch_bytes() const {
    std::size_t bytes = shared_.peak();
    for (std::size_t lane = 0; lane < threads_; ++lane) bytes += private_[lane].peak();
    return bytes;
  }

  /// Not while lanes run.
  void release_scratch() {
    shared_.release();
    for (std::size_t lane = 0; lane < threads_; ++lane) private_[lane].release();
  }

  /// Calls f(lane, lanes) for every lane, on a thread each. What f throws lets all lanes out of the
  /// barrier; when they have ended, the first exception is thrown here.
  template <class F>
  void run(F&& f) {
    shared_.settle();
    for (std::size_t lane = 0; lane < threads_; ++lane) private_[lane].settle();
    const std::size_t lanes = size_.lanes();
    barrier_.reset(lanes);
    auto work = [&](std::size_t lane) {
      try {
        const Pin pin(cores_.empty() ? -1 : cores_[lane]);
        const double start = adapts_ ? thread_seconds() : 0.0;
        f(lane, lanes);
        if (adapts_) worked_[lane].value = thread_seconds() - start;
      } catch (...) {
        if (!failed_.exchange(true)) first_ = std::current_exception();
        barrier_.leave();
      }
    };
    const auto start = Clock::now();
    crew_.run(lanes, work);
    if (failed_.exchange(false)) std::rethrow_exception(std::exchange(first_, nullptr));
    if (adapts_) note_time(lanes, Clock::now() - start);
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct alignas(64) Seconds {
    double value = 0.0;
  };

  void note_time(std::size_t lanes, Clock::duration time) {
    const auto seconds = [](auto t) { return std::chrono::duration<double>(t).count(); };
    double worked = -seconds(barrier_.spun());
    for (std::size_t lane = 0; lane < lanes; ++lane) worked += worked_[lane].value;
    size_.note({seconds(time), worked, barrier_.slept()});
  }

  std::size_t threads_;
  bool adapts_;
  TeamSize size_;
  Crew crew_;
  Barrier barrier_;
  std::vector<int> cores_;           // a processor for each lane; none: where the scheduler puts it
  std::atomic<bool> failed_{false};  // a lane, in this pass
  std::exception_ptr first_;         // what the first of them threw
  std::unique_ptr<Seconds[]> worked_;  // of each lane in a pass
  Arena shared_;
  std::unique_ptr<Arena[]> private_;
};

}  // namespace ds4::inline v0_1::simd
