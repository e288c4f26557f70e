// How the rows of a weight are divided over ranks.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1::mpi {

/// Rows, or what is made of them, that are cut at multiples of `unit`; a rank has some that follow
/// one another, or none.
struct Division {
  ///@{
  /// See above; a unit of 0: every rank has all of them.
  std::size_t rows = 0;
  std::size_t unit = 0;
  ///@}

  /// The rows begin .. end - 1.
  struct Part {
    ///@{
    /// See above.
    std::size_t begin = 0;
    std::size_t end = 0;
    ///@}
    /// How many.
    std::size_t size() const { return end - begin; }
  };
  /// Those of a rank.
  Part part(std::size_t rank, std::size_t ranks) const {
    if (unit == 0) return {0, rows};
    const std::size_t units = (rows + unit - 1) / unit;
    return {std::min(rows, units * rank / ranks * unit),
            std::min(rows, units * (rank + 1) / ranks * unit)};
  }

  /// Whether every rank has all.
  bool is_whole() const { return unit == 0; }
  /// Whether no group of so many rows is cut.
  bool keeps_whole(std::size_t group) const { return unit > 0 && unit % group == 0; }
  /// The same division.
  bool operator==(const Division&) const = default;
};

/// A row of a division may begin here only: scales that rows share are not cut.
inline std::size_t least_unit(const StoredMatrix& matrix) {
  return std::max<std::size_t>(1, storage_info(matrix.dtype).scale_rows);
}

/// The rows of a part of a matrix, which begins where scales do.
inline StoredMatrix rows_of(const StoredMatrix& matrix, Division::Part part) {
  StoredMatrix rows = matrix;
  rows.rows = part.size();
  rows.values += part.begin * stored_row_bytes(matrix.dtype, matrix.cols);
  const StorageInfo& storage = storage_info(matrix.dtype);
  if (storage.scale_rows > 0) {
    const auto scales = scale_shape(matrix.dtype, storage.scale_rows, matrix.cols);  // of a block
    rows.scales += part.begin / storage.scale_rows * scales[1] * dtype_size(matrix.scale_dtype);
  }
  return rows;
}

}  // namespace ds4::inline v0_1::mpi
