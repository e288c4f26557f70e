// State rows in an execution space's memory.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <utility>

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Rows [Width] of a sequence under their absolute numbers, contiguous in the space's memory,
/// float32 or (Reducible) BF16. Copies share the memory until one of them is appended to. See
/// ds4::RowLog for what first, end, truncate, restart and the like mean.
template <class Space, std::size_t Width, bool Reducible>
class DeviceLog {
 public:
  static constexpr std::size_t kWidth = Width;
  static constexpr bool kReducible = Reducible;

  std::size_t first() const { return first_; }
  std::size_t end() const { return first_ + rows_; }
  DType dtype() const { return dtype_; }
  std::size_t row_bytes() const { return Width * dtype_size(dtype_); }
  /// Row number first(), on the device.
  const std::byte* data() const { return memory_.data() + skip_ * row_bytes(); }
  std::size_t bytes() const { return memory_.size(); }

  /// Adds `count` rows, still to be written, and returns where they go. They are of this type
  /// unless that is settled.
  std::byte* add(const Space& space, std::size_t count, DType dtype) {
    if (!settled_) dtype_ = Reducible ? dtype : DType::f32;
    settled_ = true;
    if (rows_ == 0) skip_ = 0;
    make_room(space, count);
    rows_ += count;
    return memory_.data() + (skip_ + rows_ - count) * row_bytes();
  }

  void forget_before(std::size_t row) {
    const std::size_t dropped = std::min(row > first_ ? row - first_ : 0, rows_);
    first_ += dropped;
    rows_ -= dropped;
    skip_ += dropped;
  }
  void truncate(std::size_t end) {
    assert(end >= first_ && end <= this->end());
    rows_ = end - first_;
  }
  void copy_row(std::size_t row, std::byte* out) const {
    copy_to_host(Space(), out, data() + (row - first_) * row_bytes(), row_bytes());
  }
  bool restart(std::size_t first, DType dtype) {
    restart(first);
    dtype_ = dtype;
    settled_ = true;
    return dtype == DType::f32 || (Reducible && dtype == DType::bf16);
  }
  void restart(std::size_t first) {
    *this = {};
    first_ = first;
  }
  void append_row(const std::byte* row) {
    const Space space;
    make_room(space, 1);
    ++rows_;
    copy_to_device(space, memory_.data() + (skip_ + rows_ - 1) * row_bytes(), row, row_bytes());
  }

 private:
  // Room for `count` more rows in memory that no other log has.
  void make_room(const Space& space, std::size_t count) {
    const std::size_t bytes = row_bytes();
    // Memory of a prompt's rows is not kept for single tokens.
    const bool oversized = memory_.size() > 4 * (rows_ + count + kLeastRows) * bytes;
    const bool own = !memory_.is_shared() && !oversized;
    if (own && (skip_ + rows_ + count) * bytes <= memory_.size()) return;
    // Forgotten rows make room if the others fit in their place.
    if (own && skip_ >= rows_ && (rows_ + count) * bytes <= memory_.size()) {
      if (rows_ > 0) copy_on_device(space, memory_.data(), data(), rows_ * bytes);
    } else {
      const std::size_t wanted = std::max(2 * (rows_ + count), kLeastRows);
      Bytes<Space> memory("ds4 state", wanted * bytes);
      if (rows_ > 0) copy_on_device(space, memory.data(), data(), rows_ * bytes);
      space.fence("ds4::state");  // before the old memory goes
      memory_ = std::move(memory);
    }
    skip_ = 0;
  }

  static constexpr std::size_t kLeastRows = 16;
  Bytes<Space> memory_;  // skip_ forgotten rows, then rows_ live ones, then room
  std::size_t first_ = 0;
  std::size_t rows_ = 0;
  std::size_t skip_ = 0;
  DType dtype_ = DType::f32;
  bool settled_ = false;  // the type of the rows
};

/// Rows that a compressor still needs.
template <class Space, std::size_t Width>
using RowLog = DeviceLog<Space, Width, false>;
/// Rows that queries attend to, or that the indexer scores.
template <class Space, std::size_t Width>
using KeyLog = DeviceLog<Space, Width, true>;

}  // namespace ds4::inline v0_1::kokkos
