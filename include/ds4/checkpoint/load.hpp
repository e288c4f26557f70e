// From a checkpoint's tensors to a model's weights: every tensor checked, and used exactly once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/detail/messages.hpp>
#include <ds4/dtype.hpp>
#include <ds4/tensor.hpp>
#include <ds4/weights.hpp>

namespace ds4 {

/// Fills the weights that visit it from a checkpoint. Problems are collected; `finish` throws them.
/// B::bind, B::bind_expert and B::bind_rows turn a stored matrix into the backend's.
template <class B>
class WeightLoader {
 public:
  WeightLoader(const Checkpoint& checkpoint, B& backend)
      : checkpoint_(checkpoint), backend_(backend), used_(checkpoint.tensors().size(), false) {}

  /// A matrix in any storage: F32, BF16, F16, or F8_E4M3 or packed FP4 with its ".scale".
  template <class M>
    requires requires { M::kRows; }
  void operator()(std::string_view name, M& matrix) {
    if (const auto stored = stored_matrix<M>(name)) {
      if (in_expert_) {
        matrix = backend_.template bind_expert<M::kRows, M::kCols>(*stored);
      } else {
        matrix = backend_.template bind<M::kRows, M::kCols>(*stored);
      }
    }
  }

  /// The same for a matrix whose rows are looked up, not multiplied.
  template <class M>
  void rows(std::string_view name, M& matrix) {
    if (const auto stored = stored_matrix<M>(name)) {
      matrix = backend_.template bind_rows<M::kRows, M::kCols>(*stored);
    }
  }

  /// A small tensor, converted to T: F32, BF16 or F16.
  template <class T, std::size_t... E>
  void operator()(std::string_view name, Tensor<T, E...>& parameter) {
    const StoredTensor* tensor = take(name);
    if (tensor == nullptr || !expect_shape(*tensor, {E...})) return;
    if (tensor->dtype != DType::f32 && tensor->dtype != DType::bf16 &&
        tensor->dtype != DType::f16) {
      return expect_dtype(*tensor, "F32, BF16 or F16");
    }
    StoredMatrix row;
    row.values = tensor->data.data();
    row.rows = 1;
    row.cols = parameter.size();
    row.dtype = tensor->dtype;
    row.decode_row(0, parameter.data());
  }

  /// The hash router's table [V, k], I64 or I32, whose entries name one of E experts.
  template <std::size_t V, std::size_t K>
  void table(std::string_view name, Tensor<std::int32_t, V, K>& table, std::size_t E) {
    const StoredTensor* tensor = take(name);
    if (tensor == nullptr || !expect_shape(*tensor, {V, K})) return;
    if (tensor->dtype != DType::i64 && tensor->dtype != DType::i32) {
      return expect_dtype(*tensor, "I64 or I32");
    }
    for (std::size_t i = 0; i < table.size(); ++i) {
      const std::int64_t expert =
          tensor->dtype == DType::i64 ? at<std::int64_t>(*tensor, i) : at<std::int32_t>(*tensor, i);
      if (expert < 0 || static_cast<std::size_t>(expert) >= E) {
        problems_.add(detail::printable(tensor->stored_name) + ": row " + std::to_string(i / K) +
                      " names expert " + std::to_string(expert) + ", expected 0 to " +
                      std::to_string(E - 1));
        return;
      }
      table.flat()[i] = static_cast<std::int32_t>(expert);
    }
  }

  /// A part whose weights' names start with `prefix`.
  template <class Part>
  void group(std::string_view prefix, Part& part) {
    const std::size_t length = prefix_.size();
    prefix_ += prefix;
    part.visit(*this);
    prefix_.resize(length);
  }

  /// The same for a routed expert.
  template <class Part>
  void expert(std::string_view prefix, Part& part) {
    in_expert_ = true;
    group(prefix, part);
    in_expert_ = false;
  }

  /// Counts the tensors whose names start with `prefix` as used, though nothing reads them.
  void set_aside(std::string_view prefix) {
    for (std::size_t i = 0; i < used_.size(); ++i) {
      if (checkpoint_.tensors()[i].name.starts_with(prefix)) used_[i] = true;
    }
  }

