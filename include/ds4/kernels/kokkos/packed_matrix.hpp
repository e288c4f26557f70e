// Matrices in an execution space's memory: rows side by side, values as the file packs them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <Kokkos_Core.hpp>

#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// Rows of a panel: a warp's lanes, or a few vectors of the host.
inline constexpr int kPanelRows = 32;

/// How a matrix's values lie in 32-bit words. F16 is kept as float32.
enum class Storage : std::uint8_t { f32, bf16, fp8, fp4 };

/// Values to a word, and columns that share a scale (0: there are none).
template <Storage S>
inline constexpr int kPerWord = S == Storage::f32    ? 1
                                : S == Storage::bf16 ? 2
                                : S == Storage::fp8  ? 4
                                                     : 8;
template <Storage S>
inline constexpr int kScaleCols = S == Storage::fp8   ? int{StoredMatrix::kFp8Block}
                                  : S == Storage::fp4 ? int{StoredMatrix::kFp4Block}
                                                      : 0;

/// Value `i` of a word, before its scale.
template <Storage S>
KOKKOS_INLINE_FUNCTION float value_of(std::uint32_t word, int i) {
  if constexpr (S == Storage::f32) {
    return std::bit_cast<float>(word);
  } else if constexpr (S == Storage::bf16) {
    return std::bit_cast<float>(i == 0 ? word << 16 : word & 0xffff0000u);
  } else if constexpr (S == Storage::fp8) {
    return f8_e4m3_to_float(static_cast<std::uint8_t>(word >> (8 * i)));
  } else {
    return fp4_to_float(word >> (4 * i));
  }
}

/// Asks for the words some way behind these, which a thread of the host gets to soon: the next ones
/// of the panel, or the next panel's.
KOKKOS_INLINE_FUNCTION void read_ahead([[maybe_unused]] const std::uint32_t* words) {
#if defined(__GNUC__) && !defined(__CUDA_ARCH__) && !defined(__HIP_DEVICE_COMPILE__) && \
    !defined(__SYCL_DEVICE_ONLY__)
  constexpr int kAhead = 24 * kPanelRows;
  __builtin_prefetch(words + kAhead);
  __builtin_prefetch(words + kAhead + kPanelRows / 2);
#endif
}

/// A matrix [rows, cols] in panels of kPanelRows rows. Panel p is [words][kPanelRows] words: word w
/// of a row holds kPerWord columns from w * kPerWord on, the first in its lowest bits. Scales are
/// [p][blocks of kScaleCols columns][kPanelRows], F8_E8M0 or float32. What lies beyond rows and
/// cols is zero.
struct PackedMatrix {
  const std::uint32_t* words = nullptr;
  const std::byte* scales = nullptr;
  std::int32_t rows = 0;
  std::int32_t cols = 0;
  std::int32_t words_per_row = 0;
  std::int32_t scales_per_row = 0;
  Storage storage = Storage::f32;
  bool float_scales = false;

  std::int32_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  std::size_t word_bytes() const {
    return std::size_t{4} * kPanelRows * static_cast<std::size_t>(panels()) *
           static_cast<std::size_t>(words_per_row);
  }
  std::size_t scale_bytes() const {
    return (float_scales ? std::size_t{4} : std::size_t{1}) * kPanelRows *
           static_cast<std::size_t>(panels()) * static_cast<std::size_t>(scales_per_row);
  }

  KOKKOS_INLINE_FUNCTION const std::uint32_t* panel(std::int32_t p) const {
    return words + static_cast<std::size_t>(p) * static_cast<std::size_t>(words_per_row) *
                       static_cast<std::size_t>(kPanelRows);
  }
  /// The scale of a panel's row `lane` in a block of columns.
  KOKKOS_INLINE_FUNCTION float scale(std::int32_t p, std::int32_t block, int lane) const {
    const std::size_t at = (static_cast<std::size_t>(p) * static_cast<std::size_t>(scales_per_row) +
                            static_cast<std::size_t>(block)) *
                               static_cast<std::size_t>(kPanelRows) +
                           static_cast<std::size_t>(lane);
    if (float_scales) return reinterpret_cast<const float*>(scales)[at];
    const std::uint32_t code = static_cast<std::uint8_t>(scales[at]);
    // 2^(code - 127): a float32's exponent; code 0 is a denormal, 255 stands for NaN.
    const std::uint32_t bits = code == 0 ? 0x00400000u : code == 255 ? 0x7fc00000u : code << 23;
    return std::bit_cast<float>(bits);
  }
};

