// Tests of ds4/text/chat_encoding.hpp, turn_reader.hpp and chat_json.hpp against what the release's
// own code, and where it refuses DeepSeek's other encoder and parser, say of prompts and turns.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/turn_reader.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::ChatEncoding;
using ds4::PythonJson;
using ds4::ToolCall;
using ds4::TurnReader;
using ds4::detail::is_true;
using ds4::detail::member;
using Ids = std::vector<std::int32_t>;

const ds4::Tokenizer& deepseek() {
  static const auto tokenizer = ds4::Tokenizer::load(ds4::test::data_dir("tokenizer"));
  return tokenizer;
}

const PythonJson& cases(std::string_view kind) {
  static const auto all =
      PythonJson::parse(ds4::test::content_of(ds4::test::data_dir("chat") / "cases.json"));
  return *member(all, kind);
}

Ids ids_of(const PythonJson& list) {
  Ids ids;
  for (const PythonJson& id : list.items) ids.push_back(std::stoi(id.text));
  return ids;
}

std::string text_of(const PythonJson& object, std::string_view name) {
  const PythonJson* const value = member(object, name);
  return value == nullptr ? "" : value->text;
}

Ids encode(const ChatEncoding& encoding, const PythonJson& request) {
  std::vector<ds4::ChatMessage> messages;
  for (const PythonJson& message : member(request, "messages")->items) {
    messages.push_back(ds4::chat_message(message, "messages"));
  }
  ds4::ChatOptions options;
  options.thinking = is_true(member(request, "thinking"));
  const std::string effort = text_of(request, "effort");
  if (effort == "high") options.effort = ds4::ChatEffort::high;
  if (effort == "max") options.effort = ds4::ChatEffort::max;
  if (member(request, "profile")) options.profile = ds4::EffortProfile::preview;
  options.keep_reasoning = text_of(request, "drop_thinking") == "false";
  if (const auto* tools = member(request, "tools")) {
    options.tools.functions = ds4::tool_functions(*tools, "tools");
  }
  if (const auto* schema = member(request, "response_format")) {
    options.tools.schema = schema->dump();
  }
  options.tools.json_object = is_true(member(request, "json_object"));
  if (const auto* choice = member(request, "tool_choice")) {
    if (choice->text == "none") {
      options.tools.functions.clear();
    } else {
      options.call_required = true;
    }
    if (const auto* named = member(*choice, "function")) {
      std::erase_if(options.tools.functions, [&](const std::string& function) {
        return text_of(PythonJson::parse(function), "name") != text_of(*named, "name");
      });
    }
  }
  return encoding.encode(messages, options);
}

/// A turn as it came out piece by piece.
struct Read {
  std::string reasoning;
  std::string content;
  std::vector<ToolCall> calls;
  std::string end;

  void add(const TurnReader::Text& text) {
    reasoning += text.reasoning;
    content += text.content;
    for (const auto& more : text.calls) {
      if (more.index == calls.size()) {
        CHECK(!more.name.empty());
        calls.push_back({{}, more.name, {}});
      } else {
        CHECK(more.name.empty());
      }
      REQUIRE(more.index + 1 == calls.size());
      calls.back().arguments += more.arguments;
    }
  }
};

Read read(const ChatEncoding& encoding, const PythonJson& turn, const Ids& ids) {
  ds4::TurnOptions options;
  options.thinking = is_true(member(turn, "thinking"));
  options.tools = text_of(turn, "tools") != "false";
  options.in_calls = is_true(member(turn, "required"));
  if (const auto* prefix = member(turn, "prefix")) {
    options.thinking = options.thinking && text_of(*prefix, "content").empty();
  }
  if (const auto* stop = member(turn, "stop")) {
    for (const PythonJson& text : stop->items) options.stop.push_back(text.text);
  }
  TurnReader reader(encoding, options);
  Read found;
  for (const std::int32_t id : ids) found.add(reader.push(id));
  found.add(reader.finish());
  const bool cut = text_of(turn, "finish") == "length";
  found.end = cut ? "length" : reader.end() == ds4::TurnEnd::stop ? "stop" : "tool_calls";
  CHECK(reader.message().reasoning == found.reasoning);
  CHECK(reader.message().content == found.content);
  REQUIRE(reader.message().calls.size() == found.calls.size());
  for (std::size_t i = 0; i < found.calls.size(); ++i) {
    CHECK(reader.message().calls[i].name == found.calls[i].name);
    CHECK(reader.message().calls[i].arguments == found.calls[i].arguments);
  }
  return found;
}

void check_turn(const PythonJson& turn, const Read& found) {
  const PythonJson& expected = *member(turn, "expect");
  CHECK(found.reasoning == text_of(expected, "reasoning"));
  CHECK(found.content == text_of(expected, "content"));
  if (member(turn, "lenient")) return;  // no markup comes out
  CHECK(found.end == text_of(expected, "finish_reason"));
  const auto& calls = member(expected, "tool_calls")->items;
  REQUIRE(found.calls.size() == calls.size());
  for (std::size_t i = 0; i < calls.size(); ++i) {
    CHECK(found.calls[i].name == text_of(calls[i], "name"));
    CHECK(found.calls[i].arguments == text_of(calls[i], "arguments"));
  }
}

}  // namespace

