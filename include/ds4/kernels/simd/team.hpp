// Threads that run a pass together, and the scratch memory that they share.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/spin.hpp>

namespace ds4::inline v0_1::simd {

/// Where the lanes of a team meet. Waiting spins for a moment: with a core per lane it costs a
/// fraction of a microsecond. Then it sleeps, so that lanes without a core of their own get one.
class Barrier {
 public:
  /// Before lanes meet: how many there are.
  void reset(std::size_t lanes) { lanes_ = lanes; }

  void wait() {
    const std::uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == lanes_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    const auto met = [&] { return round_.load(std::memory_order_acquire) != round; };
    if (!spin_until(met)) round_.wait(round, std::memory_order_acquire);
  }

 private:
  alignas(64) std::atomic<std::size_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> round_{0};
  std::size_t lanes_ = 1;
};

/// Stack-like scratch memory that is kept from pass to pass. Every lane moves a cursor of its own
/// over the same blocks; lanes that ask for the same sizes in the same order get the same memory.
class Arena {
  static constexpr std::size_t kMaxBlocks = 48;
  struct Block {
    MemoryBlock memory;
    std::size_t size = 0;
  };

 public:
  /// One lane's place.
  class Cursor {
   public:
    explicit Cursor(Arena& arena) : arena_(&arena) {}

    /// `bytes` of memory, 64-byte aligned, not initialised.
    std::byte* allocate(std::size_t bytes) {
      bytes = (bytes + 63) / 64 * 64;
      while (offset_ + bytes > size_) {
        const Block& next = arena_->block(next_, bytes);
        base_ = next.memory.get();
        size_ = next.size;
        offset_ = 0;
        ++next_;
      }
      std::byte* result = base_ + offset_;
      offset_ += bytes;
      used_ += bytes;
      arena_->note_peak(used_);
      return result;
    }

   private:
    Arena* arena_;
    std::byte* base_ = nullptr;
    std::size_t size_ = 0;
    std::size_t offset_ = 0;
    std::size_t next_ = 0;
    std::size_t used_ = 0;
  };

  /// Between passes: what the last pass took in pieces becomes one block, so that a steady state
  /// allocates nothing.
  void settle() {
    if (blocks_[1].size == 0 && blocks_[0].size >= peak_) return;
    for (Block& block : blocks_) block = {};
    blocks_[0] = make(peak_);
  }

  /// The most that was in use at once.
  std::size_t peak() const { return peak_; }

 private:
  void note_peak(std::size_t used) {
    std::size_t peak = peak_.load(std::memory_order_relaxed);
    while (used > peak && !peak_.compare_exchange_weak(peak, used, std::memory_order_relaxed)) {
    }
  }

  static Block make(std::size_t size) { return {allocate_block(size), size}; }

  // The block with this index, of at least `bytes`: whichever lane comes first makes it.
  const Block& block(std::size_t index, std::size_t bytes) {
    const std::scoped_lock lock(mutex_);
    if (index >= kMaxBlocks) throw std::bad_alloc();
    if (blocks_[index].size < bytes) {
      const std::size_t grown = index == 0 ? kFirstBlock : 2 * blocks_[index - 1].size;
      blocks_[index] = make(bytes > grown ? bytes : grown);
    }
    return blocks_[index];
  }

  static constexpr std::size_t kFirstBlock = 1 << 18;
  std::array<Block, kMaxBlocks> blocks_;
  std::mutex mutex_;
  std::atomic<std::size_t> peak_{0};
};

/// Keeps the calling thread on one processor for as long as it lives: the lanes of a team wait for
/// each other all the time, and two of them on one processor run at a tenth of the speed.
class Pin {
 public:
  /// Lane `lane` goes to that one of the processors that the thread may use; more lanes than
  /// processors go anywhere.
  Pin([[maybe_unused]] std::size_t lane, [[maybe_unused]] std::size_t lanes) {
#if defined(__linux__)
    if (::sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    if (lanes > static_cast<std::size_t>(CPU_COUNT(&before_))) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before_) || lane-- > 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      pinned_ = ::sched_setaffinity(0, sizeof one, &one) == 0;
      return;
    }
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

/// The threads of a backend and their memory; shared by the backend's lanes.
class Team {
 public:
  /// 0 threads: one per processor that the process may use.
  explicit Team(std::size_t threads) : threads_(threads == 0 ? processors() : threads) {
    private_ = std::make_unique<Arena[]>(threads_);
  }

  /// Those that the process may use.
  static std::size_t processors() {
#ifdef _OPENMP
    return static_cast<std::size_t>(omp_get_num_procs());
#else
    return 1;
#endif
  }

  std::size_t threads() const { return threads_; }
  Barrier& barrier() { return barrier_; }
  Arena& shared() { return shared_; }
  Arena& own(std::size_t lane) { return private_[lane]; }
  std::size_t scratch_bytes() const {
    std::size_t bytes = shared_.peak();
    for (std::size_t lane = 0; lane < threads_; ++lane) bytes += private_[lane].peak();
    return bytes;
  }

  /// Calls f(lane, lanes) on every thread.
  template <class F>
  void run(F&& f) {
    shared_.settle();
    for (std::size_t lane = 0; lane < threads_; ++lane) private_[lane].settle();
#ifdef _OPENMP
    if (threads_ > 1) {
#pragma omp parallel num_threads(static_cast<int>(threads_))
      {
        const auto lanes = static_cast<std::size_t>(omp_get_num_threads());
        const auto lane = static_cast<std::size_t>(omp_get_thread_num());
        const Pin pin(lane, lanes);
#pragma omp single
        barrier_.reset(lanes);
        f(lane, lanes);
      }
      return;
    }
#endif
    f(std::size_t{0}, std::size_t{1});
  }

 private:
  std::size_t threads_;
  Barrier barrier_;
  Arena shared_;
  std::unique_ptr<Arena[]> private_;
};

}  // namespace ds4::inline v0_1::simd
