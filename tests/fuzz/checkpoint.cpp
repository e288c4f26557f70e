// Fuzz target: a checkpoint's folder. An input is model.safetensors.index.json and, each behind a
// line "====", the shards a, b, ...; without such a line it is model.safetensors. The lengths of
// the shards' headers are set right. What opens is asked for tensors as a model would.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <fuzz/fuzz.hpp>
#include <fuzz/safetensors_input.hpp>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>

namespace {

/// Decodes what a model would have, and finds out whether all of it can be read.
void read(const ds4::Checkpoint& checkpoint) {
  ds4::TensorReader reader(checkpoint);
  const auto decode = [](const std::optional<ds4::StoredMatrix>& matrix) {
    if (!matrix) return;
    std::vector<float> row(matrix->cols);
    for (std::size_t i = 0; i < matrix->rows; ++i) matrix->decode_row(i, row.data());
  };
  decode(reader.matrix("w.weight", 3, 5));
  decode(reader.matrix("layers.0.w1.weight", 130, 2));
  decode(reader.vector("norm.weight", {4}));
  reader.table("layers.0.ffn.gate.tid2eid", 3, 2, 4);
  reader.set_aside("mtp.");
  reader.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4;
  constexpr std::string_view kLine = "\n====\n";
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const fuzz::Folder& folder = fuzz::folder();
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    std::filesystem::remove(entry);
  }
  std::size_t end = rest.find(kLine);
  if (end == rest.npos) {
    folder.write("model.safetensors", fuzz::with_header_length(rest));
  } else {
    folder.write("model.safetensors.index.json", rest.substr(0, end));
    for (char name = 'a'; end != rest.npos && name <= 'z'; ++name) {
      rest.remove_prefix(end + kLine.size());
      end = rest.find(kLine);
      folder.write({name}, fuzz::with_header_length(rest.substr(0, end)));
    }
  }
  fuzz::result_or_error([&] {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    for (const StoredTensor& tensor : checkpoint.tensors()) {
      fuzz::require(checkpoint.find(tensor.name) == &tensor, "a tensor that is not found");
    }
    for (const std::string& warning : checkpoint.warnings()) fuzz::check_error("ds4: " + warning);
    fuzz::require(checkpoint.fingerprint() == Checkpoint::open(folder.path()).fingerprint(),
                  "a fingerprint that is not the folder's alone");
    fuzz::result_or_error([&] { read(checkpoint); });
  });
  return 0;
}
