// What a backend that trains keeps weights and logs in.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>

#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// A weight [Rows, Cols] = [out, in] in training: its values, and where its gradient is added up.
template <class T, std::size_t Rows, std::size_t Cols>
struct TrainedMatrix {
  ///@{
  /// [kRows, kCols]; the gradient may be null.
  static constexpr std::size_t kRows = Rows;
  static constexpr std::size_t kCols = Cols;
  T* value = nullptr;
  T* gradient = nullptr;
  ///@}
};

/// A small weight in training.
template <class T, std::size_t... E>
struct TrainedParameter {
  ///@{
  /// The extents; the gradient may be null. The bias of a router has no gradient: what is added up
  /// instead is how many tokens each expert was given.
  static constexpr std::array<std::size_t, sizeof...(E)> kShape{E...};
  static constexpr std::size_t kLead = kShape[0];
  T* value = nullptr;
  T* gradient = nullptr;
  ///@}
};

/// The rows that a sequence has appended to a log: where the pass has them. A pass starts at a
/// sequence's first token, or is a block behind rows of another, and appends once, so nothing is
/// copied.
template <class T, std::size_t Width>
class TapeLog {
 public:
  /// Values of a row.
  static constexpr std::size_t kWidth = Width;
  ///@{
  /// As RowLog has it.
  std::size_t first() const { return 0; }
  std::size_t end() const { return rows_; }
  void append(RowsView<const T, Width> rows) {
    assert(rows_ == 0);
    data_ = rows.data();
    rows_ = rows.extent(0);
  }
  ///@}
  /// All of them.
  RowsView<const T, Width> rows() const { return {data_, rows_}; }
  ///@{
  /// The rows that a block comes behind.
  RowsView<const T, Width> before() const { return {before_, rows_before_}; }
  void come_behind(RowsView<const T, Width> rows) {
    before_ = rows.data();
    rows_before_ = rows.extent(0);
  }
  ///@}

 private:
  const T* data_ = nullptr;
  std::size_t rows_ = 0;
  const T* before_ = nullptr;
  std::size_t rows_before_ = 0;
};

}  // namespace ds4::inline v0_1
