// From float32 values to the release's FP8 and FP4: block scales and codes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>

namespace ds4::inline v0_1 {

/// The F8_E8M0 code of the scale of a block whose largest magnitude is the finite `amax`: the
/// release's rule 2^ceil(log2(amax / largest)), where `dtype` is of a storage with scales: F8_E4M3
/// (largest 448) or I8, packed FP4 (6). Exact: amax = 448 * 2^k gives 2^k. None is below 2^-127,
/// and a block of zeros, or of what rounds to zero even at that scale, has the scale 1. Source:
/// model.md 7.3.
constexpr std::uint8_t block_scale(float amax, DType dtype) {
  const StorageInfo& storage = storage_info(dtype);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(amax);
  const std::uint32_t largest = std::bit_cast<std::uint32_t>(storage.largest);
  // Half of the least code at 2^-127, which is below the normal numbers: a multiple of 2^-149.
  if (bits <= static_cast<std::uint32_t>(storage.least * 0x1p21f)) return 127;
  const bool above = (bits & 0x7fffffu) > (largest & 0x7fffffu);
  const int code =
      static_cast<int>(bits >> 23) - static_cast<int>(largest >> 23) + 127 + (above ? 1 : 0);
  return static_cast<std::uint8_t>(std::max(code, 0));
}

namespace detail {

inline constexpr std::uint32_t kInfinityBits = 0x7f800000u;

/// 1 / scale, exact.
constexpr float inverse_scale(std::uint8_t code) {
  return std::bit_cast<float>((254u - code) << 23);
}

/// The largest magnitude as bits, which order as the magnitudes do, infinity above the finite ones;
/// a NaN counts as zero.
inline std::uint32_t largest_magnitude(std::span<const float> x, std::uint32_t largest = 0) {
  for (const float value : x) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
    largest = std::max(largest, magnitude > kInfinityBits ? 0u : magnitude);
  }
  return largest;
}

}  // namespace detail

/// The first row of x [rows, cols] with a value that `dtype` (F8_E4M3, or I8 for packed FP4) has
/// nothing for: an infinity; in FP4 a NaN as well. None if there is no such row.
inline std::optional<std::size_t> unquantisable_row(std::span<const float> x, std::size_t cols,
                                                    DType dtype) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    if (magnitude == detail::kInfinityBits ||
        (magnitude > detail::kInfinityBits && !storage_info(dtype).has_nan)) {
      return i / cols;
    }
  }
  return {};
}

/// A panel x [rows, cols] of up to 128 rows, the first of them at a multiple of 128 in its matrix,
/// as F8_E4M3 codes [rows, cols] and F8_E8M0 scales, one for each 128 columns, by block_scale() of
/// the finite values. Codes are rounded to nearest, ties to even; a NaN keeps its place as NaN, and
/// what float32 could not hold again (the last 3 % below 2^128) becomes the largest that it can.
/// False, with nothing of use written, if there is an infinity.
///
/// What comes back by StoredMatrix::decode_row() gives, quantised again, the same values: bit by
/// bit, whatever x is. The codes may differ once: of a block whose amax is in (224, 232] * scale
/// the largest code is 224, for which the rule has half the scale, with which the codes, of the
/// double value, represent the same; quantised again they stay.
inline bool quantise_fp8(std::span<const float> x, std::size_t cols, std::span<std::uint8_t> codes,
                         std::span<std::uint8_t> scales) {
  for (std::size_t begin = 0; begin < cols; begin += StoredFp8::kScaleCols) {
    const std::size_t count = std::min(StoredFp8::kScaleCols, cols - begin);
    std::uint32_t amax = 0;
    for (std::size_t at = begin; at < x.size(); at += cols) {
      amax = detail::largest_magnitude(x.subspan(at, count), amax);
    }
    if (amax == detail::kInfinityBits) return false;
    const std::uint8_t scale = block_scale(std::bit_cast<float>(amax), StoredFp8::kDType);
    scales[begin / StoredFp8::kScaleCols] = scale;
    const float inverse = detail::inverse_scale(scale);
    for (std::size_t at = begin; at < x.size(); at += cols) {
      const float* from = x.data() + at;
      std::uint8_t* to = codes.data() + at;
      for (std::size_t i = 0; i < count; ++i) to[i] = f8_e4m3_from_float(from[i] * inverse);
      for (std::size_t i = 0; scale == 247 && i < count; ++i) {
        if ((to[i] & 0x7fu) == 0x78u) --to[i];  // 256 * 2^120: to 240
      }
    }
  }
  return true;
}

/// Rows x [rows, cols] as packed FP4 codes [rows, ceil(cols / 2)], the low nibble first, and
/// F8_E8M0 scales [rows, ceil(cols / 32)] by block_scale(). Rounding and values near 2^128 as in
/// quantise_fp8(). False, with nothing of use written, if a value is not finite.
///
/// The values of what was quantised come back the same from being quantised again, as with FP8; the
/// codes may differ once, for blocks whose amax is in (3, 3.5) * scale.
inline bool quantise_fp4(std::span<const float> x, std::size_t cols, std::span<std::uint8_t> codes,
                         std::span<std::uint8_t> scales) {
  constexpr std::size_t kBlock = StoredFp4::kScaleCols;
  std::uint8_t* code = codes.data();
  std::uint8_t* scale = scales.data();
  for (std::size_t row = 0; row < x.size(); row += cols) {
    for (std::size_t begin = 0; begin < cols; begin += kBlock) {
      const std::size_t count = std::min(kBlock, cols - begin);
      const float* from = x.data() + row + begin;
      std::uint32_t amax = 0;
      for (std::size_t i = 0; i < count; ++i) {
        amax = std::max(amax, std::bit_cast<std::uint32_t>(from[i]) & 0x7fffffffu);
      }
      if (amax >= detail::kInfinityBits) return false;
      *scale = block_scale(std::bit_cast<float>(amax), StoredFp4::kDType);
      const float inverse = detail::inverse_scale(*scale);
      std::array<std::uint8_t, kBlock> wide{};
      for (std::size_t i = 0; i < count; ++i) wide[i] = fp4_from_float(from[i] * inverse);
      for (std::size_t i = 0; *scale == 253 && i < count; ++i) {
        if ((wide[i] & 7u) == 6u) --wide[i];  // 4 * 2^126: to 3
      }
      for (std::size_t i = 0; i < stored_row_bytes(StoredFp4::kDType, count); ++i) {
        *code++ = static_cast<std::uint8_t>(wide[2 * i] | wide[2 * i + 1] << 4);
      }
      ++scale;
    }
  }
  return true;
}

/// Values x [rows, cols] in this storage: `codes` and `scales` have its sizes. Rows as in
/// quantise_fp8(). False, with nothing of use written, if the storage has nothing for some value;
/// see unquantisable_row().
inline bool store_values(DType dtype, std::span<const float> x, std::size_t cols,
                         std::span<std::uint8_t> codes, std::span<std::uint8_t> scales) {
  switch (dtype) {
    case StoredFp8::kDType:
      return quantise_fp8(x, cols, codes, scales);
    case StoredFp4::kDType:
      return quantise_fp4(x, cols, codes, scales);
    case StoredBf16::kDType: {
      auto* out = reinterpret_cast<std::uint16_t*>(codes.data());
      for (std::size_t i = 0; i < x.size(); ++i) out[i] = bf16_from_float(x[i]);
      return true;
    }
    default:  // f32: storage_of() has no others
      std::memcpy(codes.data(), x.data(), x.size_bytes());
      return true;
  }
}

}  // namespace ds4::inline v0_1
