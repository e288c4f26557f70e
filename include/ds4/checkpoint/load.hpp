// From a checkpoint's tensors to a model's weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// The configuration of a checkpoint folder's config.json. Throws ds4::Error, field by field, if it
/// is not C's.
template <ModelConfig C>
ConfigValues read_config_of(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "config.json";
  const ConfigValues config = read_config(file);
  detail::Problems problems;
  for (const FieldDifference& field : compare(config, config_values<C>())) {
    problems.add(field.field + ": found " + field.found + ", expected " + field.expected);
  }
  problems.throw_if_any(detail::printable_path(file));
  return config;
}

/// The drafter that a model of C reads from a checkpoint, as complete_drafter() finds it: none
/// where C has no layers for it. Throws as well if it has more stages than C.
template <ModelConfig C>
DrafterKind complete_drafter_of(ConfigValues& config, const Checkpoint& checkpoint) {
  const DrafterKind drafter = complete_drafter(config, checkpoint);
  if (drafter == DrafterKind::mtp && C::num_nextn_predict_layers == 0) return DrafterKind::none;
  if (drafter != DrafterKind::dspark) return drafter;
  if (C::dspark_stages == 0) return DrafterKind::none;
  if (config.dspark_stages > C::dspark_stages) {
    throw Error(ErrorKind::file, detail::printable_path(checkpoint.path()),
                "dspark_stages: found " + std::to_string(config.dspark_stages) +
                    ", expected at most " + std::to_string(C::dspark_stages));
  }
  return drafter;
}

/// Has a reader, a TensorReader or WeightLoader, count what a model that has this drafter does not
/// read as used: mtp.* if it has none, and the tensors of list_vision_tensors().
template <class Reader>
void set_aside_unread(Reader& reader, const ConfigValues& config, DrafterKind drafter) {
  if (drafter == DrafterKind::none) reader.set_aside("mtp.");
  reader.set_aside(list_vision_tensors(config, drafter));
}

/// Fills the weights that visit it from a checkpoint. Problems are collected; `finish` throws them.
/// B::bind, B::bind_expert and B::bind_rows turn a stored matrix into the backend's, B::bind_small
/// a parameter or a table; B::bind_experts completes the experts of a layer.
template <class B>
class WeightLoader {
 public:
  /// Nothing is used yet.
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

  /// A small tensor, converted to the backend's scalar: F32, BF16 or F16.
  template <class P>
    requires requires { P::kLead; }
  void operator()(std::string_view name, P& parameter) {
    read_small(parameter, [&]<class T, std::size_t... E>(Tensor<T, E...>& values) {
      const auto row = reader_.vector(full(name), {E...});
      if (row) row->decode_row(0, values.data());
      return row.has_value();
    });
  }

  /// The hash router's table [V, k], I64 or I32, whose entries name one of E experts.
  template <class P>
  void table(std::string_view name, P& table, std::size_t E) {
    read_small(table, [&]<std::size_t V, std::size_t K>(Tensor<std::int32_t, V, K>& values) {
      const auto stored = reader_.table(full(name), V, K, E);
      for (std::size_t i = 0; stored && i < values.size(); ++i) {
        values.flat()[i] = static_cast<std::int32_t>(stored->at(i));
      }
      return stored.has_value();
    });
  }

  /// A part whose weights' names start with `prefix`.
  template <class Part>
  void group(std::string_view prefix, Part& part) {
    const std::size_t length = prefix_.size();
    prefix_ += prefix;
    part.visit(*this);
    prefix_.resize(length);
  }

  /// The routed experts of a layer: expert e's names start with `prefix`, e and a dot.
  template <class Experts>
  void experts(std::string_view prefix, Experts& experts) {
    in_expert_ = true;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      group(std::string(prefix) + std::to_string(e) + ".", experts[e]);
    }
    in_expert_ = false;
    backend_.bind_experts(experts);
  }

  ///@{
  /// See TensorReader::set_aside().
  void set_aside(std::string_view prefix) { reader_.set_aside(prefix); }
  void set_aside(std::span<const TensorInfo> tensors) { reader_.set_aside(tensors); }
  ///@}

  /// Throws ds4::Error with up to 20 problems: tensors that are missing, misshapen or of another
  /// dtype, and tensors that no weight has used.
  void finish() { reader_.finish(); }

 private:
  std::string full(std::string_view name) const { return prefix_ + std::string(name); }

  // A parameter is a host tensor, or made from one by the backend. read(tensor) says whether it
  // has read it.
  template <class P, class Read>
  void read_small(P& parameter, Read&& read) {
    if constexpr (requires { typename P::Host; }) {
      typename P::Host values;
      if (read(values)) parameter = backend_.template bind_small<P>(values);
    } else {
      read(parameter);
    }
  }

  TensorReader reader_;
  B& backend_;
  std::string prefix_;
  bool in_expert_ = false;
};

}  // namespace ds4::inline v0_1
