// Fuzz target: tokenizer.json, then texts through what was read, there and back.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fuzz/fuzz.hpp>

#include <ds4/text/tokenizer.hpp>

namespace {

void use(const ds4::Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids;
  ds4::fuzz::result_or_error([&] { ids = tokenizer.encode(text); });
  for (const std::int32_t id : ids) {
    ds4::fuzz::require(!tokenizer.token_bytes(id).empty(), "an id without a token");
  }
  // An Error from here on is a finding.
  const std::string whole = tokenizer.decode(ids);
  tokenizer.decode(ids, true);
  ds4::StreamDecoder stream(tokenizer);
  std::string pieces;
  for (const std::int32_t id : ids) pieces += stream.push(id);
  ds4::fuzz::require(pieces + stream.finish() == whole, "a stream that decodes to another text");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = fuzz::folder().write("tokenizer.json", bytes);
  std::optional<Tokenizer> tokenizer;
  fuzz::result_or_error([&] { tokenizer = Tokenizer::load(file); });
  if (!tokenizer) return 0;
  use(*tokenizer, "");
  use(*tokenizer, "She was  not\t\nabc aabb 12345 \xC3\xA9\xE2\x82\xAC \xF0\x9F\x98\x80 \xFF\xE2");
  use(*tokenizer, std::string(200, 'a') + "b" + std::string(100, ' '));
  use(*tokenizer, bytes.substr(bytes.size() - std::min<std::size_t>(bytes.size(), 500)));
  const std::size_t last = tokenizer->vocab_size();
  for (std::size_t i = 0; i < std::min<std::size_t>(last, 400); ++i) {
    const auto id = static_cast<std::int32_t>(i < 300 ? i : last - 1 - (i - 300));
    tokenizer->decode({{id}});
    tokenizer->token_to_id(tokenizer->token_bytes(id));
  }
  return 0;
}
