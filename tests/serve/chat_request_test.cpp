// Requests from their JSON: all of the fixture's, with what this server does otherwise than
// DeepSeek's own; and the prompts that a server makes of chats.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/serve/api_error.hpp>
#include <ds4/serve/chat_request.hpp>
#include <ds4/serve/completion_request.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::ApiError;
using ds4::ChatRequest;
using ds4::PythonJson;
using ds4::detail::member;

const PythonJson& cases(std::string_view kind) {
  static const auto all =
      PythonJson::parse(ds4::test::content_of(ds4::test::data_dir("chat") / "requests.json"));
  return *member(all, kind);
}

std::string text_of(const PythonJson& object, std::string_view name) {
  const PythonJson* const value = member(object, name);
  return value == nullptr ? "" : value->text;
}

/// The refusal of a chat; its status is 400.
std::string refusal(const std::string& body) {
  try {
    ds4::parse_chat_request(body);
  } catch (const ApiError& error) {
    CHECK(error.status() == 400);
    const PythonJson json = PythonJson::parse(error.json());
    return text_of(*member(json, "error"), "message");
  }
  return "";
}

std::string chat_with(const std::string& members) {
  return R"({"messages": [{"role": "user", "content": "json"}], )" + members + "}";
}

double number(const PythonJson& object, std::string_view name) {
  return std::stod(text_of(object, name));
}

}  // namespace

TEST_CASE("chat request: every request of the fixture") {
  // What this server takes and DeepSeek's does not.
  const std::set<std::string> taken{"request-n-two", "request-developer-role"};
  std::size_t refused = 0;
  std::size_t mapped = 0;
  for (const PythonJson& one : cases("request").items) {
    const std::string id = text_of(one, "id");
    CAPTURE(id);
    const std::string body = member(one, "body")->dump();
    if (member(one, "status") != nullptr) {
      ++refused;
      CHECK(refusal(body) == (taken.contains(id) ? "" : text_of(one, "message")));
      continue;
    }
    ++mapped;
    const ChatRequest request = ds4::parse_chat_request(body);
    const PythonJson& expected = *member(one, "expect");
    CHECK(request.fields.model == "DeepSeek-V4-Pro");
    CHECK(request.options.thinking == (text_of(expected, "thinking") == "true"));
    if (request.options.thinking) {
      const std::string effort = text_of(expected, "effort");
      CHECK(request.options.effort == (effort == "low"   ? ds4::ChatEffort::low
                                       : effort == "max" ? ds4::ChatEffort::max
                                                         : ds4::ChatEffort::high));
    }
    CHECK(request.options.tools.functions.size() ==
          static_cast<std::size_t>(number(expected, "tools")));
    CHECK(request.calls == (text_of(expected, "parse_tool_calls") == "true"));
    // What a client sends counts here, where it thinks as well.
    const PythonJson& sent = *member(one, "body");
    const auto& sampler = request.fields.choice.sampler;
    const PythonJson& temperature = member(sent, "temperature") ? sent : expected;
    CHECK(sampler.temperature == static_cast<float>(number(temperature, "temperature")));
    const PythonJson& top_p = member(sent, "top_p") ? sent : expected;
    CHECK(sampler.top_p == static_cast<float>(number(top_p, "top_p")));
    const std::string most = text_of(expected, "max_tokens");
    CHECK((request.fields.max_tokens ? std::to_string(*request.fields.max_tokens) : "") == most);
    const std::string seed = text_of(expected, "seed");
    CHECK((request.fields.seed ? std::to_string(*request.fields.seed) : "") == seed);
    CHECK(request.logprobs == (text_of(expected, "logprobs") == "true"));
    if (request.logprobs) {
      CHECK(request.top_logprobs == static_cast<std::size_t>(number(expected, "top_logprobs")));
    }
    const auto& stops = member(expected, "stop")->items;
    REQUIRE(request.fields.stop.size() == stops.size());
    for (std::size_t i = 0; i < stops.size(); ++i) CHECK(request.fields.stop[i] == stops[i].text);
  }
  CHECK(refused == 22);
  CHECK(mapped == 23);
}

TEST_CASE("chat request: the prompts of a server") {
  static const auto tokenizer = ds4::Tokenizer::load(ds4::test::data_dir("tokenizer"));
  const ds4::ChatEncoding encoding(tokenizer);
  std::size_t count = 0;
  for (const PythonJson& one : cases("prompt").items) {
    CAPTURE(text_of(one, "id"));
    ++count;
    const bool thinks = text_of(one, "thinking") == "true";
    // "wo_eos" of the release's encoder is "prefix" in the protocol.
    std::string messages = member(one, "messages")->dump();
    if (const std::size_t at = messages.find("\"wo_eos\""); at != messages.npos) {
      messages.replace(at, 8, "\"prefix\"");
    }
    const ChatRequest request =
        ds4::parse_chat_request(R"({"messages": )" + messages + R"(, "reasoning_effort": ")" +
                                (thinks ? "low" : "none") + "\"}");
    CHECK(tokenizer.decode(encoding.encode(request.messages, request.options)) ==
          text_of(one, "prompt"));
  }
  CHECK(count == 15);
}

