// Fuzz target: JSON of any kind, and the program's lists of token ids and of texts.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <cli/token_lists.hpp>
#include <fuzz/fuzz.hpp>
#include <nlohmann/json.hpp>

#include <ds4/core/json.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::result_or_error([&] {
    const nlohmann::json value = detail::parse_json("input", text);
    fuzz::require(detail::parse_json("copy", value.dump()) == value, "a value that changes");
    detail::describe(value);
    detail::as_size(value);
  });
  fuzz::result_or_error([&] { cli::parse_token_lists("input", text); });
  fuzz::result_or_error([&] { cli::parse_texts("input", text); });
  return 0;
}
