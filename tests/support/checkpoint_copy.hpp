// A checkpoint of the golden data to be changed and written elsewhere.
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace ds4::test {

/// config.json and all tensors of a folder of the golden data, in memory.
struct CheckpointCopy {
  struct Content {
    DType dtype = DType::f32;
    std::vector<std::size_t> shape;
    std::vector<std::byte> bytes;

    template <class V>
    V at(std::size_t index) const {
      V value;
      std::memcpy(&value, bytes.data() + index * sizeof(V), sizeof(V));
      return value;
    }
    template <class V>
    void set(std::size_t index, V value) {
      std::memcpy(bytes.data() + index * sizeof(V), &value, sizeof(V));
    }
    /// Another type or shape, all zero.
    void reset(DType new_dtype, std::vector<std::size_t> new_shape) {
      dtype = new_dtype;
      shape = std::move(new_shape);
      std::size_t size = dtype_size(dtype);
      for (const std::size_t extent : shape) size *= extent;
      bytes.assign(size, std::byte{0});
    }
  };

  nlohmann::json config;
  std::map<std::string, Content> tensors;  ///< by the names that the files have

  explicit CheckpointCopy(const std::string& folder)
      : config(nlohmann::json::parse(content_of(data_dir(folder) / "config.json"))) {
    const auto checkpoint = Checkpoint::open(data_dir(folder));
    for (const StoredTensor& tensor : checkpoint.tensors()) {
      tensors[tensor.stored_name] = {
          tensor.dtype, tensor.shape, {tensor.data.begin(), tensor.data.end()}};
    }
  }

  /// Writes config.json and model.safetensors.
  void write(const TempDir& dir) const {
    dir.write("config.json", config.dump());
    std::vector<TensorSpec> specs;
    for (const auto& [name, content] : tensors)
      specs.push_back({name, content.dtype, content.shape});
    SafetensorsWriter writer(dir.path() / "model.safetensors", specs);
    for (const auto& [name, content] : tensors) writer.write(content.bytes);
    writer.finish();
  }

  /// The same with the tensors of model.safetensors one behind the other in the order of their
  /// names, the first one `offset` bytes behind a multiple of 8.
  void write_unaligned(const TempDir& dir, std::size_t offset) const {
    dir.write("config.json", config.dump());
    nlohmann::json entries;
    std::string data;
    for (const auto& [name, content] : tensors) {
      const std::size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(content.bytes.data()), content.bytes.size());
      entries[name] = {{"dtype", dtype_name(content.dtype)},
                       {"shape", content.shape},
                       {"data_offsets", {begin, data.size()}}};
    }
    std::string header = entries.dump();
    header.resize((header.size() + 7) / 8 * 8 + offset, ' ');
    std::string length;
    for (unsigned i = 0; i < 8; ++i) length += static_cast<char>(header.size() >> (8 * i) & 0xff);
    dir.write("model.safetensors", length + header + data);
  }
};

}  // namespace ds4::test