TEST_CASE("chat request: what else it takes, and refuses") {
  CHECK(refusal("") != "");
  CHECK(refusal("[]") == "invalid request body: expected an object");
  CHECK(refusal(R"({"messages": {}})") == "Invalid type for 'messages': expected an array");
  CHECK(refusal(R"({"messages": ["a"]})") == "messages[0]: expected an object, found \"a\"");
  CHECK(
      refusal(
          R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]})")
          .starts_with("messages[0].content[0].type: expected \"text\""));
  for (const char* members :
       {R"("functions": [])",
        R"("best_of": 2)",
        R"("repetition_penalty": 1.1)",
        R"("audio": {})",
        R"("guided_json": {})",
        R"("min_tokens": 1)",
        R"("stop_token_ids": [1])",
        R"("modalities": ["text", "audio"])",
        R"("n": 0)",
        R"("n": 17)",
        R"("n": 1.5)",
        R"("stream": 1)",
        R"("temperature": "1")",
        R"("temperature": NaN)",
        R"("seed": 1e3)",
        R"("presence_penalty": 3)",
        R"("min_p": -0.1)",
        R"("top_k": -2)",
        R"("stop": 3)",
        R"("logit_bias": {"x": 1})",
        R"("logit_bias": {"5": 101})",
        R"("logit_bias": [])",
        R"("thinking": true)",
        R"("thinking": {"type": "x"})",
        R"("response_format": {"type": "x"})",
        R"("response_format": {"type": "json_schema"})",
        R"("tool_choice": "required")",
        R"("tools": [{"type": "web", "function": {"name": "a"}}])",
        R"("tools": {})",
        R"("tools": [{"type": "function"}])",
        R"("max_completion_tokens": 0)",
        R"("model": 3)",
        R"("chat_template_kwargs": 1)",
        R"("stream": true, "stream_options": 1)",
        R"("tools": [{"function": {"name": "a"}}], "response_format": {"type": "json_object"})"}) {
    CAPTURE(members);
    CHECK(refusal(chat_with(members)) != "");
  }
  for (const char* members :
       {R"("best_of": 1)", R"("repetition_penalty": 1.0)", R"("modalities": ["text"])",
        R"("n": 16)", R"("parallel_tool_calls": true)", R"("store": false)",
        R"("temperature": null)", R"("tools": [])", R"("tools": null)", R"("tool_choice": "none")",
        R"("stop": null)", R"("user": "x")", R"("top_k": -1)",
        R"("response_format": {"type": "text"})"}) {
    CAPTURE(members);
    CHECK(refusal(chat_with(members)) == "");
  }
  const auto parse = [](const char* members) {
    return ds4::parse_chat_request(chat_with(members));
  };
  CHECK_FALSE(parse(R"("chat_template_kwargs": {"enable_thinking": false})").options.thinking);
  CHECK_FALSE(parse(R"("chat_template_kwargs": {"thinking": false}, "reasoning_effort": "max")")
                  .options.thinking);
  CHECK(parse(R"("chat_template_kwargs": {"reasoning_effort": "max"})").options.effort ==
        ds4::ChatEffort::max);
  CHECK(parse(R"("max_tokens": 5, "max_completion_tokens": 7)").fields.max_tokens == 7u);
  const ChatRequest biased = parse(R"("logit_bias": {"5": -100, "7": 0.5})");
  REQUIRE(biased.fields.choice.bias.size() == 2);
  CHECK(biased.fields.choice.bias[0] == std::pair<std::int32_t, float>(5, -100.0f));
  const ChatRequest formed = parse(
      R"("response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}})");
  CHECK(formed.options.tools.schema == R"({"type": "object"})");
  const ChatRequest named = ds4::parse_chat_request(
      R"({"messages": [{"role": "user", "content": "u"}], "reasoning_effort": "none",
          "tools": [{"function": {"name": "a"}}, {"function": {"name": "b"}}],
          "tool_choice": {"type": "function", "function": {"name": "b"}}})");
  CHECK(named.options.tools.functions == std::vector<std::string>{R"({"name": "b"})"});
  CHECK(named.options.call_required);
  CHECK(ds4::turn_options(named).in_calls);
}

TEST_CASE("completion request: prompts of all kinds, and what it refuses") {
  const auto parse = [](const std::string& body) { return ds4::parse_completion_request(body); };
  using Ids = std::vector<std::int32_t>;
  CHECK(std::get<std::string>(parse(R"({"prompt": "a"})").prompts.at(0)) == "a");
  CHECK(parse(R"({"prompt": "a"})").fields.max_tokens == 16u);
  CHECK(parse(R"({"prompt": ["a", "b"]})").prompts.size() == 2);
  CHECK(std::get<Ids>(parse(R"({"prompt": [5, 6]})").prompts.at(0)) == Ids{5, 6});
  CHECK(std::get<Ids>(parse(R"({"prompt": [[5], [6, 7]]})").prompts.at(1)) == Ids{6, 7});
  const auto scored = parse(R"({"prompt": "a", "echo": true, "max_tokens": 0, "logprobs": 1})");
  CHECK(scored.echo);
  CHECK(scored.logprobs == 1u);
  for (const char* body :
       {"{}", R"({"prompt": []})", R"({"prompt": [[]]})", R"({"prompt": [1, "a"]})",
        R"({"prompt": ["a", 1]})", R"({"prompt": [1.5]})", R"({"prompt": {}})",
        R"({"prompt": "a", "max_tokens": 0})", R"({"prompt": "a", "suffix": "b"})",
        R"({"prompt": "a", "logprobs": 21})", R"({"prompt": "a", "best_of": 3})"}) {
    CAPTURE(body);
    CHECK_THROWS_AS(parse(body), ApiError);
  }
}
