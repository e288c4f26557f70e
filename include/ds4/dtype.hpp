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

namespace ds4 {

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

/// BF16: the upper half of a float32.
constexpr float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// F16 (IEEE binary16), denormals, infinities and NaN included.
constexpr float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  std::uint32_t exponent = (bits >> 10) & 0x1fu;
  std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    exponent = 1;  // a denormal: normalise it, float32 has the range
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    mantissa &= 0x3ffu;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

/// F8_E4M3 in its "fn" form: no infinities, 0x7f and 0xff are NaN, largest value 448.
constexpr float f8_e4m3_to_float(std::uint8_t bits) {
  const std::uint32_t exponent = (bits >> 3) & 15u;
  const std::uint32_t mantissa = bits & 7u;
  const float sign = (bits & 0x80u) != 0 ? -1.0f : 1.0f;
  if ((bits & 0x7fu) == 0x7fu) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-9f;
  return sign * std::bit_cast<float>(((exponent + 120) << 23) | (mantissa << 20));
}

/// The F8_E4M3 nearest to x, ties to even; beyond 448 the largest one, NaN for NaN.
constexpr std::uint8_t f8_e4m3_from_float(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits >> 24 & 0x80u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
  std::uint32_t code = 0;
  if (magnitude < (121u << 23)) {  // below 2^-6: multiples of 2^-9
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p9f;
    code = static_cast<std::uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(code);
    if (rest > 0.5f || (rest == 0.5f && code % 2 == 1)) ++code;
  } else {
    code = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
  }
  return static_cast<std::uint8_t>(sign | (code < 0x7eu ? code : 0x7eu));
}

/// F8_E8M0, a block scale: 2^(bits - 127), 255 is NaN; code 0 is a float32 denormal.
constexpr float f8_e8m0_to_float(std::uint8_t bits) {
  if (bits == 255) return std::numeric_limits<float>::quiet_NaN();
  if (bits == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 23);
}

/// FP4 (E2M1): the low four bits of `nibble`, sign in bit 3.
constexpr float fp4_to_float(unsigned nibble) {
  constexpr std::array<float, 8> kMagnitude{0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitude[nibble & 7u];
  return (nibble & 8u) != 0 ? -magnitude : magnitude;
}

/// The FP4 code nearest to x, ties to even; beyond 6 the largest one.
constexpr std::uint8_t fp4_from_float(float x) {
  constexpr std::array<float, 7> kMiddles{0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float magnitude = x < 0.0f ? -x : x;
  std::uint8_t code = 0;
  while (code < 7 &&
         (magnitude > kMiddles[code] || (magnitude == kMiddles[code] && code % 2 == 1))) {
    ++code;
  }
  return static_cast<std::uint8_t>((std::bit_cast<std::uint32_t>(x) >> 28 & 8u) | code);
}

}  // namespace ds4
