// Memory for weights that a backend keeps in a layout of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <ds4/kernels/simd/memory.hpp>

namespace ds4::inline v0_1::simd {

/// Hands out zeroed memory from large blocks.
class WeightPool {
 public:
  /// Before memory is handed out: about how much will be, so that little is left over.
  void expect(std::size_t bytes) { piece_ = std::clamp(bytes / 8 / 64 * 64, kLeast, kPiece); }

  /// By how much allocate(bytes) makes the pool larger.
  std::size_t growth(std::size_t bytes) const {
    if (bytes <= left_) return 0;
    return block_size(std::max((bytes + 63) / 64 * 64, piece_));
  }

  /// `bytes` of zeros, aligned to 64, for as long as the pool lives.
  std::byte* allocate(std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      const std::size_t size = growth(bytes);
      pieces_.push_back(allocate_block(size));
      std::fill_n(pieces_.back().get(), size, std::byte{0});
      next_ = pieces_.back().get();
      left_ = size;
    }
    std::byte* result = next_;
    next_ += bytes;
    left_ -= bytes;
    return result;
  }

 private:
  static constexpr std::size_t kLeast = std::size_t{1} << 14;
  static constexpr std::size_t kPiece = std::size_t{1} << 25;

  std::size_t piece_ = kPiece;
  std::vector<MemoryBlock> pieces_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

}  // namespace ds4::inline v0_1::simd
