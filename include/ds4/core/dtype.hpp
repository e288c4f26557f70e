// Element types as checkpoints store them, and the exact value of every code.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Element type of a tensor in a file. An FP4 matrix is stored as I8, two elements to a byte.
enum class DType : std::uint8_t { f64, f32, bf16, f16, f8_e4m3, f8_e8m0, i64, i32, i8, u8 };

namespace detail {
struct DTypeInfo {
  DType dtype;
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<DTypeInfo, 10> kDTypes{{{DType::f64, "F64", 8},
                                                    {DType::f32, "F32", 4},
                                                    {DType::bf16, "BF16", 2},
                                                    {DType::f16, "F16", 2},
                                                    {DType::f8_e4m3, "F8_E4M3", 1},
                                                    {DType::f8_e8m0, "F8_E8M0", 1},
                                                    {DType::i64, "I64", 8},
                                                    {DType::i32, "I32", 4},
                                                    {DType::i8, "I8", 1},
                                                    {DType::u8, "U8", 1}}};
}  // namespace detail

/// The name that safetensors headers use.
constexpr std::string_view dtype_name(DType dtype) {
  return detail::kDTypes[static_cast<std::size_t>(dtype)].name;
}

/// Bytes of one stored element.
constexpr std::size_t dtype_size(DType dtype) {
  return detail::kDTypes[static_cast<std::size_t>(dtype)].size;
}

/// The element type with this safetensors name, if ds4 knows it.
constexpr std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& info : detail::kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

// Those that kernels call are inlined whatever the compiler's flags: a function of one name in
// translation units of other instruction sets would be merged, and run where it must not.

/// BF16: the upper half of a float32.
[[gnu::always_inline]] constexpr float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// The BF16 nearest to x, ties to even; NaN for NaN.
constexpr std::uint16_t bf16_from_float(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  // A NaN keeps what fits of its payload, and is quiet.
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? bits >> 16 | 0x40u : rounded);
}

// The conversions of F16, FP8 and FP4 have neither branches nor floating-point operations that only
// some values need, so that compilers make vectors of loops over them.

namespace detail {
/// The code, without sign, that is nearest to a float32 of these bits, ties to even; at most that
/// of `largest`. From `normal` on, the least number that is not denormal, codes have a mantissa of
/// this many bits.
template <std::uint32_t mantissa_bits>
constexpr std::uint32_t small_float_code(std::uint32_t magnitude, float largest, float normal) {
  const std::uint32_t most = std::bit_cast<std::uint32_t>(largest);
  const std::uint32_t least = std::bit_cast<std::uint32_t>(normal) >> 23;
  const std::uint32_t finite = magnitude < most ? magnitude : most;
  // Codes from 2^e to 2^(e+1) are as far apart as floats are from 2^(e+23-mantissa_bits) on: adding
  // that rounds. Below the normal numbers the distance stays.
  const std::uint32_t exponent = finite >> 23 < least ? least : finite >> 23;
  const std::uint32_t power = (exponent + 23 - mantissa_bits) << 23;
  const std::uint32_t steps =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(finite) + std::bit_cast<float>(power)) -
      power;
  return steps + ((exponent - least) << mantissa_bits);
}
}  // namespace detail

/// F16 (IEEE binary16), denormals, infinities and NaN included.
[[gnu::always_inline]] constexpr float f16_to_float(std::uint16_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffu;
  // A denormal, mantissa * 2^-24, is a number from 2^-14 on without its leading one.
  const std::uint32_t denormal = magnitude < 0x400u ? 1u : 0u;
  const float finite = std::bit_cast<float>((magnitude << 13) + ((112 + denormal) << 23)) -
                       std::bit_cast<float>(denormal * std::bit_cast<std::uint32_t>(0x1p-14f));
  const std::uint32_t special = ((magnitude + 0x400u) >> 15) * 0x7f800000u;  // infinity or NaN
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  return std::bit_cast<float>(sign | special | std::bit_cast<std::uint32_t>(finite));
}

/// F8_E4M3 in its "fn" form: no infinities, 0x7f and 0xff are NaN, largest value 448.
constexpr float f8_e4m3_to_float(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7fu;
  // A denormal, mantissa * 2^-9, is a number from 2^-6 on without its leading one.
  const std::uint32_t denormal = magnitude < 8 ? 1u : 0u;
  const float finite = std::bit_cast<float>((magnitude << 20) + ((120 + denormal) << 23)) -
                       std::bit_cast<float>(denormal * std::bit_cast<std::uint32_t>(0x1p-6f));
  const std::uint32_t nan = ((magnitude + 1) >> 7) * 0x7fc00000u;
  return std::bit_cast<float>((bits & 0x80u) << 24 | nan | std::bit_cast<std::uint32_t>(finite));
}

/// The F8_E4M3 nearest to x, ties to even; beyond 448 the largest one, NaN for NaN.
constexpr std::uint8_t f8_e4m3_from_float(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t code = detail::small_float_code<3>(magnitude, 448.0f, 0x1p-6f);
  const std::uint32_t nan = magnitude > 0x7f800000u ? 0x7fu : 0u;
  return static_cast<std::uint8_t>((bits >> 24 & 0x80u) | nan | code);
}

/// F8_E8M0, a block scale: 2^(bits - 127), 255 is NaN; code 0 is a float32 denormal.
constexpr float f8_e8m0_to_float(std::uint8_t bits) {
  if (bits == 255) return std::numeric_limits<float>::quiet_NaN();
  if (bits == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 23);
}

/// FP4 (E2M1): the low four bits of `nibble`, sign in bit 3.
constexpr float fp4_to_float(unsigned nibble) {
  const std::uint32_t code = nibble & 7u;
  const std::uint32_t denormal = code * std::bit_cast<std::uint32_t>(0.5f);  // 0 or 1/2
  const std::uint32_t normal = (code << 22) + (126u << 23);
  return std::bit_cast<float>((nibble & 8u) << 28 | (code < 2 ? denormal : normal));
}

/// The FP4 code nearest to x, ties to even; beyond 6 the largest one. FP4 has no NaN.
constexpr std::uint8_t fp4_from_float(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t code = detail::small_float_code<1>(magnitude, 6.0f, 1.0f);
  return static_cast<std::uint8_t>((bits >> 28 & 8u) | code);
}

}  // namespace ds4::inline v0_1
