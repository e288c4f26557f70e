// A checkpoint's tensors as they are asked for: each checked, and all of them used exactly once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1 {

/// A table of the hash router in a file: I64 or I32, row-major. A view of mapped memory.
struct StoredTable {
  ///@{
  /// The mapped bytes, and the type of an entry.
  const std::byte* values = nullptr;
  DType dtype = DType::i64;
  ///@}

  /// Entry number `index`.
  std::int64_t at(std::size_t index) const {
    return dtype == DType::i64 ? load<std::int64_t>(index) : load<std::int32_t>(index);
  }

 private:
  template <class V>
  V load(std::size_t index) const {
    V value;
    std::memcpy(&value, values + index * sizeof(V), sizeof(V));
    return value;
  }
};

/// Gives out the tensors of a checkpoint, which has to outlive it and what it gives, under the
/// release's names. Problems are collected: a tensor with one is not given, and finish() throws.
class TensorReader {
 public:
  /// Nothing is used yet.
  explicit TensorReader(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint), used_(checkpoint.tensors().size(), false) {}

  /// A matrix [rows, cols] in any storage: F32, BF16, F16, or F8_E4M3 or packed FP4 (I8 or U8) with
  /// its ".scale" (F8_E8M0, its bytes as U8, or F32).
  std::optional<StoredMatrix> matrix(const std::string& name, std::size_t rows, std::size_t cols);

  /// A small tensor in F32, BF16 or F16 as one row, whatever its shape.
  std::optional<StoredMatrix> vector(const std::string& name,
                                     const std::vector<std::size_t>& shape);

  /// A table [rows, cols] of the hash router, I64 or I32, whose entries name one of `experts`.
  std::optional<StoredTable> table(const std::string& name, std::size_t rows, std::size_t cols,
                                   std::size_t experts);

  /// Counts the tensors whose names start with `prefix` as used, though nothing reads them; returns
  /// how many they are.
  std::size_t set_aside(std::string_view prefix);

  /// The same for tensors by their names, which are there together or not at all: where some are,
  /// the missing ones are problems.
  std::size_t set_aside(std::span<const TensorInfo> tensors);

  /// Throws ds4::Error with up to 20 problems: tensors that are missing, misshapen or of another
  /// dtype, and tensors that nobody has asked for.
  void finish();

 private:
  /// The tensor of this name, now used, or nullptr.
  const StoredTensor* find(const std::string& name) {
    const StoredTensor* tensor = checkpoint_.find(name);
    if (tensor != nullptr) {
      used_[static_cast<std::size_t>(tensor - checkpoint_.tensors().data())] = true;
    }
    return tensor;
  }

  /// The same; a missing one is a problem.
  const StoredTensor* take(const std::string& name) {
    const StoredTensor* tensor = find(name);
    if (tensor == nullptr) problems_.add(name + ": missing");
    return tensor;
  }

  bool take_scales(const std::string& name, StoredMatrix& matrix,
                   const std::vector<std::size_t>& shape);

  bool expect_shape(const StoredTensor& tensor, const std::vector<std::size_t>& shape) {
    if (tensor.shape == shape) return true;
    problems_.add(detail::printable(tensor.stored_name) + ": found " + describe(tensor) +
                  ", expected shape " + detail::shape_text(shape));
    return false;
  }

  void expect_dtype(const StoredTensor& tensor, std::string_view expected) {
    problems_.add(detail::printable(tensor.stored_name) + ": found " + describe(tensor) +
                  ", expected dtype " + std::string(expected));
  }

  static std::string describe(const StoredTensor& tensor) {
    return std::string(dtype_name(tensor.dtype)) + " " + detail::shape_text(tensor.shape);
  }

  const Checkpoint& checkpoint_;
  std::vector<bool> used_;
  detail::Problems problems_;
};

namespace detail {
/// The types that matrices may have, as a sentence has them.
inline std::string matrix_dtypes() {
  std::vector<std::string> names;
  Storages::for_each([&](auto storage) {
    using S = decltype(storage);
    for (const DTypeInfo& type : kDTypes) {
      if (matrix_storage(type.dtype) != S::kDType) continue;
      std::string name(type.name);
      if (S::kName != name) name += " (packed " + std::string(S::kName) + ")";
      names.push_back(std::move(name));
    }
  });
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " or ") + names[i];
  }
  return text;
}
}  // namespace detail

