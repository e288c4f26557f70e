// Tests of ds4/checkpoint/quantise.hpp: the scale against its definition, codes one by one, and
// what quantising again does to blocks that are made to be difficult.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/quantise.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace {

using ds4::DType;
using ds4::StoredMatrix;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::size_t blocks(std::size_t n, std::size_t block) { return (n + block - 1) / block; }

/// A matrix that has been quantised, panel by panel.
struct Quantised {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<float> decoded;
  bool is_stored = true;

  Quantised(const std::vector<float>& x, std::size_t cols, DType dtype) {
    const std::size_t rows = x.size() / cols;
    const bool is_fp4 = dtype == DType::i8;
    const std::size_t code_cols = is_fp4 ? blocks(cols, 2) : cols;
    const std::size_t scale_cols = blocks(cols, is_fp4 ? 32 : 128);
    codes.resize(rows * code_cols);
    scales.resize((is_fp4 ? rows : blocks(rows, 128)) * scale_cols);
    for (std::size_t row = 0; row < rows; row += 128) {
      const std::size_t count = std::min<std::size_t>(128, rows - row);
      const auto panel = std::span(x).subspan(row * cols, count * cols);
      const auto to = std::span(codes).subspan(row * code_cols, count * code_cols);
      const auto to_scales = std::span(scales).subspan((is_fp4 ? row : row / 128) * scale_cols,
                                                       (is_fp4 ? count : 1) * scale_cols);
      is_stored = is_stored && (is_fp4 ? ds4::quantise_fp4(panel, cols, to, to_scales)
                                       : ds4::quantise_fp8(panel, cols, to, to_scales));
    }
    decoded.resize(x.size());
    const StoredMatrix stored{reinterpret_cast<const std::byte*>(codes.data()),
                              reinterpret_cast<const std::byte*>(scales.data()),
                              rows,
                              cols,
                              dtype,
                              DType::f8_e8m0};
    for (std::size_t r = 0; is_stored && r < rows; ++r) {
      stored.decode_row(r, decoded.data() + r * cols);
    }
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// The rule in float64, where it is exact as well: the smallest power of two with which the block
/// fits, from 2^-127; 2^0 if that leaves nothing of it.
int scale_exponent(double amax, double largest) {
  const double least = largest == 6.0 ? 0.5 : 0x1p-9;
  if (amax <= std::ldexp(least / 2, -127)) return 0;
  int exponent = -127;
  while (amax > std::ldexp(largest, exponent)) ++exponent;
  return exponent;
}

/// Values over many binades, with zeros; rounded to BF16 if wanted.
std::vector<float> values_of(std::size_t count, int first_exponent, int binades, bool bf16,
                             unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> x(count);
  for (float& value : x) {
    const float mantissa = 1.0f + static_cast<float>(random() % 4096) / 4096.0f;
    const int exponent =
        first_exponent + static_cast<int>(random() % static_cast<unsigned>(binades));
    value = random() % 16 == 0 ? 0.0f : std::ldexp(mantissa, exponent);
    if (random() % 2 == 0) value = -value;
    if (bf16) value = ds4::bf16_to_float(ds4::bf16_from_float(value));
  }
  return x;
}

}  // namespace

TEST_CASE("quantise: the scale is the smallest power of two with which the block fits") {
  for (const auto& [dtype, largest] :
       {std::pair{DType::f8_e4m3, 448.0}, std::pair{DType::i8, 6.0}}) {
    CHECK(ds4::block_scale(0.0f, dtype) == 127);
    std::size_t wrong = 0;
    for (int exponent = -149; exponent < 128; ++exponent) {
      for (const double mantissa : {1.0, 1.25, 1.5, 1.6, 1.75, 1.8, 1.99}) {
        const auto middle = static_cast<float>(std::ldexp(mantissa, exponent));
        for (const float amax :
             {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, kInfinity)}) {
          if (amax == 0.0f || !std::isfinite(amax)) continue;
          if (ds4::block_scale(amax, dtype) !=
              127 + scale_exponent(static_cast<double>(amax), largest)) {
            ++wrong;
          }
        }
      }
    }
    CHECK(wrong == 0);
    // 448 * 2^k gives 2^k; a little more, the next one.
    for (int k = -120; k < 110; ++k) {
      const auto amax = static_cast<float>(std::ldexp(largest, k));
      CHECK(ds4::block_scale(amax, dtype) == 127 + k);
      CHECK(ds4::block_scale(std::nextafter(amax, kInfinity), dtype) == 128 + k);
    }
  }
  static_assert(ds4::block_scale(448.0f, DType::f8_e4m3) == 127);
  static_assert(ds4::block_scale(6.0f, DType::i8) == 127);
}

