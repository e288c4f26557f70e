// Fuzz target: config.json, and what a program does with any configuration that was read.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fuzz/fuzz.hpp>

#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/plan/plan.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4;
  const auto file =
      fuzz::folder().write("config.json", {reinterpret_cast<const char*>(data), size});
  fuzz::result_or_error([&] {
    const ConfigValues config = read_config(file);
    const auto copy = fuzz::folder().write("copy.json", config_json(config));
    fuzz::require(compare(read_config(copy), config).empty(), "a configuration that changes");
    to_string(config);
    list_tensors(config);
    plan(config);
    plan(config, {.storage = StorageFormat::bf16, .state = StateFormat::fp8, .context = 1'000'000});
  });
  return 0;
}
