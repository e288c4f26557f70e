// Fuzz target: one safetensors file, as it is and with the length of its header set right.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fuzz/fuzz.hpp>
#include <fuzz/safetensors_input.hpp>

#include <ds4/checkpoint/safetensors.hpp>

namespace {

void read(std::string_view bytes) {
  using namespace ds4;
  const auto path = fuzz::folder().write("x.safetensors", bytes);
  fuzz::result_or_error([&] {
    const Safetensors file(path);
    std::size_t total = 0;
    for (const StoredTensor& tensor : file.tensors()) {
      const auto whole = tensor.file->bytes();
      fuzz::require(tensor.data.data() >= whole.data() + 8 &&
                        tensor.data.data() + tensor.data.size() <= whole.data() + whole.size(),
                    "a tensor outside its file");
      fuzz::require(detail::byte_count(tensor.shape, tensor.dtype) == tensor.data.size(),
                    "a tensor of another size than its shape's");
      fuzz::require(file.find(tensor.name) == &tensor, "a tensor that is not found");
      total += tensor.data.size();
    }
    fuzz::require(total <= bytes.size(), "bytes that belong to two tensors");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  if (const std::string other = ds4::fuzz::with_header_length(bytes); other != bytes) read(other);
  return 0;
}