/// The matrix's sizes and storage; its memory is still to come.
inline PackedMatrix packed_shape(const StoredMatrix& stored) {
  PackedMatrix packed;
  packed.rows = static_cast<std::int32_t>(stored.rows);
  packed.cols = static_cast<std::int32_t>(stored.cols);
  int per_word = 1;
  int scale_cols = 0;
  const auto lay_out = [&]<Storage S>() {
    packed.storage = S;
    per_word = kPerWord<S>;
    scale_cols = kScaleCols<S>;
  };
  switch (stored.dtype) {
    case DType::bf16:
      lay_out.template operator()<Storage::bf16>();
      break;
    case DType::f8_e4m3:
      lay_out.template operator()<Storage::fp8>();
      break;
    case DType::i8:
      lay_out.template operator()<Storage::fp4>();
      break;
    default:
      lay_out.template operator()<Storage::f32>();  // f32, f16
  }
  packed.words_per_row = (packed.cols + per_word - 1) / per_word;
  if (scale_cols > 0) packed.scales_per_row = (packed.cols + scale_cols - 1) / scale_cols;
  packed.float_scales = stored.scale_dtype == DType::f32;
  return packed;
}

/// Writes a matrix's words and scales, to host memory.
inline void pack(std::uint32_t* words, std::byte* scales, const PackedMatrix& packed,
                 const StoredMatrix& stored) {
  const auto size = [](std::int32_t n) { return static_cast<std::size_t>(n); };
  const std::size_t per_row = size(packed.words_per_row);
  const std::size_t row_bytes =
      stored.dtype == DType::i8 ? (stored.cols + 1) / 2 : stored.cols * dtype_size(stored.dtype);
  const std::size_t scale_size = packed.float_scales ? 4 : 1;
  const auto one_panel = [&](std::size_t p) {
    std::vector<std::uint32_t> row(per_row);
    std::uint32_t* out = words + p * per_row * kPanelRows;
    std::memset(out, 0, per_row * kPanelRows * 4);
    for (std::size_t lane = 0; lane < kPanelRows; ++lane) {
      const std::size_t r = p * kPanelRows + lane;
      if (r >= stored.rows) break;
      row.back() = 0;
      if (stored.dtype == DType::f16) {
        stored.decode_row(r, reinterpret_cast<float*>(row.data()));
      } else {
        std::memcpy(row.data(), stored.values + r * row_bytes, row_bytes);
      }
      if (stored.dtype == DType::i8 && stored.cols % 2 != 0) {  // the other nibble is padding
        const std::size_t last = (stored.cols - 1) % 8;
        row.back() &= 0xffffffffu >> (4 * (7 - last));
      }
      for (std::size_t w = 0; w < per_row; ++w) out[w * kPanelRows + lane] = row[w];
    }
    for (std::size_t b = 0; b < size(packed.scales_per_row); ++b) {
      std::byte* at = scales + (p * size(packed.scales_per_row) + b) * kPanelRows * scale_size;
      for (std::size_t lane = 0; lane < kPanelRows; ++lane) {
        // Rows beyond the last have its scale: their words are zero.
        const std::size_t r = std::min(p * kPanelRows + lane, stored.rows - 1);
        const std::size_t scale_row =
            packed.storage == Storage::fp8 ? r / StoredMatrix::kFp8Block : r;
        std::memcpy(at + lane * scale_size,
                    stored.scales + (scale_row * size(packed.scales_per_row) + b) * scale_size,
                    scale_size);
      }
    }
  };
  using Host = Kokkos::DefaultHostExecutionSpace;
  Kokkos::parallel_for("ds4::pack", Kokkos::RangePolicy<Host>(0, packed.panels()),
                       [&](int p) { one_panel(static_cast<std::size_t>(p)); });
  Host().fence("ds4::pack");
}

}  // namespace ds4::inline v0_1::kokkos
