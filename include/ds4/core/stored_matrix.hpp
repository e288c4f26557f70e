// Weights as a host backend holds them: matrices in the storage of their file, decoded on the fly.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// A matrix [rows, cols] as a checkpoint stores it: a view of mapped memory, sizes at run time.
/// What each storage is like is in storages.hpp. Source: model.md 7.2.
struct StoredMatrix {
  ///@{
  /// Values to a scale: rows and columns in FP8, columns in FP4.
  static constexpr std::size_t kFp8Block = StoredFp8::kScaleCols;
  static constexpr std::size_t kFp4Block = StoredFp4::kScaleCols;
  ///@}

  ///@{
  /// The mapped bytes, the shape, and the type of a stored element.
  const std::byte* values = nullptr;
  const std::byte* scales = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  DType dtype = DType::f32;
  ///@}
  DType scale_dtype = DType::f8_e8m0;  ///< F8_E8M0, or F32 as in the Base releases

  /// Writes row `row` as values of T; exact, one multiplication by the scale included.
  template <class T>
  void decode_row(std::size_t row, T* out) const {
    Storages::with(dtype, [&](auto storage) {
      using S = decltype(storage);
      const std::byte* codes = values + row * stored_row_bytes(S::kDType, cols);
      if constexpr (S::kScaleCols == 0) {
        S::decode(codes, 0, cols, [out](std::size_t c, float value) { out[c] = T(value); });
      } else {
        constexpr std::size_t kBlock = S::kScaleCols;
        const std::size_t scale_row = row / S::kScaleRows * detail::blocks_of(cols, kBlock);
        for (std::size_t begin = 0; begin < cols; begin += kBlock) {
          const T scale = T(scale_at(scale_row + begin / kBlock));
          S::decode(codes, begin, std::min(cols, begin + kBlock),
                    [out, scale](std::size_t c, float value) { out[c] = T(value) * scale; });
        }
      }
    });
  }

 private:
  float scale_at(std::size_t index) const {
    if (scale_dtype == DType::f8_e8m0) {
      return f8_e8m0_to_float(std::to_integer<std::uint8_t>(scales[index]));
    }
    float value;
    std::memcpy(&value, scales + index * sizeof(float), sizeof(float));
    return value;
  }
};

/// A weight [Rows, Cols] = [out, in], its shape in its type, its storage that of the file.
/// A view: whoever loaded it keeps the file mapped.
template <std::size_t Rows, std::size_t Cols>
struct Matrix {
  ///@{
  /// [kRows, kCols].
  static constexpr std::size_t kRows = Rows;
  static constexpr std::size_t kCols = Cols;
  StoredMatrix stored;
  ///@}
};

}  // namespace ds4::inline v0_1
