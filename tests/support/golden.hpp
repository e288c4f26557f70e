// Golden data: tensors that the reference implementation wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <support/paths.hpp>

namespace ds4::test {

inline std::filesystem::path data_dir(const std::string& name) {
  return std::filesystem::path(data()) / name;
}

/// The tensors of one safetensors file by name.
class Golden {
 public:
  explicit Golden(const std::filesystem::path& file) : file_(file) {}

  const StoredTensor& tensor(const std::string& name) const {
    const StoredTensor* found = file_.find(name);
    if (found == nullptr) throw Error(name, "no such golden tensor");
    return *found;
  }
  std::span<const StoredTensor> tensors() const { return file_.tensors(); }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  std::span<const float> values(const std::string& name) const {
    return data<float>(name, DType::f32);
  }
  std::span<const double> doubles(const std::string& name) const {
    return data<double>(name, DType::f64);
  }
  /// Integers as token ids or indices.
  std::vector<std::int32_t> indices(const std::string& name) const {
    const auto stored = data<std::int64_t>(name, DType::i64);
    return {stored.begin(), stored.end()};
  }

 private:
  template <class T>
  std::span<const T> data(const std::string& name, DType dtype) const {
    const StoredTensor& found = tensor(name);
    if (found.dtype != dtype) throw Error(name, "a golden tensor of another dtype");
    return {reinterpret_cast<const T*>(found.data.data()), found.data.size() / sizeof(T)};
  }

  Safetensors file_;
};

}  // namespace ds4::test
