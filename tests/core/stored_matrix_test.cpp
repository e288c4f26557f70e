// Tests of ds4/core/stored_matrix.hpp: each storage decoded, at sizes that fit no block, and the
// release's.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <support/golden.hpp>

namespace {

using ds4::DType;
using ds4::StoredMatrix;

std::size_t blocks(std::size_t n, std::size_t block) { return (n + block - 1) / block; }

/// A matrix of random codes that owns its bytes.
struct RandomMatrix {
  std::vector<std::byte> values;
  std::vector<std::byte> scales;
  StoredMatrix stored;

  RandomMatrix(std::size_t rows, std::size_t cols, DType dtype, DType scale_dtype) {
    std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
    const auto fill = [&](std::vector<std::byte>& bytes, std::size_t size) {
      bytes.resize(size);
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    };
    fill(values, dtype == DType::i8 ? rows * blocks(cols, 2) : rows * cols * dtype_size(dtype));
    const std::size_t count =
        dtype == DType::i8 ? rows * blocks(cols, 32) : blocks(rows, 128) * blocks(cols, 128);
    if (scale_dtype == DType::f32) {
      scales.resize(count * 4);
      for (std::size_t i = 0; i < count; ++i) {
        const float scale = std::ldexp(1.0f + static_cast<float>(random() % 1000) / 999.0f,
                                       static_cast<int>(random() % 20) - 10);
        std::memcpy(scales.data() + 4 * i, &scale, 4);
      }
    } else {
      fill(scales, count);
      // Scales as they occur: of any code, a product could be beyond float32.
      for (std::byte& byte : scales)
        byte = static_cast<std::byte>(100 + std::to_integer<int>(byte) % 50);
    }
    stored = {values.data(), scales.data(), rows, cols, dtype, scale_dtype};
  }

  /// Element (r, c), from the definition of the format.
  double element(std::size_t r, std::size_t c) const {
    const auto byte_at = [&](std::size_t i) { return std::to_integer<std::uint8_t>(values[i]); };
    const std::size_t at = r * stored.cols + c;
    switch (stored.dtype) {
      case DType::f32: {
        float value;
        std::memcpy(&value, &values[4 * at], 4);
        return static_cast<double>(value);
      }
      case DType::bf16:
      case DType::f16: {
        const auto bits = static_cast<std::uint16_t>(byte_at(2 * at) | byte_at(2 * at + 1) << 8);
        return static_cast<double>(stored.dtype == DType::bf16 ? ds4::bf16_to_float(bits)
                                                               : ds4::f16_to_float(bits));
      }
      case DType::f8_e4m3:
        return scaled(static_cast<double>(ds4::f8_e4m3_to_float(byte_at(at))),
                      (r / 128) * blocks(stored.cols, 128) + c / 128);
      default: {
        const unsigned pair = byte_at(r * blocks(stored.cols, 2) + c / 2);
        const unsigned nibble = c % 2 == 0 ? pair & 15u : pair >> 4;
        return scaled(static_cast<double>(ds4::fp4_to_float(nibble)),
                      r * blocks(stored.cols, 32) + c / 32);
      }
    }
  }

