// The protocol in front of a scheduler: answers and streams in OpenAI's form, turns that are
// remembered, and refusals.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/austen.hpp>
#include <ds4/serve/api_answer.hpp>
#include <ds4/serve/api_service.hpp>
#include <ds4/serve/scheduler.hpp>
#include <ds4/serve/served_model_of.hpp>
#include <ds4/serve/turn_memory.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/tokenizer.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>

namespace {

using ds4::ApiError;
using ds4::ChatMessage;
using ds4::ChatRole;
using ds4::test::TempDir;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;
using namespace std::chrono_literals;

/// The service on the model that comes with ds4; a thread that steps it is not needed.
struct Server {
  ds4::ServedModelOf<ds4::models::austen, ds4::Simd> model{
      ds4::Model<ds4::models::austen, ds4::Simd>::load(ds4::test::models("/austen"),
                                                       ds4::Simd({.threads = 1}))};
  ds4::Tokenizer tokenizer = ds4::Tokenizer::load(ds4::test::models("/austen"));
  ds4::Scheduler scheduler{model, {.parallel = 4, .context = 2000, .piece = 64}};
  ds4::ApiService service{
      scheduler, model.config(), tokenizer, {.model = "austen", .context = 2000}};

  /// All that is sent, and the status.
  std::string run(const std::shared_ptr<ds4::Exchange>& exchange, int* status = nullptr) {
    while (scheduler.step()) {
    }
    const auto part = exchange->wait(0ms);
    CHECK(part.over);
    if (status != nullptr) *status = part.status;
    return part.text;
  }
  Json chat(const Json& body) { return Json::parse(run(service.chat(body.dump(), "a"))); }
  Json complete(const Json& body) { return Json::parse(run(service.complete(body.dump(), "a"))); }
};

Json chat_body(const std::string& text, const Json& more = Json::object()) {
  Json body{{"messages", {{{"role", "user"}, {"content", text}}}}, {"seed", 1}, {"max_tokens", 12}};
  body.update(more);
  return body;
}

/// The events of a stream; the last one is [DONE].
std::vector<Json> events(const std::string& text) {
  std::vector<Json> all;
  std::size_t begin = 0;
  bool done = false;
  while (begin < text.size()) {
    REQUIRE(text.substr(begin, 6) == "data: ");
    const std::size_t end = text.find("\n\n", begin);
    REQUIRE(end != text.npos);
    const std::string data = text.substr(begin + 6, end - begin - 6);
    CHECK_FALSE(done);
    done = data == "[DONE]";
    if (!done) all.push_back(Json::parse(data));
    begin = end + 2;
  }
  CHECK(done);
  return all;
}

std::string refusal(const std::function<void()>& f, int status, const std::string& code = "") {
  try {
    f();
  } catch (const ApiError& error) {
    CHECK(error.status() == status);
    const Json json = Json::parse(error.json());
    CHECK(json["error"]["code"] == (code.empty() ? Json() : Json(code)));
    return json["error"]["message"];
  }
  return "";
}

const ds4::Tokenizer& deepseek() {
  static const auto tokenizer = ds4::Tokenizer::load(ds4::test::data_dir("tokenizer"));
  return tokenizer;
}

}  // namespace

TEST_CASE("api service: a chat, whole and as a stream") {
  Server server;
  const Json answer = server.chat(chat_body("She was not"));
  CHECK(answer["object"] == "chat.completion");
  CHECK(answer["model"] == "austen");
  CHECK(answer["id"].get<std::string>().starts_with("chatcmpl-"));
  REQUIRE(answer["choices"].size() == 1);
  const Json& choice = answer["choices"][0];
  CHECK(choice["index"] == 0);
  CHECK(choice["message"]["role"] == "assistant");
  CHECK(choice["finish_reason"] == "length");
  CHECK_FALSE(choice["message"].contains("reasoning_content"));
  CHECK(answer["usage"]["completion_tokens"] == 12);
  CHECK(answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0);
  const std::size_t prompt = answer["usage"]["prompt_tokens"];
  CHECK(answer["usage"]["total_tokens"] == prompt + 12);

  const auto stream = events(server.run(server.service.chat(
      chat_body(
          "She was not",
          {{"stream", true}, {"stream_options", {{"include_usage", true}}}, {"model", "mine"}})
          .dump(),
      "b")));
  CHECK(stream.front()["choices"][0]["delta"] == Json{{"role", "assistant"}, {"content", ""}});
  std::string text;
  for (std::size_t i = 0; i < stream.size(); ++i) {
    CHECK(stream[i]["id"] == stream[0]["id"]);
    CHECK(stream[i]["object"] == "chat.completion.chunk");
    CHECK(stream[i]["model"] == "mine");
    CHECK(stream[i].contains("choices"));
    if (i + 1 == stream.size()) break;
    CHECK(stream[i]["usage"].is_null());
    const Json& delta = stream[i]["choices"][0]["delta"];
    if (delta.contains("content")) text += delta["content"];
    CHECK(stream[i]["choices"][0]["finish_reason"].is_null() == (i + 2 < stream.size()));
  }
  CHECK(Json(text) == choice["message"]["content"]);
  CHECK(stream.back()["choices"].empty());
  CHECK(stream.back()["usage"]["completion_tokens"] == 12);
  CHECK(stream.back()["usage"]["prompt_tokens_details"]["cached_tokens"] == prompt - 1);
  CHECK(stream[stream.size() - 2]["choices"][0]["delta"].empty());
}

