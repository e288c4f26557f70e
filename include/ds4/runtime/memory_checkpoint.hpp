// A checkpoint from memory: a configuration and tensors that no file has.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/runtime/scratch_folder.hpp>

namespace ds4::inline v0_1 {

/// A tensor that the caller has.
struct GivenTensor {
  std::string name;                      ///< the release's or transformers'
  DType dtype = DType::f32;              ///< of an element
  std::vector<std::size_t> shape = {};   ///< empty for a scalar
  std::span<const std::byte> data = {};  ///< row by row, little-endian
};

/// A checkpoint folder that is there as long as this lives: models that were loaded from it keep
/// its files mapped, and need the folder no more.
class MemoryCheckpoint {
 public:
  /// Writes the text of a config.json and the tensors to a new folder in the system's place for
  /// temporary files. Throws ds4::Error for a name used twice, for data that are not of a tensor's
  /// shape, and if the files cannot be written.
  MemoryCheckpoint(std::string_view config_json, std::span<const GivenTensor> tensors)
      : folder_(std::filesystem::temp_directory_path()) {
    NewFile config(path() / "config.json");
    config.write_at(0, std::as_bytes(std::span(config_json)));
    config.finish();
    std::vector<TensorSpec> specs;
    for (const GivenTensor& tensor : tensors) {
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    SafetensorsWriter writer(path() / "model.safetensors", std::move(specs));
    for (std::size_t i = 0; i < tensors.size(); ++i) writer.write(i, tensors[i].data);
    writer.finish();
  }

  /// The folder, for load.
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  detail::ScratchFolder folder_;
};

}  // namespace ds4::inline v0_1
