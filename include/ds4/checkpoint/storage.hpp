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
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>

namespace ds4::inline v0_1 {

/// The storage of a checkpoint's matrices.
enum class StorageFormat : std::uint8_t {
  f32,      ///< F32
  bf16,     ///< BF16
  release,  ///< routed experts in FP4, most others in FP8, some in BF16. Source: model.md 7.2
  base,     ///< as the Base releases: routed experts in FP8 as well, all scales in F32
};

/// How a release of this configuration is stored, as far as its config.json says.
inline StorageFormat release_format(const ConfigValues& config) {
  return config.expert_dtype == "fp8" ? StorageFormat::base : StorageFormat::release;
}

/// How tensors of one role are stored: their type and, where they have scales, the values that
/// share one.
struct Storage {
  /// What a matrix of this element type has; not explicit, as the type says the rest.
  constexpr Storage(DType type)
      : dtype(type),
        scale_rows(storage_info(type).scale_rows),
        scale_cols(storage_info(type).scale_cols) {}

  DType dtype;                         ///< type of a stored element
  std::size_t scale_rows;              ///< 0: no scales
  std::size_t scale_cols;              ///< likewise
  DType scale_dtype = DType::f8_e8m0;  ///< type of a scale
};

/// The rule.
constexpr Storage storage_of(TensorRole role, StorageFormat format) {
  if (format == StorageFormat::base) {
    const bool expert = role == TensorRole::expert;
    Storage storage = storage_of(expert ? TensorRole::linear : role, StorageFormat::release);
    storage.scale_dtype = DType::f32;
    return storage;
  }
  const bool release = format == StorageFormat::release;
  const DType matrix = format == StorageFormat::f32 ? DType::f32 : DType::bf16;
  switch (role) {
    case TensorRole::expert:
      return release ? StoredFp4::kDType : matrix;
    case TensorRole::linear:
      return release ? StoredFp8::kDType : matrix;
    case TensorRole::matrix:
      return matrix;
    case TensorRole::norm:
      return release ? DType::bf16 : DType::f32;
    case TensorRole::vector:
      return DType::f32;
    case TensorRole::table:
      return DType::i64;
  }
  return matrix;
}

/// Bytes of one tensor [rows, cols] with its scales.
constexpr std::size_t stored_bytes(const Storage& storage, std::size_t rows, std::size_t cols) {
  const auto [scale_rows, scale_cols] = scale_shape(storage.dtype, rows, cols);
  return rows * stored_row_bytes(storage.dtype, cols) +
         scale_rows * scale_cols * dtype_size(storage.scale_dtype);
}

/// The storage of a matrix whose elements a file states to be of this type: tools that have no FP4
/// write its bytes as U8, not as I8.
constexpr DType matrix_storage(DType stated) {
  return stated == DType::u8 ? StoredFp4::kDType : stated;
}

/// The name of the scales of a matrix, "<...>.weight".
inline std::string scale_name(std::string_view weight) {
  return std::string(weight.substr(0, weight.rfind('.'))) + ".scale";
}

/// A tensor's values as they are stored and, behind them, its scales if it has some.
inline std::vector<TensorSpec> stored_tensors(const TensorInfo& tensor, StorageFormat format) {
  const Storage storage = storage_of(tensor.role, format);
  const DType dtype = storage.dtype;
  std::vector<TensorSpec> stored{{tensor.name, dtype, tensor.shape}};
  if (storage.scale_rows > 0) {
    const std::size_t rows = tensor.shape[0];
    const std::size_t cols = tensor.shape[1];
    const auto scales = scale_shape(dtype, rows, cols);
    stored[0].shape = {rows, stored_row_bytes(dtype, cols) / dtype_size(dtype)};
    stored.push_back({scale_name(tensor.name), storage.scale_dtype, {scales[0], scales[1]}});
  }
  return stored;
}

}  // namespace ds4::inline v0_1
