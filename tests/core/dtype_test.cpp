// Tests of ds4/core/dtype.hpp: every code of every type against a formula that shares nothing with
// it.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>

#include <doctest/doctest.h>

#include <ds4/core/dtype.hpp>
#include <support/golden.hpp>

namespace {

using ds4::DType;

/// (-1)^sign * 1.mantissa * 2^(exponent - bias), or 0.mantissa * 2^(1 - bias) for exponent 0.
double binary_value(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const bool negative = (bits >> (mantissa_bits + exponent_bits) & 1) != 0;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                    : std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
  return negative ? -magnitude : magnitude;
}

/// Equal values of equal sign: +0 and -0 differ, NaN equals NaN.
bool identical(float got, double expected) {
  if (std::isnan(expected)) return std::isnan(got);
  return static_cast<double>(got) == expected && std::signbit(got) == std::signbit(expected);
}

const ds4::test::Golden& golden() {
  static const ds4::test::Golden file(ds4::test::data_dir("quant") / "golden.safetensors");
  return file;
}

// The conversions work at compile time.
static_assert(ds4::bf16_to_float(0x3f80) == 1.0f);
static_assert(ds4::f16_to_float(0x0001) == 0x1p-24f);
static_assert(ds4::f8_e4m3_to_float(0x7e) == 448.0f);
static_assert(ds4::f8_e8m0_to_float(127) == 1.0f);
static_assert(ds4::fp4_to_float(0xf) == -6.0f);

}  // namespace

TEST_CASE("dtype: names and sizes are those of safetensors headers") {
  std::set<std::string> names;
  for (const auto& info : ds4::detail::kDTypes) {
    INFO(std::string(info.name));
    CHECK(ds4::dtype_name(info.dtype) == info.name);
    CHECK(ds4::dtype_size(info.dtype) == info.size);
    CHECK(ds4::dtype_from_name(info.name) == info.dtype);
    names.emplace(info.name);
  }
  CHECK(names == std::set<std::string>{"F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "I64",
                                       "I32", "I8", "U8"});
  CHECK(ds4::dtype_size(DType::f64) == 8);
  CHECK(ds4::dtype_size(DType::i64) == 8);
  CHECK(ds4::dtype_size(DType::f32) == 4);
  CHECK(ds4::dtype_size(DType::i32) == 4);
  CHECK(ds4::dtype_size(DType::bf16) == 2);
  CHECK(ds4::dtype_size(DType::f16) == 2);
  CHECK(ds4::dtype_size(DType::f8_e4m3) == 1);
  CHECK(ds4::dtype_size(DType::i8) == 1);
  for (const char* unknown : {"", "f32", "F8_E5M2", "BOOL", "F32 ", "F4"}) {
    CHECK_FALSE(ds4::dtype_from_name(unknown).has_value());
  }
}

TEST_CASE("dtype: every F8_E4M3 code") {
  const auto table = golden().values("codec.e4m3_all256");
  REQUIRE(table.size() == 256);
  for (unsigned code = 0; code < 256; ++code) {
    INFO("code ", code);
    const float value = ds4::f8_e4m3_to_float(static_cast<std::uint8_t>(code));
    // The fn form: the all-ones codes are NaN, all others finite.
    const double expected =
        (code & 0x7f) == 0x7f ? std::numeric_limits<double>::quiet_NaN() : binary_value(code, 4, 3);
    CHECK(identical(value, expected));
    // The golden table has 12345 for NaN.
    CHECK((std::isnan(value) ? 12345.0f : value) == table[code]);
  }
}

TEST_CASE("dtype: every F8_E8M0 code") {
  const auto table = golden().values("codec.e8m0_bytes0_254");
  REQUIRE(table.size() == 255);
  for (unsigned code = 0; code < 255; ++code) {
    INFO("code ", code);
    const float value = ds4::f8_e8m0_to_float(static_cast<std::uint8_t>(code));
    CHECK(identical(value, std::ldexp(1.0, static_cast<int>(code) - 127)));
    CHECK(identical(value, static_cast<double>(table[code])));
  }
  CHECK(std::isnan(ds4::f8_e8m0_to_float(255)));
}

TEST_CASE("dtype: every FP4 code, whatever the upper nibble") {
  const auto table = golden().values("codec.e2m1_all16");
  REQUIRE(table.size() == 16);
  for (unsigned byte = 0; byte < 256; ++byte) {
    INFO("byte ", byte);
    const unsigned code = byte & 15u;
    CHECK(identical(ds4::fp4_to_float(byte), binary_value(code, 2, 1)));
    CHECK(identical(ds4::fp4_to_float(byte), static_cast<double>(table[code])));
  }
}