  /// Throws ds4::Error with up to 20 problems: tensors that are missing, misshapen or of another
  /// dtype, and tensors that no weight has used.
  void finish() {
    for (std::size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) {
        const StoredTensor& tensor = checkpoint_.tensors()[i];
        problems_.add(detail::printable(tensor.stored_name) + ": found " + describe(tensor) +
                      ", expected no such tensor");
      }
    }
    problems_.throw_if_any(detail::printable_path(checkpoint_.path()));
  }

 private:
  /// The tensor of a matrix and its scales, checked; none if there is a problem with it.
  template <class M>
  std::optional<StoredMatrix> stored_matrix(std::string_view name) {
    const StoredTensor* tensor = take(name);
    if (tensor == nullptr || tensor->dtype == DType::f8_e4m3 || tensor->dtype == DType::i8) {
      find(prefix_ + scale_name(name));  // a problem with the weight is not one with its scale
    }
    if (tensor == nullptr) return {};
    StoredMatrix stored;
    stored.values = tensor->data.data();
    stored.rows = M::kRows;
    stored.cols = M::kCols;
    stored.dtype = tensor->dtype;
    switch (tensor->dtype) {
      case DType::f32:
      case DType::bf16:
      case DType::f16:
        if (!expect_shape(*tensor, {M::kRows, M::kCols})) return {};
        break;
      case DType::f8_e4m3:
        if (!expect_shape(*tensor, {M::kRows, M::kCols}) ||
            !take_scales(name, stored,
                         {blocks(M::kRows, StoredMatrix::kFp8Block),
                          blocks(M::kCols, StoredMatrix::kFp8Block)})) {
          return {};
        }
        break;
      case DType::i8:
        if (!expect_shape(*tensor, {M::kRows, blocks(M::kCols, 2)}) ||
            !take_scales(name, stored, {M::kRows, blocks(M::kCols, StoredMatrix::kFp4Block)})) {
          return {};
        }
        break;
      default:
        expect_dtype(*tensor, "F32, BF16, F16, F8_E4M3 or I8 (packed FP4)");
        return {};
    }
    return stored;
  }

  static constexpr std::size_t blocks(std::size_t n, std::size_t block) {
    return (n + block - 1) / block;
  }

  template <class V>
  static V at(const StoredTensor& tensor, std::size_t index) {
    V value;
    std::memcpy(&value, tensor.data.data() + index * sizeof(V), sizeof(V));
    return value;
  }

  static std::string describe(const StoredTensor& tensor) {
    return std::string(dtype_name(tensor.dtype)) + " " + detail::shape_text(tensor.shape);
  }

  /// The tensor of this name, now used, or nullptr.
  const StoredTensor* find(const std::string& name) {
    const StoredTensor* tensor = checkpoint_.find(name);
    if (tensor != nullptr) {
      used_[static_cast<std::size_t>(tensor - checkpoint_.tensors().data())] = true;
    }
    return tensor;
  }

  const StoredTensor* take(std::string_view name) {
    const std::string full = prefix_ + std::string(name);
    const StoredTensor* tensor = find(full);
    if (tensor == nullptr) problems_.add(full + ": missing");
    return tensor;
  }

  static std::string scale_name(std::string_view weight) {
    return std::string(weight.substr(0, weight.rfind('.'))) + ".scale";
  }

  bool take_scales(std::string_view weight, StoredMatrix& matrix,
                   const std::vector<std::size_t>& shape) {
    const StoredTensor* tensor = take(scale_name(weight));
    if (tensor == nullptr || !expect_shape(*tensor, shape)) return false;
    if (tensor->dtype != DType::f8_e8m0 && tensor->dtype != DType::f32) {
      expect_dtype(*tensor, "F8_E8M0 or F32");
      return false;
    }
    matrix.scales = tensor->data.data();
    matrix.scale_dtype = tensor->dtype;
    return true;
  }

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

  const Checkpoint& checkpoint_;
  B& backend_;
  std::vector<bool> used_;
  detail::Problems problems_;
  std::string prefix_;
  bool in_expert_ = false;
};

}  // namespace ds4
