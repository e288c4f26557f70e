// State rows of the SIMD backend: keys in blocks that forks share until they write.
#pragma once

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/indexer.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// Memory that its copies share, each of which may be on a thread of its own. Not a
/// std::shared_ptr: its count is read without order, so that an owner that finds itself alone could
/// write before one on another thread has read for the last time.
class SharedBlock {
 public:
  /// `bytes`, zeroed, aligned to 64.
  explicit SharedBlock(std::size_t bytes)
      : memory_(static_cast<std::byte*>(::operator new(kHead + bytes, kAlignment))) {
    new (memory_) Owners(1);
    std::memset(get(), 0, bytes);
  }
  SharedBlock(const SharedBlock& other) noexcept : memory_(other.memory_) {
    owners().fetch_add(1, std::memory_order_relaxed);
  }
  SharedBlock(SharedBlock&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
  SharedBlock& operator=(SharedBlock other) noexcept {
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~SharedBlock() {
    if (memory_ == nullptr || owners().fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    owners().~Owners();
    ::operator delete(memory_, kAlignment);
  }

  std::byte* get() const { return memory_ + kHead; }
  /// Whether there are copies; if not, all that was done with them is over.
  bool is_shared() const { return owners().load(std::memory_order_acquire) > 1; }

 private:
  using Owners = std::atomic<std::size_t>;
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::size_t kHead = 64;  // the number of owners, in front

  Owners& owners() const { return *std::launder(reinterpret_cast<Owners*>(memory_)); }

  std::byte* memory_;
};

/// A sequence of blocks of memory, appended at the end and forgotten from the front. Copies share
/// blocks; a block is copied when one of its owners writes to it.
class BlockList {
 public:
  /// Blocks of `block_bytes`; the first to be written has this number.
  explicit BlockList(std::size_t block_bytes = 0, std::size_t first = 0)
      : block_bytes_(block_bytes), first_(first) {}

  std::size_t block_bytes() const { return block_bytes_; }
  /// Block number `block`, which is not forgotten.
  const std::byte* block(std::size_t block) const { return blocks_[block - first_].get(); }
  /// The block for writing: made, zeroed, if it is the next; copied if it is shared.
  std::byte* writable(std::size_t block) {
    if (block - first_ == blocks_.size()) {
      blocks_.emplace_back(block_bytes_);
    } else if (blocks_[block - first_].is_shared()) {
      SharedBlock copy(block_bytes_);
      std::memcpy(copy.get(), blocks_[block - first_].get(), block_bytes_);
      blocks_[block - first_] = std::move(copy);
    }
    return blocks_[block - first_].get();
  }
  void forget_before(std::size_t block) {
    if (block <= first_) return;
    const std::size_t count = block - first_ < blocks_.size() ? block - first_ : blocks_.size();
    blocks_.erase(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(count));
    first_ += count;
  }
  /// Keeps the blocks before this one.
  void truncate(std::size_t block) {
    if (block - first_ >= blocks_.size()) return;
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(block - first_), blocks_.end());
  }
  std::size_t bytes() const { return blocks_.size() * block_bytes_; }

 private:
  std::size_t block_bytes_;
  std::size_t first_ = 0;  // number of blocks_[0]
  std::vector<SharedBlock> blocks_;
};

/// Rows [Width], BF16 or float32, RowsPerBlock to a block: what queries attend to.
template <std::size_t Width, std::size_t RowsPerBlock = kKeyLogRows>
class KeyLog {
 public:
  static constexpr std::size_t kWidth = Width;
  static constexpr bool kReducible = true;

  std::size_t first() const { return first_; }
  std::size_t end() const { return end_; }
  bool bf16() const { return bf16_; }
  const std::byte* row(std::size_t row) const {
    return blocks_.block(row / RowsPerBlock) + row % RowsPerBlock * row_bytes();
  }
  /// Adds a row and returns where it goes. The rows are of this type unless that is settled.
  std::byte* add(DType dtype) {
    if (!settled_) restart(end_, dtype);
    std::byte* block = blocks_.writable(end_ / RowsPerBlock);
    return block + end_++ % RowsPerBlock * row_bytes();
  }
  void forget_before(std::size_t row) {
    if (row <= first_) return;
    first_ = std::min(row, end_);
    blocks_.forget_before(first_ / RowsPerBlock);
  }
  std::size_t bytes() const { return blocks_.bytes(); }

  // As ds4::RowLog has it.
  void truncate(std::size_t end) {
    assert(end >= first_ && end <= end_);
    end_ = end;
    blocks_.truncate((end + RowsPerBlock - 1) / RowsPerBlock);
  }
  DType dtype() const { return bf16_ ? DType::bf16 : DType::f32; }
  void copy_row(std::size_t row, std::byte* out) const {
    std::memcpy(out, this->row(row), row_bytes());
  }
  bool restart(std::size_t first, DType dtype) {
    first_ = end_ = first;
    bf16_ = dtype == DType::bf16;
    settled_ = true;
    blocks_ = BlockList(RowsPerBlock * row_bytes(), first / RowsPerBlock);
    return bf16_ || dtype == DType::f32;
  }
  void restart(std::size_t first) {
    *this = {};
    first_ = end_ = first;
  }
  void append_row(const std::byte* row) { std::memcpy(add(dtype()), row, row_bytes()); }

 private:
  std::size_t row_bytes() const { return Width * (bf16_ ? 2 : 4); }

  BlockList blocks_;
  std::size_t first_ = 0;
  std::size_t end_ = 0;
  bool bf16_ = false;
  bool settled_ = false;  // the type of the rows
};

/// Float32 rows [Width] that a compressor still needs.
template <std::size_t Width>
class TailLog : public KeyLog<Width, kTailLogRows> {
  using Rows = KeyLog<Width, kTailLogRows>;

 public:
  static constexpr bool kReducible = false;

  const float* row(std::size_t row) const { return reinterpret_cast<const float*>(Rows::row(row)); }
  void append(RowsView<const float, Width> rows) {
    for (std::size_t i = 0; i < rows.extent(0); ++i) {
      std::memcpy(Rows::add(DType::f32), rows[i].data(), Width * sizeof(float));
    }
  }
  using Rows::restart;
  bool restart(std::size_t first, DType dtype) {
    return Rows::restart(first, dtype) && dtype == DType::f32;
  }
};

/// The indexer's keys [dI], in transposed blocks of kKeyBlock; see indexer.hpp.
template <std::size_t dI>
class IndexLog {
 public:
  static constexpr std::size_t kWidth = dI;
  static constexpr bool kReducible = true;
  /// Key blocks to an allocation.
  static constexpr std::size_t kGroup = kIndexLogBlocks;

  std::size_t first() const { return 0; }
  std::size_t end() const { return end_; }
  bool bf16() const { return bf16_; }
  const std::byte* key_block(std::size_t block) const {
    return blocks_.block(block / kGroup) + block % kGroup * key_block_bytes(dI, bf16_);
  }
  /// Adds a key and returns its block; its slot is (end() - 1) % kKeyBlock. See KeyLog::add.
  std::byte* add(DType dtype) {
    if (!settled_) restart(0, dtype);
    const std::size_t block = end_++ / kKeyBlock;
    return blocks_.writable(block / kGroup) + block % kGroup * key_block_bytes(dI, bf16_);
  }
  std::size_t bytes() const { return blocks_.bytes(); }

  // As ds4::RowLog has it.
  void truncate(std::size_t end) {
    assert(end <= end_);
    end_ = end;
    blocks_.truncate((end + kGroup * kKeyBlock - 1) / (kGroup * kKeyBlock));
  }
  DType dtype() const { return bf16_ ? DType::bf16 : DType::f32; }
  void copy_row(std::size_t row, std::byte* out) const {
    for (std::size_t c = 0; c < dI; ++c) {
      std::memcpy(out + c * element(), key_block(row / kKeyBlock) + place(row, c), element());
    }
  }
  bool restart(std::size_t first, DType dtype) {
    end_ = 0;
    bf16_ = dtype == DType::bf16;
    settled_ = true;
    blocks_ = BlockList(kGroup * key_block_bytes(dI, bf16_));
    return first == 0 && (bf16_ || dtype == DType::f32);
  }
  void restart(std::size_t) { *this = {}; }
  void append_row(const std::byte* row) {
    std::byte* block = add(dtype());
    for (std::size_t c = 0; c < dI; ++c) {
      std::memcpy(block + place(end_ - 1, c), row + c * element(), element());
    }
  }

 private:
  std::size_t element() const { return bf16_ ? 2 : 4; }
  std::size_t place(std::size_t row, std::size_t channel) const {
    return key_offset(row % kKeyBlock, channel, bf16_);
  }

  BlockList blocks_;
  std::size_t end_ = 0;
  bool bf16_ = false;
  bool settled_ = false;  // the type of the keys
};

}  // namespace ds4::inline v0_1::simd
