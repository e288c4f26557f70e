// State rows of the SIMD backend: keys in blocks that forks share until they write.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <ds4/kernels/simd/indexer.hpp>

namespace ds4::simd {

/// A sequence of blocks of memory, appended at the end and forgotten from the front. Copies share
/// blocks; a block is copied when one of its owners writes to it.
class BlockList {
 public:
  explicit BlockList(std::size_t block_bytes = 0) : block_bytes_(block_bytes) {}

  std::size_t block_bytes() const { return block_bytes_; }
  /// Block number `block`, which is not forgotten.
  const std::byte* block(std::size_t block) const { return blocks_[block - first_].get(); }
  /// The block for writing: made, zeroed, if it is the next; copied if it is shared.
  std::byte* writable(std::size_t block) {
    if (block - first_ == blocks_.size()) {
      blocks_.push_back(make());
    } else if (blocks_[block - first_].use_count() > 1) {
      auto copy = make();
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
  std::size_t bytes() const { return blocks_.size() * block_bytes_; }

 private:
  std::shared_ptr<std::byte[]> make() const {
    auto* memory = static_cast<std::byte*>(::operator new(block_bytes_, std::align_val_t{64}));
    std::memset(memory, 0, block_bytes_);
    return {memory, [](std::byte* p) { ::operator delete(p, std::align_val_t{64}); }};
  }

  std::size_t block_bytes_;
  std::size_t first_ = 0;  // number of blocks_[0]
  std::vector<std::shared_ptr<std::byte[]>> blocks_;
};

/// Rows [Width] that queries attend to, BF16 or float32, 64 to a block.
template <std::size_t Width>
class KeyLog {
 public:
  static constexpr std::size_t kWidth = Width;
  static constexpr std::size_t kRowsPerBlock = 64;

  std::size_t end() const { return end_; }
  bool bf16() const { return bf16_; }
  const std::byte* row(std::size_t row) const {
    return blocks_.block(row / kRowsPerBlock) + row % kRowsPerBlock * row_bytes();
  }
  /// Adds a row and returns where it goes. The first one settles the format.
  std::byte* add(bool bf16) {
    if (end_ == 0) {
      bf16_ = bf16;
      blocks_ = BlockList(kRowsPerBlock * row_bytes());
    }
    std::byte* block = blocks_.writable(end_ / kRowsPerBlock);
    return block + end_++ % kRowsPerBlock * row_bytes();
  }
  void forget_before(std::size_t row) { blocks_.forget_before(row / kRowsPerBlock); }
  std::size_t bytes() const { return blocks_.bytes(); }

 private:
  std::size_t row_bytes() const { return Width * (bf16_ ? 2 : 4); }

  BlockList blocks_;
  std::size_t end_ = 0;
  bool bf16_ = false;
};

/// The indexer's keys [dI], in transposed blocks of kKeyBlock; see indexer.hpp.
template <std::size_t dI>
class IndexLog {
 public:
  static constexpr std::size_t kWidth = dI;
  /// Key blocks to an allocation.
  static constexpr std::size_t kGroup = 8;

  std::size_t end() const { return end_; }
  bool bf16() const { return bf16_; }
  const std::byte* key_block(std::size_t block) const {
    return blocks_.block(block / kGroup) + block % kGroup * key_block_bytes(dI, bf16_);
  }
  /// Adds a key and returns its block; its slot is (end() - 1) % kKeyBlock.
  std::byte* add(bool bf16) {
    if (end_ == 0) {
      bf16_ = bf16;
      blocks_ = BlockList(kGroup * key_block_bytes(dI, bf16_));
    }
    const std::size_t block = end_++ / kKeyBlock;
    return blocks_.writable(block / kGroup) + block % kGroup * key_block_bytes(dI, bf16_);
  }
  std::size_t bytes() const { return blocks_.bytes(); }

 private:
  BlockList blocks_;
  std::size_t end_ = 0;
  bool bf16_ = false;
};

}  // namespace ds4::simd
