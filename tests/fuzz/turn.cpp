// Fuzz target: a generated turn. Its first byte says how it was asked for; of the others 0xF8 to
// 0xFB are the tokens that mark, and each is a token of one byte. What is read does not depend on
// when.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fuzz/fuzz.hpp>

#include <ds4/core/utf8.hpp>
#include <ds4/text/byte_level.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/turn_reader.hpp>

namespace {

using namespace ds4;

/// A tokenizer whose tokens are the bytes, in the spelling of byte-level BPE.
const Tokenizer& bytes() {
  static const Tokenizer tokenizer = [] {
    std::string vocab;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const auto value = static_cast<char>(byte);
      std::string spelling;
      detail::append_spelling(spelling, {&value, 1});
      if (spelling == "\"" || spelling == "\\") spelling.insert(0, "\\");
      vocab += (byte == 0 ? "\"" : ", \"") + spelling + "\": " + std::to_string(byte);
    }
    const std::string json =
        R"({"added_tokens": [], "model": {"type": "BPE", "vocab": {)" + vocab +
        R"(}, "merges": []}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "decoder": {"type": "ByteLevel"}})";
    return Tokenizer::load(fuzz::folder().write("tokenizer.json", json));
  }();
  return tokenizer;
}

struct Read {
  std::string reasoning;
  std::string content;
  std::vector<std::string> calls;

  void add(const TurnReader::Text& text) {
    reasoning += text.reasoning;
    content += text.content;
    for (const auto& call : text.calls) {
      if (call.index == calls.size()) calls.push_back(call.name + "\n");
      fuzz::require(call.index + 1 == calls.size(), "a call out of order");
      calls.back() += call.arguments;
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ChatTokens tokens{.begin = -1,
                          .end = 0xF8,
                          .user = -1,
                          .assistant = -1,
                          .think = 0xFB,
                          .end_think = 0xF9,
                          .dsml = 0xFA};
  const TurnOptions options{.thinking = (data[0] & 1) != 0,
                            .tools = (data[0] & 2) != 0,
                            .in_calls = (data[0] & 6) == 6,
                            .stop = (data[0] & 8) != 0 ? std::vector<std::string>{"ab", "\n\nc"}
                                                       : std::vector<std::string>{}};
  fuzz::result_or_error([&] {
    TurnReader reader(bytes(), tokens, options);
    Read told;
    for (const std::uint8_t byte : std::span(data, size).subspan(1)) told.add(reader.push(byte));
    told.add(reader.finish());
    const ChatMessage& message = reader.message();
    fuzz::require(message.reasoning == told.reasoning && message.content == told.content,
                  "a text that was told otherwise");
    fuzz::require(message.calls.size() == told.calls.size(), "calls that were told otherwise");
    for (std::size_t i = 0; i < told.calls.size(); ++i) {
      fuzz::require(told.calls[i] == message.calls[i].name + "\n" + message.calls[i].arguments,
                    "a call that was told otherwise");
    }
    for (const std::string* text : {&message.reasoning, &message.content}) {
      fuzz::require(detail::utf8_valid_length(*text) == text->size(), "a text that is not UTF-8");
    }
  });
  return 0;
}
