// Threads for training: tasks by fork and join, and scratch memory that is kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/team.hpp>

namespace ds4::inline v0_1::simd::training {

/// Runs tasks on a number of threads. Which thread runs a task is left to chance: a task's result
/// must not depend on it.
class Workers {
 public:
  /// 0 threads: one per processor that the process may use.
  explicit Workers(std::size_t threads) : lanes_(threads == 0 ? processors() : threads) {}

  /// How many there are.
  std::size_t threads() const { return lanes_.size(); }

  /// Calls f(task, scratch) for every task < count; scratch has `floats` values that are the task's
  /// own.
  template <class F>
  void run(std::size_t count, std::size_t floats, F&& f) {
    const bool forks = count > 1 && threads() > 1;
    for (std::size_t lane = 0; lane < (forks ? threads() : 1); ++lane) {
      lanes_[lane].reserve(floats);
    }
#ifdef _OPENMP
    if (forks) {
#pragma omp parallel num_threads(static_cast<int>(threads()))
      {
        float* const scratch = lanes_[static_cast<std::size_t>(omp_get_thread_num())].values();
#pragma omp for schedule(dynamic, 1)
        for (std::size_t task = 0; task < count; ++task) f(task, scratch);
      }
      return;
    }
#endif
    for (std::size_t task = 0; task < count; ++task) f(task, lanes_[0].values());
  }

  /// Memory that tasks share, for as long as this object lives.
  class Scratch {
   public:
    /// Takes memory behind that of the scratches that live.
    explicit Scratch(Workers& workers) : workers_(workers), before_(workers.cursor_) {
      if (workers.depth_++ > 0) return;
      workers.arena_.settle();
      workers.cursor_ = Arena::Cursor(workers.arena_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
      if (--workers_.depth_ > 0) workers_.cursor_ = before_;
    }

    /// `count` values, not initialised.
    template <class Item = float>
    Item* array(std::size_t count) {
      return reinterpret_cast<Item*>(workers_.cursor_.allocate(count * sizeof(Item)));
    }

   private:
    Workers& workers_;
    Arena::Cursor before_;
  };

 private:
  class Lane {
   public:
    void reserve(std::size_t floats) {
      if (floats <= size_) return;
      memory_ = allocate_block(floats * sizeof(float));
      size_ = floats;
    }
    float* values() const { return reinterpret_cast<float*>(memory_.get()); }

   private:
    MemoryBlock memory_;
    std::size_t size_ = 0;
  };

  static std::size_t processors() {
#ifdef _OPENMP
    return static_cast<std::size_t>(omp_get_num_procs());
#else
    return 1;
#endif
  }

  std::vector<Lane> lanes_;
  Arena arena_;
  Arena::Cursor cursor_{arena_};
  std::size_t depth_ = 0;
};

}  // namespace ds4::inline v0_1::simd::training
