// Rows of a growing sequence under their absolute numbers: what decoder state is made of.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <vector>

#include <ds4/tensor.hpp>

namespace ds4 {

/// The rows [first, end) of a sequence of rows [Width], contiguous in memory. Rows are appended at
/// the end and forgotten from the front. A plain value.
template <class T, std::size_t Width>
class RowLog {
 public:
  static constexpr std::size_t kWidth = Width;

  std::size_t first() const { return first_; }
  std::size_t end() const { return first_ + rows_; }

  /// Row number `row`, first() <= row < end().
  const T* row(std::size_t row) const {
    assert(row >= first_ && row < end());
    return data_.data() + (skip_ + row - first_) * Width;
  }

  void append(RowsView<const T, Width> rows) {
    data_.insert(data_.end(), rows.data(), rows.data() + rows.size());
    rows_ += rows.extent(0);
  }

  /// Forgets the rows before `row`; rows that were never there are no error.
  void drop_before(std::size_t row) {
    const std::size_t dropped = std::min(row > first_ ? row - first_ : 0, rows_);
    first_ += dropped;
    rows_ -= dropped;
    skip_ += dropped;
    if (skip_ > rows_) {  // moves each row at most once for every row dropped
      data_.erase(data_.begin(), data_.begin() + static_cast<std::ptrdiff_t>(skip_ * Width));
      skip_ = 0;
    }
  }

 private:
  std::vector<T> data_;  // skip_ forgotten rows, then rows_ live ones
  std::size_t first_ = 0;
  std::size_t rows_ = 0;
  std::size_t skip_ = 0;
};

}  // namespace ds4
