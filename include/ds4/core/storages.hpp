// The storages of matrices: all that is to be known of each, in one place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>

#include <ds4/core/dtype.hpp>
#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

// A storage says by which element type a file marks it (kDType), what it is called (kName), the
// bits of a value (kBits), and how many rows and columns of values share a scale (kScaleRows,
// kScaleCols, 0 without scales). decode(row, begin, end, put) calls put(c, value) for the values
// [begin, end) of a row as they are without their scale; begin is the first value of a byte.
//
// One with scales also says the largest and the least positive value at a scale of one (kLargest,
// kLeast), whether it has a NaN (kHasNan), and what code is nearest to a value (code(value)).

namespace detail {

/// Values in whole bytes, without scales.
template <DType dtype, class Code, auto to_float>
struct UnscaledStorage {
  static constexpr DType kDType = dtype;
  static constexpr std::string_view kName = dtype_name(dtype);
  static constexpr std::size_t kBits = 8 * sizeof(Code);
  static constexpr std::size_t kScaleRows = 0;
  static constexpr std::size_t kScaleCols = 0;

  template <class Put>
  static void decode(const std::byte* row, std::size_t begin, std::size_t end, Put&& put) {
    for (std::size_t c = begin; c < end; ++c) {
      Code code;
      std::memcpy(&code, row + c * sizeof(Code), sizeof(Code));
      put(c, to_float(code));
    }
  }
};

}  // namespace detail

///@{
/// Without scales.
struct StoredF32 : detail::UnscaledStorage<DType::f32, float, std::identity{}> {};
struct StoredBf16 : detail::UnscaledStorage<DType::bf16, std::uint16_t, bf16_to_float> {};
struct StoredF16 : detail::UnscaledStorage<DType::f16, std::uint16_t, f16_to_float> {};
///@}

/// F8_E4M3 with one scale per 128 x 128 block. Source: model.md 7.2.
struct StoredFp8 {
  ///@{
  /// See above.
  static constexpr DType kDType = DType::f8_e4m3;
  static constexpr std::string_view kName = dtype_name(kDType);
  static constexpr std::size_t kBits = 8;
  static constexpr std::size_t kScaleRows = 128;
  static constexpr std::size_t kScaleCols = 128;
  static constexpr float kLargest = 448.0f;
  static constexpr float kLeast = 0x1p-9f;
  static constexpr bool kHasNan = true;

  template <class Put>
  static void decode(const std::byte* row, std::size_t begin, std::size_t end, Put&& put) {
    for (std::size_t c = begin; c < end; ++c) {
      put(c, f8_e4m3_to_float(std::to_integer<std::uint8_t>(row[c])));
    }
  }
  static constexpr std::uint8_t code(float x) { return f8_e4m3_from_float(x); }
  ///@}
};

/// FP4 in I8, two values to a byte, the low nibble first, with one scale per 32 columns of a row.
/// Source: model.md 7.2.
struct StoredFp4 {
  ///@{
  /// See above.
  static constexpr DType kDType = DType::i8;
  static constexpr std::string_view kName = "FP4";
  static constexpr std::size_t kBits = 4;
  static constexpr std::size_t kScaleRows = 1;
  static constexpr std::size_t kScaleCols = 32;
  static constexpr float kLargest = 6.0f;
  static constexpr float kLeast = 0.5f;
  static constexpr bool kHasNan = false;

  template <class Put>
  static void decode(const std::byte* row, std::size_t begin, std::size_t end, Put&& put) {
    for (std::size_t i = begin / 2; i < end / 2; ++i) {
      const unsigned pair = std::to_integer<unsigned>(row[i]);
      put(2 * i, fp4_to_float(pair));
      put(2 * i + 1, fp4_to_float(pair >> 4));
    }
    if (end % 2 != 0) put(end - 1, fp4_to_float(std::to_integer<unsigned>(row[end / 2])));
  }
  static constexpr std::uint8_t code(float x) { return fp4_from_float(x); }
  ///@}
};

/// A list of storages.
template <class... Each>
struct StorageList {
  /// Calls f(storage) with the one of this element type; false, without a call, if there is none.
  template <class F>
  static constexpr bool with(DType dtype, F&& f) {
    return ((dtype == Each::kDType ? (f(Each{}), true) : false) || ...);
  }
  /// Calls f(storage) with each.
  template <class F>
  static constexpr void for_each(F&& f) {
    (f(Each{}), ...);
  }
};

/// All storages of matrices.
using Storages = StorageList<StoredF32, StoredBf16, StoredF16, StoredFp8, StoredFp4>;

/// What is to be known at run time of an element type; of one that stores no matrices, its size.
struct StorageInfo {
  ///@{
  /// As a storage has them.
  std::string_view name;
  std::size_t bits = 0;
  std::size_t scale_rows = 0;
  std::size_t scale_cols = 0;
  ///@}
  bool matrices = false;  ///< whether it stores matrices
  ///@{
  /// As a storage with scales has them.
  float largest = 0.0f;
  float least = 0.0f;
  bool has_nan = true;
  ///@}
};

namespace detail {
inline constexpr std::array<StorageInfo, kDTypes.size()> kStorageInfos = [] {
  std::array<StorageInfo, kDTypes.size()> infos{};
  for (const DTypeInfo& type : kDTypes) {
    StorageInfo& info = infos[static_cast<std::size_t>(type.dtype)];
    info.name = type.name;
    info.bits = 8 * type.size;
  }
  Storages::for_each([&](auto storage) {
    using S = decltype(storage);
    StorageInfo& info = infos[static_cast<std::size_t>(S::kDType)];
    info.name = S::kName;
    info.bits = S::kBits;
    info.scale_rows = S::kScaleRows;
    info.scale_cols = S::kScaleCols;
    info.matrices = true;
    if constexpr (S::kScaleRows > 0) {
      info.largest = S::kLargest;
      info.least = S::kLeast;
      info.has_nan = S::kHasNan;
    }
  });
  return infos;
}();

constexpr std::size_t blocks_of(std::size_t n, std::size_t block) {
  return (n + block - 1) / block;
}
}  // namespace detail

/// See there.
constexpr const StorageInfo& storage_info(DType dtype) {
  return detail::kStorageInfos[static_cast<std::size_t>(dtype)];
}

/// Bytes of a row of `cols` values.
constexpr std::size_t stored_row_bytes(DType dtype, std::size_t cols) {
  return detail::blocks_of(cols * storage_info(dtype).bits, 8);
}

/// Rows and columns of the scales of a matrix [rows, cols]; zeros if it has none.
constexpr std::array<std::size_t, 2> scale_shape(DType dtype, std::size_t rows, std::size_t cols) {
  const StorageInfo& info = storage_info(dtype);
  if (info.scale_rows == 0) return {};
  return {detail::blocks_of(rows, info.scale_rows), detail::blocks_of(cols, info.scale_cols)};
}

}  // namespace ds4::inline v0_1
