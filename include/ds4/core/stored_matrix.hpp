// Weights as a host backend holds them: matrices in the storage of their file, decoded on the fly.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// A matrix [rows, cols] as a checkpoint stores it: a view of mapped memory, sizes at run time.
/// F8_E4M3 has one scale per 128 x 128 block; I8 holds FP4, two elements to a byte (the low nibble
/// first), with one scale per 32 columns of a row; the others have no scales. Source: model.md 7.2.
struct StoredMatrix {
  ///@{
  /// Values to a scale: rows and columns in FP8, columns in FP4.
  static constexpr std::size_t kFp8Block = 128;
  static constexpr std::size_t kFp4Block = 32;
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
    switch (dtype) {
      case DType::bf16:
        for (std::size_t c = 0; c < cols; ++c) out[c] = T(bf16_to_float(at<std::uint16_t>(row, c)));
        break;
      case DType::f16:
        for (std::size_t c = 0; c < cols; ++c) out[c] = T(f16_to_float(at<std::uint16_t>(row, c)));
        break;
      case DType::f8_e4m3: {
        const std::size_t scale_row = (row / kFp8Block) * blocks(kFp8Block);
        for (std::size_t begin = 0; begin < cols; begin += kFp8Block) {
          const T scale = T(scale_at(scale_row + begin / kFp8Block));
          const std::size_t end = std::min(cols, begin + kFp8Block);
          const std::byte* codes = values + row * cols;
          for (std::size_t c = begin; c < end; ++c) {
            out[c] = T(f8_e4m3_to_float(std::to_integer<std::uint8_t>(codes[c]))) * scale;
          }
        }
        break;
      }
      case DType::i8: {
        const std::size_t scale_row = row * blocks(kFp4Block);
        const std::byte* packed = values + row * ((cols + 1) / 2);
        for (std::size_t begin = 0; begin < cols; begin += kFp4Block) {
          const T scale = T(scale_at(scale_row + begin / kFp4Block));
          const std::size_t end = std::min(cols, begin + kFp4Block);
          for (std::size_t i = begin / 2; i < end / 2; ++i) {
            const unsigned pair = std::to_integer<unsigned>(packed[i]);
            out[2 * i] = T(fp4_to_float(pair)) * scale;
            out[2 * i + 1] = T(fp4_to_float(pair >> 4)) * scale;
          }
          if (end % 2 != 0) {
            out[end - 1] = T(fp4_to_float(std::to_integer<unsigned>(packed[end / 2]))) * scale;
          }
        }
        break;
      }
      default:  // f32: the loader lets nothing else through
        for (std::size_t c = 0; c < cols; ++c) out[c] = T(at<float>(row, c));
    }
  }

 private:
  std::size_t blocks(std::size_t block) const { return (cols + block - 1) / block; }

  template <class V>
  V at(std::size_t row, std::size_t col) const {
    V value;
    std::memcpy(&value, values + (row * cols + col) * sizeof(V), sizeof(V));
    return value;
  }

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