TEST_CASE(
    "api service: several answers, each with the seed behind that before, and log-probabilities") {
  Server server;
  const Json answer =
      server.chat(chat_body("Mr. Darcy", {{"n", 3}, {"logprobs", true}, {"top_logprobs", 2}}));
  REQUIRE(answer["choices"].size() == 3);
  CHECK(answer["usage"]["completion_tokens"] == 36);
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Json& choice = answer["choices"][i];
    CHECK(choice["index"] == i);
    const Json alone = server.chat(chat_body("Mr. Darcy", {{"seed", 1 + i}}));
    CHECK(alone["choices"][0]["message"] == choice["message"]);
    const Json& tokens = choice["logprobs"]["content"];
    CHECK(tokens.size() == 12);
    std::string text;
    for (const Json& token : tokens) {
      CHECK(token["logprob"] <= 0.0);
      CHECK(token["top_logprobs"].size() == 2);
      for (const Json& byte : token["bytes"]) text += static_cast<char>(byte.get<int>());
    }
    CHECK(Json(text) == choice["message"]["content"]);
  }
}

TEST_CASE("api service: stop texts, formats, and the rest of choosing") {
  Server server;
  const std::string whole = server.chat(
      chat_body("It is a truth", {{"max_tokens", 40}}))["choices"][0]["message"]["content"];
  REQUIRE(whole.size() > 20);
  const std::string stop = whole.substr(10, 5);
  const Json stopped = server.chat(
      chat_body("It is a truth", {{"max_tokens", 40}, {"stop", {"~", stop}}}))["choices"][0];
  CHECK(stopped["finish_reason"] == "stop");
  CHECK(stopped["message"]["content"] == whole.substr(0, whole.find(stop)));

  const Json schema{
      {"type", "object"},
      {"properties", {{"name", {{"enum", {"Emma", "Anne"}}}}, {"old", {{"type", "boolean"}}}}},
      {"required", {"name", "old"}}};
  const Json format{{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", schema}}}};
  for (int seed = 0; seed < 5; ++seed) {
    const Json choice = server.chat(chat_body(
        "Who is it?",
        {{"response_format", format}, {"max_tokens", 200}, {"seed", seed}}))["choices"][0];
    CHECK(choice["finish_reason"] == "stop");
    const Json value = Json::parse(choice["message"]["content"].get<std::string>());
    CHECK((value["name"] == "Emma" || value["name"] == "Anne"));
    CHECK(value["old"].is_boolean());
  }
  // A bias decides.
  const std::int32_t id = server.tokenizer.encode(" Emma").front();
  const Json biased = server.chat(
      chat_body("Who is it?", {{"logit_bias", {{std::to_string(id), 100}}}, {"max_tokens", 1}}));
  CHECK(biased["choices"][0]["message"]["content"] == server.tokenizer.token_bytes(id));
}

TEST_CASE("api service: completions of texts and ids, echo, log-probabilities") {
  Server server;
  const Json both = server.complete({{"prompt", {"She was", "He was"}}, {"seed", 3}, {"n", 2}});
  REQUIRE(both["choices"].size() == 4);
  CHECK(both["object"] == "text_completion");
  CHECK(both["usage"]["completion_tokens"] == 64);
  Ids ids = server.tokenizer.encode("He was");
  ids.insert(ids.begin(), 0);
  const Json of_ids = server.complete({{"prompt", ids}, {"seed", 3}});
  CHECK(of_ids["choices"][0]["text"] == both["choices"][2]["text"]);
  CHECK(of_ids["usage"]["prompt_tokens"] == ids.size());

  const Json scored =
      server.complete({{"prompt", "He was"}, {"echo", true}, {"max_tokens", 0}, {"logprobs", 1}});
  const Json& choice = scored["choices"][0];
  const Json& logprobs = choice["logprobs"];
  CHECK(choice["text"] == "He was");
  CHECK(choice["finish_reason"] == "length");
  REQUIRE(logprobs["tokens"].size() == ids.size());
  CHECK(logprobs["token_logprobs"][0].is_null());
  CHECK(logprobs["token_logprobs"][1] < 0.0);
  CHECK(logprobs["top_logprobs"][1].size() == 1);
  CHECK(logprobs["text_offset"].back() < 6);
  CHECK(scored["usage"]["completion_tokens"] == 0);

  const auto stream = events(server.run(server.service.complete(
      Json{{"prompt", "He was"}, {"seed", 3}, {"stream", true}, {"echo", true}}.dump(), "a")));
  std::string text;
  for (const Json& event : stream) text += event["choices"][0]["text"];
  CHECK(text == "He was" + of_ids["choices"][0]["text"].get<std::string>());
  CHECK(stream.back()["choices"][0]["finish_reason"] == "length");
}

TEST_CASE("api service: refusals, models and metrics") {
  Server server;
  const auto chat = [&](const Json& body) {
    return [&server, body] { server.service.chat(body.dump(), "a"); };
  };
  std::string novel;
  for (int i = 0; i < 3000; ++i) novel += "word ";
  CHECK(refusal(chat(chat_body(novel)), 400, "context_length_exceeded")
            .starts_with("prompt: found "));
  CHECK(refusal(chat(chat_body(
                    "x", {{"tools", {{{"type", "function"}, {"function", {{"name", "a"}}}}}}})),
                400, "unsupported_parameter") ==
        "'tools' is not supported: the model has no token for calls");
  const Json pattern{{"type", "json_schema"},
                     {"json_schema", {{"schema", {{"type", "string"}, {"pattern", "a"}}}}}};
  CHECK(refusal(chat(chat_body("x", {{"response_format", pattern}})), 400) ==
        "schema: found \"pattern\", which is not supported");
  CHECK(refusal([&] { server.service.complete(R"({"prompt": [99999]})", "a"); }, 400) ==
        "prompt: found id 99999, expected 0 to 2047");
  CHECK(refusal([&] { server.service.model("other"); }, 404, "model_not_found") != "");
  CHECK(Json::parse(server.service.models())["data"][0]["id"] == "austen");
  CHECK(Json::parse(server.service.model("austen"))["context_length"] == 2000);
  server.chat(chat_body("x"));
  const std::string metrics = server.service.metrics();
  CHECK(metrics.find("\nds4_generated_tokens_total 12\n") != metrics.npos);
  CHECK(metrics.find("# TYPE ds4_requests_running gauge\n") != metrics.npos);
}

TEST_CASE("api service: who leaves costs nothing more") {
  Server server;
  const auto exchange = server.service.chat(
      chat_body("x", {{"n", 3}, {"max_tokens", 1900}, {"stream", true}}).dump(), "a");
  for (int i = 0; i < 5; ++i) server.scheduler.step();
  CHECK(server.scheduler.counts().running == 3);
  exchange->cancel();
  server.scheduler.step();
  CHECK(server.scheduler.counts().running == 0);
  CHECK(server.scheduler.counts().cancelled == 3);
}

TEST_CASE("chat answer: reasoning and calls with the release's tokens, whole and as a stream") {
  const ds4::ChatEncoding encoding(deepseek());
  const ds4::ChatRequest request = ds4::parse_chat_request(R"({"messages": [{"role": "user",
      "content": "u"}], "stream": true, "logprobs": true,
      "tools": [{"type": "function", "function": {"name": "f"}}]})");
  const Ids ids = deepseek().encode(
      "I call.</think>Wait.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke "
      "name=\"f\">\n<｜DSML｜parameter "
      "name=\"a\" string=\"true\">x\"y</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke "
      "name=\"g\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>");
  ds4::ChatAnswer answer(deepseek(), encoding.tokens(), request, {"ID", "m", 1}, 0);
  std::string stream = answer.begin();
  for (const std::int32_t id : ids) stream += answer.push({id});
  CHECK(answer.ended());
  CHECK(answer.closed());
  stream +=
      answer.finish({.end = ds4::SequenceEnd::stop, .prompt_tokens = 5}) + ds4::event("[DONE]");
  std::string reasoning;
  std::string content;
  std::vector<Json> calls;
  std::size_t logprobs = 0;
  const auto all = events(stream);
  for (const Json& event : all) {
    const Json& delta = event["choices"][0]["delta"];
    if (delta.contains("reasoning_content")) reasoning += delta["reasoning_content"];
    if (delta.contains("content")) content += delta["content"];
    if (const Json& told = event["choices"][0]["logprobs"]; !told.is_null()) {
      logprobs += told["content"].size();
    }
    if (!delta.contains("tool_calls")) continue;
    const Json& call = delta["tool_calls"][0];
    if (call.contains("id")) {
      CHECK(call["index"] == calls.size());
      CHECK(call["type"] == "function");
      CHECK(call["function"]["arguments"] == "");
      calls.push_back(call);
    } else {
      CHECK(call["index"] == calls.size() - 1);
      std::string& arguments = calls.back()["function"]["arguments"].get_ref<std::string&>();
      arguments += call["function"]["arguments"].get<std::string>();
    }
  }
  CHECK(reasoning == "I call.");
  CHECK(content == "Wait.");
  CHECK(logprobs > 0);
  REQUIRE(calls.size() == 2);
  CHECK(calls[0]["function"] == Json{{"name", "f"}, {"arguments", R"({"a": "x\"y"})"}});
  CHECK(calls[1]["function"] == Json{{"name", "g"}, {"arguments", "{}"}});
  CHECK(calls[0]["id"] != calls[1]["id"]);
  CHECK(all.back()["choices"][0]["finish_reason"] == "tool_calls");
  const Json choice = Json::parse(answer.choice());
  CHECK(choice["message"]["tool_calls"][1]["id"] == calls[1]["id"]);
  CHECK_FALSE(choice["message"]["tool_calls"][1].contains("index"));
  CHECK(choice["message"]["reasoning_content"] == "I call.");
  CHECK(answer.usage().reasoning == deepseek().encode("I call.").size());
  CHECK(answer.usage().completion == ids.size());
}

