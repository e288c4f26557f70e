// How a checkpoint stores the tensors of a configuration: the release's mixture, or one type for
// all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config_values.hpp>
#include <ds4/dtype.hpp>
#include <ds4/weights.hpp>

namespace ds4 {

/// The storage of a checkpoint's matrices.
enum class StorageFormat : std::uint8_t {
  f32,      ///< F32
  bf16,     ///< BF16
  release,  ///< routed experts in FP4, most others in FP8, some in BF16. Source: model.md 7
};

/// A tensor's values as they are stored and, behind them, its scales if it has some.
inline std::vector<TensorSpec> stored_tensors(const TensorInfo& tensor, StorageFormat format) {
  const bool release = format == StorageFormat::release;
  const DType matrix = format == StorageFormat::f32 ? DType::f32 : DType::bf16;
  const auto blocks = [](std::size_t n, std::size_t block) { return (n + block - 1) / block; };
  const auto scales = [&](std::size_t row_block, std::size_t col_block) {
    const std::string name = tensor.name.substr(0, tensor.name.rfind('.')) + ".scale";
    return TensorSpec{name,
                      DType::f8_e8m0,
                      {blocks(tensor.shape[0], row_block), blocks(tensor.shape[1], col_block)}};
  };
  switch (tensor.role) {
    case TensorRole::expert:
      if (!release) break;
      return {{tensor.name, DType::i8, {tensor.shape[0], blocks(tensor.shape[1], 2)}},
              scales(1, StoredMatrix::kFp4Block)};
    case TensorRole::linear:
      if (!release) break;
      return {{tensor.name, DType::f8_e4m3, tensor.shape},
              scales(StoredMatrix::kFp8Block, StoredMatrix::kFp8Block)};
    case TensorRole::matrix:
      break;
    case TensorRole::norm:
      return {{tensor.name, release ? DType::bf16 : DType::f32, tensor.shape}};
    case TensorRole::vector:
      return {{tensor.name, DType::f32, tensor.shape}};
    case TensorRole::table:
      return {{tensor.name, DType::i64, tensor.shape}};
  }
  return {{tensor.name, matrix, tensor.shape}};
}

}  // namespace ds4