TEST_CASE("chat cases: every prompt has the release's ids") {
  const ChatEncoding encoding(deepseek());
  std::size_t count = 0;
  for (const PythonJson& request : cases("encode").items) {
    CAPTURE(text_of(request, "id"));
    ++count;
    if (member(request, "error")) {
      CHECK_THROWS_AS(encode(encoding, request), ds4::Error);
      continue;
    }
    const Ids ids = encode(encoding, request);
    CHECK(ids == ids_of(*member(request, "ids")));
    CHECK(deepseek().decode(ids) == text_of(request, "prompt"));
  }
  CHECK(count == 156);
}

TEST_CASE("chat cases: every turn is read, however it is cut into tokens") {
  const ChatEncoding encoding(deepseek());
  std::size_t count = 0;
  for (const PythonJson& turn : cases("parse").items) {
    CAPTURE(text_of(turn, "id"));
    ++count;
    const Ids ids = ids_of(*member(turn, "ids"));
    check_turn(turn, read(encoding, turn, ids));
    // The same texts a character or even a byte at a time, and in pieces of three characters.
    for (const std::size_t piece : {1u, 3u}) {
      CAPTURE(piece);
      Ids cut;
      std::string plain;
      const auto flush = [&] {
        std::size_t begin = 0;
        while (begin < plain.size()) {
          std::size_t end = begin;
          for (std::size_t n = 0; n < piece && end < plain.size(); ++n) {
            do {
              ++end;
            } while (end < plain.size() &&
                     (static_cast<unsigned char>(plain[end]) & 0xc0u) == 0x80u);
          }
          const Ids some = deepseek().encode_plain(plain.substr(begin, end - begin));
          cut.insert(cut.end(), some.begin(), some.end());
          begin = end;
        }
        plain.clear();
      };
      for (const std::int32_t id : ids) {
        if (deepseek().is_special(id) || id >= 128000) {
          flush();
          cut.push_back(id);
        } else {
          plain += deepseek().token_bytes(id);
        }
      }
      flush();
      check_turn(turn, read(encoding, turn, cut));
    }
  }
  CHECK(count == 75);
}

TEST_CASE("chat cases: what a request may not have is refused where it stands") {
  const auto message = [](std::string_view json) -> std::string {
    try {
      ds4::chat_message(PythonJson::parse(json), "messages[2]");
    } catch (const ds4::Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message(R"({"role": "narrator", "content": "x"})") ==
        "ds4: messages[2].role: expected one of system, user, assistant, developer, tool, "
        "latest_reminder, found \"narrator\"");
  CHECK(message(R"({"role": "user", "content": 7})") ==
        "ds4: messages[2].content: expected a string, found 7");
  CHECK(message(R"({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})") ==
        "ds4: messages[2].content[0].type: expected \"text\", found \"image_url\"");
  CHECK(message(R"({"role": "assistant", "tool_calls": [{"id": "a"}]})") ==
        "ds4: messages[2].tool_calls[0].function: expected an object, found none");
  CHECK(message(R"({"role": "assistant", "tool_calls": [{"function": "f"}]})") ==
        "ds4: messages[2].tool_calls[0].function: expected an object, found \"f\"");
  CHECK(message("[]") == "ds4: messages[2]: expected an object, found []");
  CHECK(message(R"({"role": "user", "content": "x", "task": "dance"})")
            .starts_with("ds4: messages[2].task: expected one of action, "));
  CHECK(message(R"({"role": "assistant", "content": null, "reasoning": "r"})").empty());
}

TEST_CASE("python json: numbers, escapes, order") {
  const auto dumped = [](std::string_view json) { return PythonJson::parse(json).dump(); };
  CHECK(dumped(R"( {"b":1 ,"a":[true,false,null] , "b":{} } )") ==
        R"({"b": {}, "a": [true, false, null]})");
  CHECK(
      dumped("[1.0,1e-5,1e16,123456.789,0.0001,1.5e-10,-0.0,-0,1e5,12345678901234567.0,5e-324]") ==
      "[1.0, 1e-05, 1e+16, 123456.789, 0.0001, 1.5e-10, -0.0, 0, 100000.0, "
      "1.2345678901234568e+16, 5e-324]");
  CHECK(dumped("[100000000000000000000,-100000000000000000000]") ==
        "[100000000000000000000, -100000000000000000000]");
  CHECK(dumped(R"("\u0001\n\t\/\"\\\u00e9\u007f")") == "\"\\u0001\\n\\t/\\\"\\\\é\x7f\"");
  for (const std::string bad : {"", "{", "[1,]", "nul", "1e999", "\"\\ud800\"", "[1] 2", "'a'"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(PythonJson::parse(bad), ds4::Error);
  }
  CHECK_THROWS_AS(PythonJson::parse(std::string_view("[1]\0 x", 6)), ds4::Error);
  CHECK_THROWS_AS(PythonJson::parse(std::string(300, '[') + std::string(300, ']')), ds4::Error);
  CHECK(dumped(std::string(200, '[') + std::string(200, ']')).size() == 400);
}