TEST_CASE("turn memory: turns that come back as texts get their ids, also from a file") {
  const TempDir dir;
  const auto file = dir.path() / "turns";
  ChatMessage turn{ChatRole::assistant, "said", "thought"};
  turn.calls = {{"id", "f", R"({"a": 1, "b": "x"})"}};
  turn.answer_ids = {5, 6};
  turn.reasoning_ids = {7};
  std::vector<ChatMessage> chat{{ChatRole::user, "said"}, turn, turn, turn};
  chat[1].calls[0].id = "other";
  chat[1].calls[0].arguments = R"({"a":1,"b":"x"})";  // as another writes it
  chat[2].reasoning.clear();
  chat[3].calls[0].arguments = R"({"a": 2, "b": "x"})";
  for (ChatMessage& message : chat) message.answer_ids = message.reasoning_ids = {};
  const auto check = [&](ds4::TurnMemory& memory) {
    auto recalled = chat;
    memory.recall(recalled);
    CHECK(recalled[0].answer_ids.empty());
    CHECK(recalled[1].answer_ids == Ids{5, 6});
    CHECK(recalled[1].reasoning_ids == Ids{7});
    CHECK(recalled[2].answer_ids == Ids{5, 6});
    CHECK(recalled[2].reasoning_ids.empty());
    CHECK(recalled[3].answer_ids.empty());
  };
  {
    ds4::TurnMemory memory(file, 2);
    memory.remember(turn);
    check(memory);
  }
  {
    std::ofstream(file, std::ios::app)
        << "{\"cut off\n[1]\n{\"role\": \"assistant\", \"answer_ids\": [-1]}\n";
    ds4::TurnMemory memory(file, 2);
    CHECK(memory.size() == 1);
    check(memory);
    for (std::int32_t i = 0; i < 20; ++i) {
      ChatMessage other{ChatRole::assistant, "other " + std::to_string(i % 7)};
      other.answer_ids = {i};
      memory.remember(other);
    }
    CHECK(memory.size() == 2);
  }
  ds4::TurnMemory memory(file, 2);
  CHECK(memory.size() == 2);
  std::vector<ChatMessage> last{{ChatRole::assistant, "other 5"}};
  memory.recall(last);
  CHECK(last[0].answer_ids == Ids{19});
  CHECK(std::filesystem::file_size(file) < 2000);
}