 private:
  double scaled(double value, std::size_t block) const {
    if (stored.scale_dtype == DType::f32) {
      float scale;
      std::memcpy(&scale, &scales[4 * block], 4);
      return value * static_cast<double>(scale);  // exact in float64
    }
    return std::ldexp(value, std::to_integer<int>(scales[block]) - 127);
  }
};

template <class T>
std::size_t wrong_elements(const RandomMatrix& matrix) {
  const StoredMatrix& stored = matrix.stored;
  std::size_t wrong = 0;
  std::vector<T> row(stored.cols + 1);
  for (std::size_t r = 0; r < stored.rows; ++r) {
    row.back() = T(77);  // decode_row writes cols values, no more
    stored.decode_row(r, row.data());
    if (row.back() != T(77)) ++wrong;
    for (std::size_t c = 0; c < stored.cols; ++c) {
      // Rounded once: what one product in T gives.
      const double expected = static_cast<double>(static_cast<T>(matrix.element(r, c)));
      const double got = static_cast<double>(row[c]);
      if (std::isnan(expected) ? !std::isnan(got) : got != expected) ++wrong;
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE_TEMPLATE("weights: every storage is decoded exactly, whatever the size", T, float,
                   double) {
  using Storage = std::pair<DType, DType>;
  for (const auto& [dtype, scale_dtype] :
       {Storage{DType::f32, DType::f8_e8m0}, Storage{DType::bf16, DType::f8_e8m0},
        Storage{DType::f16, DType::f8_e8m0}, Storage{DType::f8_e4m3, DType::f8_e8m0},
        Storage{DType::f8_e4m3, DType::f32}, Storage{DType::i8, DType::f8_e8m0},
        Storage{DType::i8, DType::f32}}) {
    for (const std::size_t rows : std::array<std::size_t, 5>{1, 127, 128, 129, 257}) {
      for (const std::size_t cols :
           std::array<std::size_t, 12>{1, 2, 31, 32, 33, 63, 127, 128, 129, 255, 256, 257}) {
        INFO(std::string(dtype_name(dtype)), " [", rows, ", ", cols, "], scales ",
             std::string(dtype_name(scale_dtype)));
        CHECK(wrong_elements<T>(RandomMatrix(rows, cols, dtype, scale_dtype)) == 0);
      }
    }
  }
}

TEST_CASE("weights: the low nibble of an FP4 byte comes first") {
  const std::vector<std::byte> values{std::byte{0x21}, std::byte{0xf7}, std::byte{0x03},
                                      std::byte{0x5c}, std::byte{0x6d}, std::byte{0x04}};
  const std::vector<std::byte> scales{std::byte{127}, std::byte{129}};
  const StoredMatrix stored{values.data(), scales.data(), 2, 5, DType::i8, DType::f8_e8m0};
  std::vector<float> row(5);
  stored.decode_row(0, row.data());
  CHECK(row == std::vector<float>{0.5f, 1.0f, 6.0f, -6.0f, 1.5f});
  stored.decode_row(1, row.data());  // an odd row begins with a byte of its own; scale 4
  CHECK(row == std::vector<float>{-8.0f, 12.0f, -12.0f, 16.0f, 8.0f});
}

TEST_CASE("weights: a NaN code or scale does not pass for a number") {
  const std::vector<std::byte> values{std::byte{0x7f}, std::byte{0x38}};
  const std::vector<std::byte> good{std::byte{127}};
  const std::vector<std::byte> bad{std::byte{255}};
  std::vector<float> row(2);
  StoredMatrix{values.data(), good.data(), 1, 2, DType::f8_e4m3, DType::f8_e8m0}.decode_row(
      0, row.data());
  CHECK(std::isnan(row[0]));
  CHECK(row[1] == 1.0f);
  StoredMatrix{values.data(), bad.data(), 1, 2, DType::f8_e4m3, DType::f8_e8m0}.decode_row(
      0, row.data());
  CHECK(std::isnan(row[1]));
}

TEST_CASE("weights: the release's storage gives the reference's values, bit by bit") {
  const auto folder = ds4::test::data_dir("quant");
  const auto checkpoint = ds4::Checkpoint::open(folder);
  const ds4::Safetensors golden(folder / "golden.safetensors");
  std::size_t compared = 0;
  for (const ds4::StoredTensor& expected : golden.tensors()) {
    constexpr std::string_view kPrefix = "dequant.";
    if (!expected.name.starts_with(kPrefix)) continue;
    INFO(expected.name);
    const std::string name = expected.name.substr(kPrefix.size());
    const ds4::StoredTensor* weight = checkpoint.find(name);
    REQUIRE(weight != nullptr);
    const ds4::StoredTensor* scale =
        checkpoint.find(name.substr(0, name.rfind(".weight")) + ".scale");
    StoredMatrix stored{weight->data.data(), nullptr, expected.shape[0], expected.shape[1],
                        weight->dtype};
    if (scale != nullptr) {
      stored.scales = scale->data.data();
      stored.scale_dtype = scale->dtype;
    }
    std::vector<float> decoded(stored.rows * stored.cols);
    for (std::size_t r = 0; r < stored.rows; ++r) {
      stored.decode_row(r, decoded.data() + r * stored.cols);
    }
    REQUIRE(expected.data.size() == decoded.size() * sizeof(float));
    CHECK(std::memcmp(decoded.data(), expected.data.data(), expected.data.size()) == 0);
    ++compared;
  }
  CHECK(compared == 13);
}

TEST_CASE("weights: a matrix has its shape in its type") {
  using Matrix = ds4::Matrix<3, 5>;
  static_assert(Matrix::kRows == 3);
  static_assert(Matrix::kCols == 5);
  CHECK(Matrix{}.stored.values == nullptr);
}
