// Scratch memory of the threads that run a pass together.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <new>

#include <ds4/kernels/simd/memory.hpp>

namespace ds4::inline v0_1::simd {

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
    const std::size_t size = peak_;
    release();  // without memory for one block, the next pass begins with nothing
    blocks_[0] = make(size);
    peak_ = size;
  }
  /// Between passes: has no memory any more.
  void release() {
    for (Block& block : blocks_) block = {};
    peak_ = 0;
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

}  // namespace ds4::inline v0_1::simd
