// From a checkpoint's tensors to a model's weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/tensor.hpp>
#include <ds4/weights.hpp>

namespace ds4 {

/// Fills the weights that visit it from a checkpoint. Problems are collected; `finish` throws them.
/// B::bind, B::bind_expert and B::bind_rows turn a stored matrix into the backend's.
template <class B>
class WeightLoader {
 public:
  WeightLoader(const Checkpoint& checkpoint, B& backend) : reader_(checkpoint), backend_(backend) {}

  /// A matrix in any storage, see TensorReader::matrix().
  template <class M>
    requires requires { M::kRows; }
  void operator()(std::string_view name, M& matrix) {
    if (const auto stored = reader_.matrix(full(name), M::kRows, M::kCols)) {
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
    if (const auto stored = reader_.matrix(full(name), M::kRows, M::kCols)) {
      matrix = backend_.template bind_rows<M::kRows, M::kCols>(*stored);
    }
  }

  /// A small tensor, converted to T: F32, BF16 or F16.
  template <class T, std::size_t... E>
  void operator()(std::string_view name, Tensor<T, E...>& parameter) {
    if (const auto row = reader_.vector(full(name), {E...})) row->decode_row(0, parameter.data());
  }

  /// The hash router's table [V, k], I64 or I32, whose entries name one of E experts.
  template <std::size_t V, std::size_t K>
  void table(std::string_view name, Tensor<std::int32_t, V, K>& table, std::size_t E) {
    const auto stored = reader_.table(full(name), V, K, E);
    for (std::size_t i = 0; stored && i < table.size(); ++i) {
      table.flat()[i] = static_cast<std::int32_t>(stored->at(i));
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
  void set_aside(std::string_view prefix) { reader_.set_aside(prefix); }

  /// Throws ds4::Error with up to 20 problems: tensors that are missing, misshapen or of another
  /// dtype, and tensors that no weight has used.
  void finish() { reader_.finish(); }

 private:
  std::string full(std::string_view name) const { return prefix_ + std::string(name); }

  TensorReader reader_;
  B& backend_;
  std::string prefix_;
  bool in_expert_ = false;
};

}  // namespace ds4
