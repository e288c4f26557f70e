// Threads that run a pass together, and the scratch memory that they share.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/processors.hpp>
#include <ds4/kernels/simd/arena.hpp>
#include <ds4/kernels/simd/barrier.hpp>
#include <ds4/kernels/simd/crew.hpp>
#include <ds4/kernels/simd/team_size.hpp>
#include <ds4/kernels/simd/thread.hpp>

namespace ds4::inline v0_1::simd {

/// How a team uses its threads.
struct TeamOptions {
  std::size_t threads = 0;  ///< 0: usable_processors(), as far as there are `cores`
  /// Fewer lanes while other programs want the processors; see TeamSize.
  bool adapts = true;
  /// Each lane stays on one core of its own, if there are as many. What other threads do there is
  /// not known: a second team that is pinned takes the same ones, unless each has its own slice.
  bool pin = false;
  ///@{
  /// The team's slice of the cores that the process may run on, in the order of
  /// one_processor_per_core(): so many from this one on. All threads stay within it. With 0 cores
  /// there is none.
  std::size_t first_core = 0;
  std::size_t cores = 0;
  ///@}
};

/// Where the threads of a team are.
struct TeamPlaces {
  std::size_t threads = 1;
  std::vector<int> processors;  ///< that all stay on; none: where the scheduler puts them
  bool pin = false;             ///< each on its own of these
};

/// Throws ds4::Error for a slice that is not there.
inline TeamPlaces places_of(const TeamOptions& options) {
  TeamPlaces places;
  const std::size_t usable = usable_processors();
  places.threads = options.threads > 0 ? options.threads : usable;
  if (!options.pin && options.cores == 0) return places;
  places.processors = one_processor_per_core(allowed_processors());
  if (options.cores > 0) {
    const std::size_t all = places.processors.size();
    if (options.first_core >= all || options.cores > all - options.first_core) {
      throw Error("cores", "found " + std::to_string(options.cores) + " from number " +
                               std::to_string(options.first_core) + " on, expected some of the " +
                               std::to_string(all) + " that the process may run on");
    }
    const auto begin = places.processors.begin() + static_cast<std::ptrdiff_t>(options.first_core);
    places.processors = {begin, begin + static_cast<std::ptrdiff_t>(options.cores)};
    if (options.threads == 0) places.threads = std::min(usable, options.cores);
  }
  places.pin = options.pin && places.processors.size() >= places.threads;
  if (!places.pin && options.cores == 0) places.processors.clear();
  return places;
}

/// The threads of a backend and their memory; shared by the backend's lanes.
class Team {
 public:
  /// Its threads start with the first pass that needs them. Throws as places_of does.
  explicit Team(const TeamOptions& options) : Team(options, places_of(options)) {}

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
  /// barrier; when they have ended, the first exception is thrown here. Throws ds4::Error if the
  /// team is running already.
  template <class F>
  void run(F&& f) {
    const Running running(running_);
    shared_.settle();
    for (std::size_t lane = 0; lane < threads_; ++lane) private_[lane].settle();
    const std::size_t lanes = size_.lanes();
    barrier_.reset(lanes);
    auto work = [&](std::size_t lane) {
      try {
        // The team's own threads stay where they are; the caller's is only lent.
        const Pin pin(lane == 0 ? place_of(lane) : std::span<const int>());
        if (lane > 0 && !std::exchange(worked_[lane].placed, true) && !place_of(lane).empty()) {
          place_thread(place_of(lane));
        }
        const double start = adapts_ ? thread_seconds() : 0.0;
        f(lane, lanes);
        if (adapts_) worked_[lane].seconds = thread_seconds() - start;
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
  struct alignas(64) Worked {
    double seconds = 0.0;
    bool placed = false;  // the lane's thread
  };
  class Running {
   public:
    explicit Running(std::atomic<bool>& flag) : flag_(flag) {
      if (!flag_.exchange(true, std::memory_order_acquire)) return;
      throw Error("pass",
                  "found another on the same threads, expected one at a time: a model's copy "
                  "for another thread has a team of its own (Model::with_team)");
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running() { flag_.store(false, std::memory_order_release); }

   private:
    std::atomic<bool>& flag_;
  };

  Team(const TeamOptions& options, TeamPlaces places)
      : threads_(places.threads),
        adapts_(options.adapts && threads_ > 1),
        places_(std::move(places)),
        size_(threads_),
        crew_(threads_),
        worked_(std::make_unique<Worked[]>(threads_)),
        private_(std::make_unique<Arena[]>(threads_)) {}

  /// The processors that a lane stays on; none: any.
  std::span<const int> place_of(std::size_t lane) const {
    const std::span all(places_.processors);
    return places_.pin ? all.subspan(lane, 1) : all;
  }

  void note_time(std::size_t lanes, Clock::duration time) {
    const auto seconds = [](auto t) { return std::chrono::duration<double>(t).count(); };
    double worked = -seconds(barrier_.spun());
    for (std::size_t lane = 0; lane < lanes; ++lane) worked += worked_[lane].seconds;
    size_.note({seconds(time), worked, barrier_.slept()});
  }

  std::size_t threads_;
  bool adapts_;
  TeamPlaces places_;
  std::atomic<bool> running_{false};
  TeamSize size_;
  Crew crew_;
  Barrier barrier_;
  std::atomic<bool> failed_{false};   // a lane, in this pass
  std::exception_ptr first_;          // what the first of them threw
  std::unique_ptr<Worked[]> worked_;  // of each lane, in a pass
  Arena shared_;
  std::unique_ptr<Arena[]> private_;
};

}  // namespace ds4::inline v0_1::simd