inline std::optional<StoredMatrix> TensorReader::matrix(const std::string& name, std::size_t rows,
                                                        std::size_t cols) {
  const StoredTensor* tensor = take(name);
  const DType dtype = tensor == nullptr ? DType::f32 : matrix_storage(tensor->dtype);
  const StorageInfo& storage = storage_info(dtype);
  if (tensor == nullptr || storage.scale_rows > 0) {
    find(scale_name(name));  // a problem with the weight is not one with its scale
  }
  if (tensor == nullptr) return {};
  StoredMatrix stored;
  stored.values = tensor->data.data();
  stored.rows = rows;
  stored.cols = cols;
  stored.dtype = dtype;
  if (!storage.matrices) {
    expect_dtype(*tensor, detail::matrix_dtypes());
    return {};
  }
  const std::size_t width = stored_row_bytes(dtype, cols) / dtype_size(dtype);
  if (!expect_shape(*tensor, {rows, width})) return {};
  if (storage.scale_rows > 0) {
    const auto scales = scale_shape(dtype, rows, cols);
    if (!take_scales(scale_name(name), stored, {scales[0], scales[1]})) return {};
  }
  return stored;
}

inline bool TensorReader::take_scales(const std::string& name, StoredMatrix& matrix,
                                      const std::vector<std::size_t>& shape) {
  const StoredTensor* tensor = take(name);
  if (tensor == nullptr || !expect_shape(*tensor, shape)) return false;
  // Tools that have no F8_E8M0 write its bytes as U8.
  const DType dtype = tensor->dtype == DType::u8 ? DType::f8_e8m0 : tensor->dtype;
  if (dtype != DType::f8_e8m0 && dtype != DType::f32) {
    expect_dtype(*tensor, "F8_E8M0, U8 or F32");
    return false;
  }
  matrix.scales = tensor->data.data();
  matrix.scale_dtype = dtype;
  return true;
}

inline std::optional<StoredMatrix> TensorReader::vector(const std::string& name,
                                                        const std::vector<std::size_t>& shape) {
  const StoredTensor* tensor = take(name);
  if (tensor == nullptr || !expect_shape(*tensor, shape)) return {};
  if (tensor->dtype != DType::f32 && tensor->dtype != DType::bf16 && tensor->dtype != DType::f16) {
    expect_dtype(*tensor, "F32, BF16 or F16");
    return {};
  }
  StoredMatrix row;
  row.values = tensor->data.data();
  row.rows = 1;
  row.cols = tensor->data.size() / dtype_size(tensor->dtype);
  row.dtype = tensor->dtype;
  return row;
}

inline std::optional<StoredTable> TensorReader::table(const std::string& name, std::size_t rows,
                                                      std::size_t cols, std::size_t experts) {
  const StoredTensor* tensor = take(name);
  if (tensor == nullptr || !expect_shape(*tensor, {rows, cols})) return {};
  if (tensor->dtype != DType::i64 && tensor->dtype != DType::i32) {
    expect_dtype(*tensor, "I64 or I32");
    return {};
  }
  const StoredTable table{tensor->data.data(), tensor->dtype};
  for (std::size_t i = 0; i < rows * cols; ++i) {
    const std::int64_t expert = table.at(i);
    if (expert < 0 || static_cast<std::size_t>(expert) >= experts) {
      problems_.add(detail::printable(tensor->stored_name) + ": row " + std::to_string(i / cols) +
                    " names expert " + std::to_string(expert) + ", expected 0 to " +
                    std::to_string(experts - 1));
      return {};
    }
  }
  return table;
}

inline std::size_t TensorReader::set_aside(std::string_view prefix) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < used_.size(); ++i) {
    if (!checkpoint_.tensors()[i].name.starts_with(prefix)) continue;
    used_[i] = true;
    ++count;
  }
  return count;
}

inline std::size_t TensorReader::set_aside(std::span<const TensorInfo> tensors) {
  std::vector<std::string> missing;
  for (const TensorInfo& tensor : tensors) {
    if (find(tensor.name) == nullptr) missing.push_back(tensor.name);
  }
  if (missing.size() == tensors.size()) return 0;
  for (const std::string& name : missing) problems_.add(name + ": missing");
  return tensors.size() - missing.size();
}

inline void TensorReader::finish() {
  for (std::size_t i = 0; i < used_.size(); ++i) {
    if (!used_[i]) {
      const StoredTensor& tensor = checkpoint_.tensors()[i];
      problems_.add(detail::printable(tensor.stored_name) + ": found " + describe(tensor) +
                    ", expected no such tensor");
    }
  }
  problems_.throw_if_any(detail::printable_path(checkpoint_.path()));
}

}  // namespace ds4::inline v0_1
