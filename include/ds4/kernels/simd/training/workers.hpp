// Tasks of training by fork and join on threads, and scratch memory that is kept.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include <ds4/core/processors.hpp>
#include <ds4/kernels/simd/arena.hpp>
#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/training/helpers.hpp>

namespace ds4::inline v0_1::simd::training {

/// Runs tasks on a number of threads. Which thread runs a task is left to chance: a task's result
/// must not depend on it.
class Workers {
 public:
  /// 0 threads: usable_processors().
  explicit Workers(std::size_t threads)
      : threads_(threads == 0 ? usable_processors() : threads),
        lanes_(std::make_unique<Lane[]>(threads_)),
        helpers_(threads_ - 1) {}

  /// How many there are.
  std::size_t threads() const { return threads_; }

  /// Calls f(task, scratch) for every task < count; scratch has `floats` values that are the task's
  /// own. A thread begins with the same share of the tasks every time, as what it has computed is
  /// in its cache, and then helps with those of the others.
  template <class F>
  void run(std::size_t count, std::size_t floats, F&& f) {
    const std::size_t lanes = count > 1 ? threads() : 1;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      lanes_[lane].reserve(floats);
      lanes_[lane].next.store(lane * count / lanes, std::memory_order_relaxed);
      lanes_[lane].end = (lane + 1) * count / lanes;
    }
    auto work = [&](std::size_t lane) {
      float* const scratch = lanes_[lane].values();
      for (std::size_t i = 0; i < lanes; ++i) {
        Lane& share = lanes_[(lane + i) % lanes];
        for (;;) {
          const std::size_t task = share.next.fetch_add(1, std::memory_order_relaxed);
          if (task >= share.end) break;
          f(task, scratch);
        }
      }
    };
    if (lanes > 1) {
      helpers_.run(work);
    } else {
      work(0);
    }
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
  // A thread's scratch memory, and its share of the tasks.
  class alignas(64) Lane {
   public:
    std::atomic<std::size_t> next{0};
    std::size_t end = 0;

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

  std::size_t threads_;
  std::unique_ptr<Lane[]> lanes_;
  Helpers helpers_;
  Arena arena_;
  Arena::Cursor cursor_{arena_};
  std::size_t depth_ = 0;
};

}  // namespace ds4::inline v0_1::simd::training
