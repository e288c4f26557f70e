// Tests of ds4 encode and ds4 parse as scripts use them.
#include <cstddef>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

using namespace ds4::test::program;
// Orders keys as they are written.
using Json = nlohmann::ordered_json;

const std::string kTokenizer = ds4::test::data("/tokenizer");

Json cases(const char* kind) {
  return Json::parse(read(ds4::test::data("/chat/cases.json"))).at(kind);
}

}  // namespace

TEST_CASE("program: encode writes prompts and ids, and the error of a chat that has none") {
  // Of what nlohmann's numbers keep: others are in chat_cases_test.cpp.
  Json chats = Json::array();
  for (const Json& chat : cases("encode")) {
    const std::string id = chat.at("id");
    if (id.find("numbers") == id.npos && id.find("integer") == id.npos) chats.push_back(chat);
  }
  CHECK(chats.size() > 150);
  const Result result = ds4_program({"encode", "--tokenizer", kTokenizer}, chats.dump());
  INFO(result.err);
  REQUIRE(result.code == 0);
  const Json out = Json::parse(result.out);
  REQUIRE(out.size() == chats.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    CAPTURE(chats[i].at("id").get<std::string>());
    if (chats[i].contains("error")) {
      CHECK(out[i].at("error").get<std::string>().starts_with("ds4: "));
      continue;
    }
    CHECK(out[i].at("prompt") == chats[i].at("prompt"));
    CHECK(out[i].at("ids") == chats[i].at("ids"));
  }
  check_fails(ds4_program({"encode", "--tokenizer", kTokenizer}, "{}"), 1,
              "standard input: expected an array, found another value");
  check_fails(ds4_program({"encode", "--tokenizer", kTokenizer}, "["), 1, "expected JSON");
  CHECK(contains(ds4_program({"encode", "--tokenizer", kTokenizer}, R"([{"messages": 1}])").out,
                 "[0].messages: expected an array, found 1"));
}

TEST_CASE("program: parse writes the parts of turns, of their ids or their text") {
  const Json turns = cases("parse");
  for (const char* form : {"ids", "text"}) {
    CAPTURE(form);
    Json input = Json::array();
    Json expected = Json::array();
    for (Json turn : turns) {
      // Spelled in plain tokens a mark is text; in a text it is the mark.
      const std::string id = turn.at("id");
      if (turn.contains("lenient") || (form[0] == 't' && id.find("spelled") != id.npos)) continue;
      expected.push_back(turn.at("expect"));
      turn.erase(form[0] == 'i' ? "text" : "ids");
      turn.erase("expect");
      input.push_back(turn);
    }
    const Result result = ds4_program({"parse", "--tokenizer", kTokenizer}, input.dump());
    INFO(result.err);
    REQUIRE(result.code == 0);
    CHECK(Json::parse(result.out) == expected);
  }
  CHECK(contains(ds4_program({"parse", "--tokenizer", kTokenizer}, R"([{"ids": [0, -4]}])").out,
                 "[0].ids[1]: expected a token id, found -4"));
}
