// How the rows of a weight are divided over the ranks that run a model together, apart from these
// so that a plan needs none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1 {

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
    constexpr std::size_t size() const { return end - begin; }
  };
  /// Those of a rank.
  constexpr Part part(std::size_t rank, std::size_t ranks) const {
    if (unit == 0) return {0, rows};
    const std::size_t units = (rows + unit - 1) / unit;
    return {std::min(rows, units * rank / ranks * unit),
            std::min(rows, units * (rank + 1) / ranks * unit)};
  }

  /// Whether every rank has all.
  constexpr bool is_whole() const { return unit == 0; }
  /// Whether no group of so many rows is cut.
  constexpr bool keeps_whole(std::size_t group) const { return unit > 0 && unit % group == 0; }
  /// The same division.
  bool operator==(const Division&) const = default;
};

/// The division of a matrix of so many rows over ranks. Rows that share scales, scale_rows of them,
/// are not cut, nor are groups of `group` rows, if there is such; otherwise the units are whole
/// panels, or less where not all ranks would have some: an even number then, so that rows that a
/// kernel takes in pairs stay together.
constexpr Division division_of(std::size_t rows, std::size_t scale_rows, std::size_t group,
                               std::size_t ranks) {
  if (ranks == 1) return {rows, 0};
  const std::size_t least = std::max<std::size_t>(1, scale_rows);
  if (group > 0) return {rows, std::lcm(group, least)};
  return {rows, std::lcm(std::clamp<std::size_t>(rows / ranks / 2 * 2, 2, 32), least)};
}

/// Bytes of a matrix up to which it is on every rank unless told: to read it takes less time than
/// to gather what it gives.
inline constexpr std::size_t kWholeBytes = std::size_t{1} << 16;

/// Rows of a model's matrices that are not cut.
struct RowGroups {
  std::size_t query = 0;    ///< of wq_b [H d, q_lora]: the heads of a group, or one
  std::size_t output = 0;   ///< of wo_a [G o_lora, H d / G]: those of a group; 0: any
  std::size_t indexer = 0;  ///< of the indexer's wq_b [nI dI, q_lora]: a head; 0: any
};
/// Those of a configuration: groups of heads stay whole as far as every rank has one.
template <class Config>
constexpr RowGroups row_groups(const Config& c, std::size_t ranks) {
  RowGroups groups;
  const bool whole = ranks <= c.o_groups;
  groups.query = c.head_dim * (whole ? c.num_attention_heads / c.o_groups : 1);
  groups.output = whole ? c.o_lora_rank : 0;
  groups.indexer = ranks <= c.index_n_heads ? c.index_head_dim : 0;
  return groups;
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

}  // namespace ds4::inline v0_1
