// Rows of a growing sequence under their absolute numbers: what decoder state is made of.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// The rows [first, end) of a sequence of rows [Width], contiguous in memory. Rows are appended at
/// the end and forgotten from the front. A plain value.
template <class T, std::size_t Width>
class RowLog {
 public:
  /// Values of a row.
  static constexpr std::size_t kWidth = Width;
  /// Whether rows may be of several types, of which the sequence's state settles one for all such
  /// logs.
  static constexpr bool kReducible = false;

  ///@{
  /// The first row, and the one behind the last.
  std::size_t first() const { return first_; }
  std::size_t end() const { return first_ + rows_; }
  ///@}

  /// Row number `row`, first() <= row < end().
  const T* row(std::size_t row) const {
    assert(row >= first_ && row < end());
    return data_.data() + (skip_ + row - first_) * Width;
  }

  /// Adds rows at the end.
  void append(RowsView<const T, Width> rows) {
    data_.insert(data_.end(), rows.data(), rows.data() + rows.size());
    rows_ += rows.extent(0);
  }

  /// Forgets the rows before `row`; rows that were never there are no error.
  void forget_before(std::size_t row) {
    const std::size_t dropped = std::min(row > first_ ? row - first_ : 0, rows_);
    first_ += dropped;
    rows_ -= dropped;
    skip_ += dropped;
    if (skip_ > rows_) {  // moves each row at most once for every row dropped
      data_.erase(data_.begin(), data_.begin() + static_cast<std::ptrdiff_t>(skip_ * Width));
      skip_ = 0;
    }
  }

  /// Forgets the rows from `end` on; first() <= end <= end().
  void truncate(std::size_t end) {
    assert(end >= first_ && end <= this->end());
    rows_ = end - first_;
    data_.resize((skip_ + rows_) * Width);
  }

  /// Bytes of memory.
  std::size_t bytes() const { return data_.capacity() * sizeof(T); }

  // How a state is saved and restored: row by row, in the type that the log keeps.

  /// The type of the rows.
  DType dtype() const
    requires std::is_floating_point_v<T>
  {
    return kDType;
  }
  /// The bytes of row number `row`, [Width] values of dtype().
  void copy_row(std::size_t row, std::byte* out) const {
    std::memcpy(out, this->row(row), Width * sizeof(T));
  }
  ///@{
  /// Becomes the empty log whose next row is `first`, of this type from now on, or of the one that
  /// the first append has; false if it cannot keep rows of this type.
  bool restart(std::size_t first, DType dtype) {
    restart(first);
    return dtype == kDType;
  }
  void restart(std::size_t first) {
    *this = {};
    first_ = first;
  }
  ///@}
  /// Adds a row of the type that restart was told.
  void append_row(const std::byte* row) {
    data_.resize(data_.size() + Width);
    std::memcpy(data_.data() + data_.size() - Width, row, Width * sizeof(T));
    ++rows_;
  }

 private:
  static constexpr DType kDType = sizeof(T) == 8 ? DType::f64 : DType::f32;

  std::vector<T> data_;  // skip_ forgotten rows, then rows_ live ones
  std::size_t first_ = 0;
  std::size_t rows_ = 0;
  std::size_t skip_ = 0;
};

}  // namespace ds4::inline v0_1
