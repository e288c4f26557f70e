// Tests of ds4/chat_encoding.hpp with the release's tokenizer; ids are written out.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/chat_encoding.hpp>
#include <ds4/tokenizer.hpp>
#include <support/files.hpp>

namespace {

using ds4::ChatEncoding;
using ds4::ChatMessage;
using ds4::ChatRole;
using ds4::Tokenizer;
using ds4::TurnReader;
using ds4::test::error_text;
using Ids = std::vector<std::int32_t>;

const Tokenizer& deepseek() {
  static const Tokenizer tokenizer = Tokenizer::load(DS4_TEST_DATA "/tokenizer");
  return tokenizer;
}

constexpr std::int32_t kUser = 128803;
constexpr std::int32_t kAssistant = 128804;
constexpr std::int32_t kThink = 128821;
constexpr std::int32_t kEndThink = 128822;

}  // namespace

TEST_CASE("chat encoding: placeholder") {
  for (const char* t : {"You are a helpful assistant.", "What is 2+2?", "Simple arithmetic.",
                        "2 + 2 = 4.", "And 3+3?", "6.", "a<｜User｜>b", "Thanks"}) {
    std::string s;
    for (auto id : deepseek().encode_plain(t)) s += std::to_string(id) + ", ";
    MESSAGE(t, ": ", s);
  }
}
