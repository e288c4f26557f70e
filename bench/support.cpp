#include "support.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace ds4::bench {
namespace {

class Random {
 public:
  std::uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 32);
  }
  /// In [-1, 1).
  float value() { return static_cast<float>(bits() >> 8) * 0x1p-23f - 1.0f; }

 private:
  std::uint64_t state_ = 1;
};

/// Fills `count` elements with codes of finite values of the storage.
void fill_stored(std::byte* out, std::size_t bytes, DType dtype) {
  constexpr std::size_t kDifferent = 65521;  // a prime: rows of a matrix are not all alike
  const std::size_t size = dtype_size(dtype);
  std::vector<std::byte> block(std::min(bytes, kDifferent * size));
  Random random;
  for (std::size_t i = 0; i + size <= block.size(); i += size) {
    const float value = 0.05f * random.value();
    std::uint32_t code = std::bit_cast<std::uint32_t>(value);
    if (dtype == DType::bf16) code >>= 16;
    if (dtype == DType::f8_e4m3) code = random.bits() % 0x7f | (code >> 31 << 7);  // not NaN
    if (dtype == DType::i8) code = random.bits();
    std::memcpy(&block[i], &code, size);
  }
  for (std::size_t at = 0; at < bytes; at += block.size()) {
    std::memcpy(out + at, block.data(), std::min(block.size(), bytes - at));
  }
}

}  // namespace

void fill(std::span<float> values, float scale) {
  Random random;
  for (float& value : values) value = scale * random.value();
}

Weight::Weight(std::size_t rows, std::size_t cols, DType dtype) {
  stored_.rows = rows;
  stored_.cols = cols;
  stored_.dtype = dtype;
  const std::size_t row_bytes = dtype == DType::i8 ? (cols + 1) / 2 : cols * dtype_size(dtype);
  bytes_ = rows * row_bytes;
  values_ = std::make_unique_for_overwrite<std::byte[]>(bytes_);
  fill_stored(values_.get(), bytes_, dtype);
  stored_.values = values_.get();

  const auto blocks = [](std::size_t n, std::size_t block) { return (n + block - 1) / block; };
  std::size_t scales = 0;
  if (dtype == DType::f8_e4m3) {
    scales = blocks(rows, StoredMatrix::kFp8Block) * blocks(cols, StoredMatrix::kFp8Block);
  } else if (dtype == DType::i8) {
    scales = rows * blocks(cols, StoredMatrix::kFp4Block);
  }
  if (scales == 0) return;
  scales_ = std::make_unique_for_overwrite<std::byte[]>(scales);
  std::fill_n(scales_.get(), scales, std::byte{121});  // 2^-6
  stored_.scales = scales_.get();
  bytes_ += scales;
}

std::string storage_name(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "bf16";
    case DType::f8_e4m3:
      return "fp8";
    case DType::i8:
      return "fp4";
    default:
      return "f32";
  }
}

std::size_t working_set() {
  const benchmark::CPUInfo& cpu = benchmark::CPUInfo::Get();
  std::size_t caches = 0;
  for (const auto& cache : cpu.caches) {
    const int copies = cpu.num_cpus / std::max(cache.num_sharing, 1);
    caches += static_cast<std::size_t>(cache.size) * static_cast<std::size_t>(std::max(copies, 1));
  }
  return std::clamp(4 * caches, std::size_t{1} << 28, std::size_t{1} << 30);
}

}  // namespace ds4::bench
