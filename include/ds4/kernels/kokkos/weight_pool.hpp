// The memory of a model's matrices, and their upload.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// The memory of a model's matrices: a few large allocations, freed together.
template <class Space>
class WeightPool {
 public:
  /// Told bytes of the files done and bytes in all, as weights are uploaded.
  using Progress = std::function<void(std::size_t, std::size_t)>;
  explicit WeightPool(Progress progress) : progress_(std::move(progress)) {}

  /// How many bytes of files are to come.
  void expect(std::size_t bytes) { expected_ = bytes; }
  std::size_t bytes() const { return used_; }

  /// Throws ds4::Error if the space's memory is too small, and says how much is there.
  PackedMatrix upload(const Space& space, const StoredMatrix& stored) {
    PackedMatrix packed = packed_shape(stored);
    const std::size_t word_bytes = packed.word_bytes();
    std::byte* memory = take(word_bytes + packed.scale_bytes());
    packed.words = reinterpret_cast<const std::uint32_t*>(memory);
    packed.scales = memory + word_bytes;
    if constexpr (kOnHost<Space>) {
      pack(reinterpret_cast<std::uint32_t*>(memory), memory + word_bytes, packed, stored);
    } else {
      staging_.resize(word_bytes + packed.scale_bytes());
      pack(reinterpret_cast<std::uint32_t*>(staging_.data()), staging_.data() + word_bytes, packed,
           stored);
      copy_to_device(space, memory, staging_.data(), staging_.size());
    }
    done_ += packed.rows == 0 ? 0 : word_bytes;
    if (progress_) progress_(std::min(done_, expected_), expected_);
    return packed;
  }

 private:
  std::byte* take(std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (blocks_.empty() || left_ < bytes) {
      const std::size_t rest = expected_ > used_ ? expected_ - used_ : 0;
      const std::size_t size = std::max(bytes, std::min(kBlock, rest + rest / 8));
      try {
        blocks_.emplace_back("ds4 weights", size);
      } catch (const Error&) {
        throw Error(ErrorKind::memory, "weights",
                    "expected room for " + std::to_string(expected_) + " bytes in the memory of " +
                        Space::name() + ", found room for " + std::to_string(used_));
      }
      left_ = size;
    }
    std::byte* memory = blocks_.back().data() + (blocks_.back().size() - left_);
    left_ -= bytes;
    used_ += bytes;
    return memory;
  }

  static constexpr std::size_t kAlignment = 256;
  static constexpr std::size_t kBlock = std::size_t{256} << 20;
  Progress progress_;
  std::vector<Bytes<Space>> blocks_;
  std::vector<std::byte> staging_;
  std::size_t left_ = 0;  // of the last block
  std::size_t used_ = 0;
  std::size_t expected_ = 0;
  std::size_t done_ = 0;
};

}  // namespace ds4::inline v0_1::kokkos