TEST_CASE("dtype: every F16 code") {
  std::size_t wrong = 0;
  for (unsigned code = 0; code < 65536; ++code) {
    double expected = binary_value(code, 5, 10);
    if ((code & 0x7c00) == 0x7c00) {
      expected = (code & 0x3ff) != 0
                     ? std::numeric_limits<double>::quiet_NaN()
                     : std::copysign(std::numeric_limits<double>::infinity(), expected);
    }
    if (!identical(ds4::f16_to_float(static_cast<std::uint16_t>(code)), expected)) {
      ++wrong;
      if (wrong < 5) FAIL_CHECK("code " << code << ", expected " << expected);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtype: every BF16 code") {
  std::size_t wrong = 0;
  for (unsigned code = 0; code < 65536; ++code) {
    double expected = binary_value(code, 8, 7);
    if ((code & 0x7f80) == 0x7f80) {
      expected = (code & 0x7f) != 0
                     ? std::numeric_limits<double>::quiet_NaN()
                     : std::copysign(std::numeric_limits<double>::infinity(), expected);
    }
    const float value = ds4::bf16_to_float(static_cast<std::uint16_t>(code));
    if (!identical(value, expected) || std::bit_cast<std::uint32_t>(value) != code << 16) {
      ++wrong;
      if (wrong < 5) FAIL_CHECK("code " << code << ", expected " << expected);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtype: floats to FP8 and FP4, nearest with ties to even") {
  for (unsigned code = 0; code < 256; ++code) {
    const auto byte = static_cast<std::uint8_t>(code);
    const float value = ds4::f8_e4m3_to_float(byte);
    if (std::isnan(value)) {
      CHECK((ds4::f8_e4m3_from_float(value) & 0x7fu) == 0x7fu);
      continue;
    }
    CHECK(ds4::f8_e4m3_from_float(value) == byte);
    if ((byte & 0x7fu) == 0x7eu) continue;  // the largest
    // Between two neighbours: the even one at the middle, else the nearer.
    const float next = ds4::f8_e4m3_to_float(static_cast<std::uint8_t>(byte + 1));
    const float middle = (value + next) / 2.0f;
    const auto even = static_cast<std::uint8_t>(byte % 2 == 0 ? byte : byte + 1);
    CHECK(ds4::f8_e4m3_from_float(middle) == even);
    CHECK(ds4::f8_e4m3_from_float(std::nextafter(middle, value)) == byte);
    CHECK(ds4::f8_e4m3_from_float(std::nextafter(middle, next)) == byte + 1);
  }
  CHECK(ds4::f8_e4m3_from_float(1e9f) == 0x7e);
  CHECK(ds4::f8_e4m3_from_float(-INFINITY) == 0xfe);
  CHECK(ds4::f8_e4m3_from_float(1e-9f) == 0);
  CHECK(ds4::f8_e4m3_from_float(-0.0f) == 0x80);

  for (unsigned code = 0; code < 16; ++code) {
    const float value = ds4::fp4_to_float(code);
    CHECK(ds4::fp4_from_float(value) == code);
    if (code % 8 == 7) continue;
    const float next = ds4::fp4_to_float(code + 1);
    const float middle = (value + next) / 2.0f;
    CHECK(ds4::fp4_from_float(middle) == (code % 2 == 0 ? code : code + 1));
    CHECK(ds4::fp4_from_float(std::nextafter(middle, value)) == code);
    CHECK(ds4::fp4_from_float(std::nextafter(middle, next)) == code + 1);
  }
  CHECK(ds4::fp4_from_float(100.0f) == 7);
  CHECK(ds4::fp4_from_float(-100.0f) == 15);
}

TEST_CASE("dtype: the BF16 nearest to a number, ties to even") {
  std::size_t wrong = 0;
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float value = ds4::bf16_to_float(bits);
    if (std::isnan(value)) {
      if (!std::isnan(ds4::bf16_to_float(ds4::bf16_from_float(value)))) ++wrong;
      continue;
    }
    if (ds4::bf16_from_float(value) != bits) ++wrong;
    if (std::isinf(value)) continue;
    // The next one, away from zero, may be the infinity: numbers from the middle on become it.
    const auto middle = std::bit_cast<float>(std::uint32_t{code} << 16 | 0x8000u);
    const auto below = std::bit_cast<float>(std::uint32_t{code} << 16 | 0x7fffu);
    const auto above = std::bit_cast<float>(std::uint32_t{code} << 16 | 0x8001u);
    if (ds4::bf16_from_float(middle) != (code % 2 == 0 ? code : code + 1)) ++wrong;
    if (ds4::bf16_from_float(below) != code) ++wrong;
    if (ds4::bf16_from_float(above) != code + 1) ++wrong;
  }
  CHECK(wrong == 0);
  // A NaN of which the upper half alone would be an infinity.
  CHECK(std::isnan(ds4::bf16_to_float(ds4::bf16_from_float(std::bit_cast<float>(0x7f800001u)))));
}
