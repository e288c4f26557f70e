// Fuzz target: a regular expression of tokenizer.json, in the first line, on the text behind it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fuzz/fuzz.hpp>

#include <ds4/core/utf8.hpp>
#include <ds4/text/split_regex.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4;
  std::string input;
  detail::append_utf8(input, {reinterpret_cast<const char*>(data), size});
  const std::size_t end = std::min(input.find('\n'), input.size());
  const std::string pattern = input.substr(0, end);
  const std::string text = input.substr(std::min(end + 1, input.size()));
  fuzz::result_or_error([&] {
    const detail::SplitRegex regex(pattern, "input", "pattern");
    detail::RegexScratch scratch(text.size());
    std::string pieces;
    regex.split(text, scratch, [&](std::string_view piece) {
      fuzz::require(!piece.empty(), "an empty piece");
      pieces += piece;
    });
    fuzz::require(pieces == text, "pieces that are not the text");
  });
  return 0;
}
