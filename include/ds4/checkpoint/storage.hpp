// How a checkpoint stores the tensors of a configuration: the release's mixture, or one type for
// all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1 {

/// The storage of a checkpoint's matrices.
enum class StorageFormat : std::uint8_t {
  f32,      ///< F32
  bf16,     ///< BF16
  release,  ///< routed experts in FP4, most others in FP8, some in BF16. Source: model.md 7.2
};

/// How tensors of one role are stored: their type and, where they have scales, the values that
/// share one.
struct Storage {
  DType dtype;                 ///< type of a stored element
  std::size_t scale_rows = 0;  ///< 0: no scales
  std::size_t scale_cols = 0;  ///< likewise
};

/// The rule.
constexpr Storage storage_of(TensorRole role, StorageFormat format) {
  const bool release = format == StorageFormat::release;
  const DType matrix = format == StorageFormat::f32 ? DType::f32 : DType::bf16;
  switch (role) {
    case TensorRole::expert:
      return release ? Storage{DType::i8, 1, StoredMatrix::kFp4Block} : Storage{matrix};
    case TensorRole::linear:
      return release ? Storage{DType::f8_e4m3, StoredMatrix::kFp8Block, StoredMatrix::kFp8Block}
                     : Storage{matrix};
    case TensorRole::matrix:
      return {matrix};
    case TensorRole::norm:
      return {release ? DType::bf16 : DType::f32};
    case TensorRole::vector:
      return {DType::f32};
    case TensorRole::table:
      return {DType::i64};
  }
  return {matrix};
}

namespace detail {
constexpr std::size_t blocks_of(std::size_t n, std::size_t block) {
  return (n + block - 1) / block;
}
}  // namespace detail

/// Bytes of one tensor [rows, cols] with its scales.
constexpr std::size_t stored_bytes(const Storage& storage, std::size_t rows, std::size_t cols) {
  const std::size_t per_row = storage.dtype == DType::i8 ? detail::blocks_of(cols, 2) : cols;
  const std::size_t bytes = rows * per_row * dtype_size(storage.dtype);
  if (storage.scale_rows == 0) return bytes;
  return bytes +
         detail::blocks_of(rows, storage.scale_rows) * detail::blocks_of(cols, storage.scale_cols);
}

/// The name of the scales of a matrix, "<...>.weight".
inline std::string scale_name(std::string_view weight) {
  return std::string(weight.substr(0, weight.rfind('.'))) + ".scale";
}

/// A tensor's values as they are stored and, behind them, its scales if it has some.
inline std::vector<TensorSpec> stored_tensors(const TensorInfo& tensor, StorageFormat format) {
  const Storage storage = storage_of(tensor.role, format);
  std::vector<TensorSpec> stored{{tensor.name, storage.dtype, tensor.shape}};
  if (storage.dtype == DType::i8) stored[0].shape[1] = detail::blocks_of(tensor.shape[1], 2);
  if (storage.scale_rows > 0) {
    stored.push_back({scale_name(tensor.name),
                      DType::f8_e8m0,
                      {detail::blocks_of(tensor.shape[0], storage.scale_rows),
                       detail::blocks_of(tensor.shape[1], storage.scale_cols)}});
  }
  return stored;
}

}  // namespace ds4::inline v0_1