TEST_CASE("quantise: every code is the nearest to value / scale, whatever the size") {
  for (const auto& [dtype, largest] :
       {std::pair{DType::f8_e4m3, 448.0}, std::pair{DType::i8, 6.0}}) {
    const bool is_fp4 = dtype == DType::i8;
    const std::size_t block_rows = is_fp4 ? 1 : 128;
    const std::size_t block_cols = is_fp4 ? 32 : 128;
    for (const std::size_t rows : std::array<std::size_t, 5>{1, 5, 128, 129, 257}) {
      for (const std::size_t cols :
           std::array<std::size_t, 9>{1, 2, 31, 32, 33, 50, 127, 129, 257}) {
        CAPTURE(is_fp4);
        CAPTURE(rows);
        CAPTURE(cols);
        const auto x = values_of(rows * cols, -30, 16, false, static_cast<unsigned>(rows + cols));
        const Quantised q(x, cols, dtype);
        REQUIRE(q.is_stored);
        std::size_t wrong = 0;
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t c = 0; c < cols; ++c) {
            const std::size_t r0 = r / block_rows * block_rows;
            const std::size_t c0 = c / block_cols * block_cols;
            double amax = 0.0;
            for (std::size_t i = r0; i < std::min(rows, r0 + block_rows); ++i) {
              for (std::size_t j = c0; j < std::min(cols, c0 + block_cols); ++j) {
                amax = std::max(amax, std::abs(static_cast<double>(x[i * cols + j])));
              }
              if (cols * rows > 5000 && i > r0 && r != r0) break;  // checked in its first row
            }
            const std::size_t at = r / block_rows * blocks(cols, block_cols) + c / block_cols;
            const int exponent = q.scales[at] - 127;
            if ((cols * rows <= 5000 || r == r0) && amax > 0.0 &&
                exponent != scale_exponent(amax, largest)) {
              ++wrong;
            }
            const float scaled = std::ldexp(x[r * cols + c], -exponent);
            const unsigned code = is_fp4
                                      ? q.codes[r * blocks(cols, 2) + c / 2] >> (4 * (c % 2)) & 15u
                                      : q.codes[r * cols + c];
            const unsigned expected =
                is_fp4 ? ds4::fp4_from_float(scaled) : ds4::f8_e4m3_from_float(scaled);
            if (code != expected) ++wrong;
          }
          if (is_fp4 && cols % 2 != 0 && q.codes[r * blocks(cols, 2) + cols / 2] >> 4 != 0) {
            ++wrong;  // what fills the last byte
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("quantise: what comes back has the same values when it is quantised again") {
  std::size_t halved = 0;
  for (const DType dtype : {DType::f8_e4m3, DType::i8}) {
    const bool is_fp4 = dtype == DType::i8;
    const float half = is_fp4 ? 3.0f : 224.0f;  // of the largest code
    for (const int exponent : {-149, -140, -133, -130, -127, -126, -20, 0, 90, 110, 119}) {
      for (const float factor : {0.99f, 1.0f, 1.001f, 1.01f, 1.03f, 1.0357f, 1.04f, 1.1f, 1.16f,
                                 1.17f, 1.5f, 1.99f, 2.0f, 2.01f}) {
        for (const bool bf16 : {false, true}) {
          CAPTURE(is_fp4);
          CAPTURE(exponent);
          CAPTURE(factor);
          float amax = std::ldexp(half * factor, exponent);
          if (bf16) amax = ds4::bf16_to_float(ds4::bf16_from_float(amax));
          if (!std::isfinite(amax)) continue;
          // One block, 7 x 31, its other values down to where codes are denormals and below.
          auto x = values_of(std::size_t{7} * 31, exponent - 12, is_fp4 ? 13 : 19, bf16, 3);
          for (float& value : x) value = std::clamp(value, -amax, amax);
          for (std::size_t r = 0; r < 7; ++r) x[r * 31 + r] = r % 2 == 0 ? amax : -amax;

          const Quantised first(x, 31, dtype);
          REQUIRE(first.is_stored);
          for (const float value : first.decoded) REQUIRE(std::isfinite(value));
          const Quantised second(first.decoded, 31, dtype);
          CHECK(same_bits(second.decoded, first.decoded));
          const Quantised third(second.decoded, 31, dtype);
          CHECK(third.codes == second.codes);
          CHECK(third.scales == second.scales);
          // The codes change only where rounding has brought the largest to half of what fits.
          for (std::size_t i = 0; i < first.scales.size(); ++i) {
            if (second.scales[i] == first.scales[i]) continue;
            ++halved;
            CHECK(second.scales[i] == first.scales[i] - 1);
          }
          if (first.scales == second.scales) CHECK(first.codes == second.codes);
          // What BF16 held before fits BF16 again, at the smallest scales as well.
          if (!bf16) continue;
          for (const float value : first.decoded) {
            CHECK(ds4::bf16_to_float(ds4::bf16_from_float(value)) == value);
          }
        }
      }
    }
  }
  CHECK(halved > 100);  // the case is met
}

TEST_CASE("quantise: the largest code that rounds to half of what fits") {
  // 232 * 2^k is the middle of 224 and 240 and goes to 224; 3.5 is that of 3 and 4 and goes to 4.
  const Quantised fp8({232.0f, 1.0f}, 2, DType::f8_e4m3);
  CHECK(fp8.scales[0] == 127);
  CHECK(fp8.decoded == std::vector<float>{224.0f, 1.0f});
  const Quantised again(fp8.decoded, 2, DType::f8_e4m3);
  CHECK(again.scales[0] == 126);
  CHECK(again.decoded == fp8.decoded);
  CHECK(Quantised({232.1f}, 1, DType::f8_e4m3).decoded[0] == 240.0f);
  CHECK(Quantised({3.5f}, 1, DType::i8).decoded[0] == 4.0f);
  CHECK(Quantised({3.4f}, 1, DType::i8).scales[0] == 127);
  CHECK(Quantised({3.0f}, 1, DType::i8).scales[0] == 126);
}

TEST_CASE("quantise: zeros keep their signs, NaN its place, and infinities are refused") {
  for (const DType dtype : {DType::f8_e4m3, DType::i8}) {
    const Quantised zeros({0.0f, -0.0f, 0.0f}, 3, dtype);
    CHECK(zeros.scales[0] == 127);
    CHECK(same_bits(zeros.decoded, {0.0f, -0.0f, 0.0f}));
    for (const float infinity : {kInfinity, -kInfinity}) {
      const std::vector<float> x{1.0f, 2.0f, 3.0f, infinity, 4.0f, 5.0f};
      CHECK_FALSE(Quantised(x, 2, dtype).is_stored);
      CHECK(ds4::unquantisable_row(x, 2, dtype) == 1);
    }
    CHECK_FALSE(ds4::unquantisable_row(std::vector<float>{1.0f, 2.0f}, 1, dtype).has_value());
  }
  const std::vector<float> x{1.0f, kNan, -kNan, 3.0f};
  const Quantised fp8(x, 2, DType::f8_e4m3);
  REQUIRE(fp8.is_stored);
  CHECK(fp8.scales[0] == 127 - 7);  // 3 * 2^7 fits: NaN has no say in it
  CHECK(fp8.decoded[0] == 1.0f);
  CHECK(std::isnan(fp8.decoded[1]));
  CHECK(std::isnan(fp8.decoded[2]));
  CHECK(fp8.decoded[3] == 3.0f);
  CHECK_FALSE(Quantised(x, 2, DType::i8).is_stored);
  CHECK(ds4::unquantisable_row(x, 2, DType::i8) == 0);
}

TEST_CASE("quantise: a block of which nothing is left is a block of zeros") {
  const float fp4 = 0x1p-129f;  // the middle of 0 and 1/2, at 2^-127
  CHECK(Quantised({fp4, -fp4}, 2, DType::i8).scales[0] == 127);
  CHECK(same_bits(Quantised({fp4, -fp4}, 2, DType::i8).decoded, {0.0f, -0.0f}));
  CHECK(Quantised({std::nextafter(fp4, 1.0f)}, 1, DType::i8).scales[0] == 0);
  CHECK(Quantised({std::nextafter(fp4, 1.0f)}, 1, DType::i8).decoded[0] == 0x1p-128f);
  const float fp8 = 0x1p-137f;
  CHECK(Quantised({fp8, -fp8}, 2, DType::f8_e4m3).scales[0] == 127);
  CHECK(same_bits(Quantised({fp8, -fp8}, 2, DType::f8_e4m3).decoded, {0.0f, -0.0f}));
  CHECK(Quantised({std::nextafter(fp8, 1.0f)}, 1, DType::f8_e4m3).scales[0] == 0);
  CHECK(Quantised({std::nextafter(fp8, 1.0f)}, 1, DType::f8_e4m3).decoded[0] == 0x1p-136f);
}

TEST_CASE("quantise: the largest floats come back finite") {
  const float largest = std::numeric_limits<float>::max();
  CHECK(Quantised({largest, -largest}, 2, DType::f8_e4m3).decoded ==
        std::vector<float>{240 * 0x1p120f, -240 * 0x1p120f});
  CHECK(Quantised({largest, -largest}, 2, DType::i8).decoded ==
        std::vector<float>{3 * 0x1p126f, -3 * 0x1p126f});
}
