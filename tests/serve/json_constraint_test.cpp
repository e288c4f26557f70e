// Grammars of JSON and of schemas, and the tokens that keep an answer within them.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/serve/byte_grammar.hpp>
#include <ds4/serve/json_constraint.hpp>
#include <ds4/serve/json_grammar.hpp>
#include <ds4/serve/token_chooser.hpp>
#include <ds4/text/tokenizer.hpp>
#include <support/files.hpp>
#include <support/paths.hpp>

namespace {

using ds4::GrammarState;
using ds4::JsonGrammar;
using ds4::test::error_text;

/// Whether a text is a whole one of the grammar.
bool fits(const JsonGrammar& grammar, std::string_view text) {
  GrammarState state(grammar.grammar, grammar.root);
  for (const char c : text) {
    if (!state.push(static_cast<unsigned char>(c))) return false;
  }
  return state.is_complete();
}

JsonGrammar schema(const std::string& text) { return ds4::json_schema_grammar(text); }

std::string refusal(const std::string& text) {
  return error_text([&] { schema(text); }).c_str();
}

}  // namespace

TEST_CASE("json grammar: any object, and nothing else") {
  const JsonGrammar any = ds4::json_object_grammar();
  for (const char* text :
       {"{}", "{ }", R"({"a":1})",
        R"({"a": [1, -2.5e+3, "x\"y\u00e9\ud83d\ude42", null, true], "b": {}})", R"({"k":"é漢🙃"})",
        "{\n  \"a\": 1,\n  \"b\": []\n}", "\n{}", R"({"a":0.5,"a":10})"}) {
    CAPTURE(text);
    CHECK(fits(any, text));
    CHECK(nlohmann::json::accept(text));
  }
  for (const char* text : {"",
                           "[]",
                           "1",
                           "{} ",
                           "{",
                           R"({"a"})",
                           R"({"a":})",
                           R"({"a":1,})",
                           R"({a:1})",
                           R"({"a":01})",
                           R"({"a":1.})",
                           R"({"a":.5})",
                           R"({"a":+1})",
                           R"({"a":1e})",
                           R"({"a":"\x"})",
                           R"({"a":"\ud83d"})",
                           "{\"a\":\"\n\"}",
                           "{\"a\":\"\x80\"}",
                           "{\"a\":\"\xc0\xaf\"}",
                           "{\"a\":\"\xed\xa0\x80\"}",
                           R"({"a":tru})",
                           R"({"a":1}})",
                           "{  }"}) {
    CAPTURE(text);
    CHECK_FALSE(fits(any, text));
  }
  std::string deep;
  for (int i = 0; i < 50'000; ++i) deep += "{\"a\":";
  CHECK_FALSE(fits(any, deep));
  deep += "1" + std::string(50'000, '}');
  CHECK(fits(any, deep));
}

TEST_CASE("json grammar: schemas") {
  const JsonGrammar person = schema(R"({"type": "object", "properties": {
      "name": {"type": "string"}, "age": {"type": "integer"},
      "mail": {"type": ["string", "null"]}, "tags": {"type": "array", "items": {"enum": ["a", "b", 3]},
      "minItems": 1, "maxItems": 3}},
      "required": ["name", "tags"], "additionalProperties": false})");
  CHECK(fits(person, R"({"name": "x", "tags": ["a"]})"));
  CHECK(fits(person, R"({"name":"x","age":3,"mail":null,"tags":["b", 3, "a"]})"));
  CHECK(fits(person, R"({"name":"x","mail":"m","tags":["b"]})"));
  CHECK_FALSE(fits(person, R"({"name":"x"})"));
  CHECK_FALSE(fits(person, R"({"tags":["a"]})"));
  CHECK_FALSE(fits(person, R"({"name":"x","tags":[]})"));
  CHECK_FALSE(fits(person, R"({"name":"x","tags":["a","a","a","a"]})"));
  CHECK_FALSE(fits(person, R"({"name":"x","tags":["c"]})"));
  CHECK_FALSE(fits(person, R"({"name":"x","age":1.5,"tags":["a"]})"));
  CHECK_FALSE(fits(person, R"({"tags":["a"],"name":"x"})"));
  CHECK_FALSE(fits(person, R"({"name":"x","tags":["a"],"more":1})"));
  CHECK_FALSE(fits(person, R"({"name":"x",,"tags":["a"]})"));

  const JsonGrammar tree = schema(R"({"$defs": {"node": {"type": "object", "properties":
      {"v": {"type": "number"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
      "required": ["v", "next"]}}, "$ref": "#/$defs/node"})");
  CHECK(fits(tree, R"({"v":1,"next":{"v":2e3,"next":null}})"));
  CHECK_FALSE(fits(tree, R"({"v":1,"next":{"v":2}})"));

  CHECK(fits(schema(R"({"const": null})"), "null"));
  CHECK(fits(schema(R"({"type": "object", "additionalProperties": {"type": "boolean"}})"),
             R"({"x": true, "y": false})"));
  CHECK_FALSE(fits(schema(R"({"type": "object", "additionalProperties": {"type": "boolean"}})"),
                   R"({"x": 1})"));
  CHECK_FALSE(fits(schema(R"({"type": "object", "additionalProperties": false})"), R"({"x":1})"));
  CHECK(fits(schema("{}"), "[1, {}]"));
  CHECK(fits(schema(R"({"type": "array", "maxItems": 0})"), "[]"));
  CHECK_FALSE(fits(schema(R"({"type": "array", "maxItems": 0})"), "[1]"));
  CHECK(fits(schema(R"({"type": "array", "minItems": 2, "items": {"type": "null"}})"),
             "[null, null, null]"));
  CHECK_FALSE(
      fits(schema(R"({"type": "array", "minItems": 2, "items": {"type": "null"}})"), "[null]"));

  CHECK(refusal(R"({"type": "string", "pattern": "a+"})") ==
        "ds4: schema: found \"pattern\", which is not supported");
  CHECK(refusal(R"({"properties": {"a": {"minimum": 1}}})") ==
        "ds4: schema.a: found \"minimum\", which is not supported");
  CHECK(refusal(R"({"$ref": "#"})") ==
        "ds4: schema: expected one that some value fits, found none");
  CHECK(refusal(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})") ==
        "ds4: schema: expected references that lead to something, found a circle");
  CHECK(refusal(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})") ==
        "ds4: schema: expected one that some value fits, found none");
  CHECK(refusal(R"({"$ref": "https://x"})") ==
        "ds4: schema.$ref: found \"https://x\", expected a place in this schema");
  CHECK(refusal(R"({"type": "thing"})") == "ds4: schema.type: expected a type, found \"thing\"");
  CHECK(refusal(R"({"type": "array", "minItems": 1000000000})") ==
        "ds4: schema.minItems: expected a number from 0 to 256");
  CHECK(refusal(R"({"type": "array", "minItems": 2, "maxItems": 1})") ==
        "ds4: schema: expected one that some value fits, found none");
  CHECK(refusal(R"({"required": ["a"], "type": "object"})") ==
        "ds4: schema.required: found \"a\", expected one of the properties");
}

TEST_CASE("json constraint: whatever the logits are, what is chosen is JSON of the schema") {
  const auto tokenizer = ds4::Tokenizer::load(ds4::test::models("/austen"));
  constexpr std::int32_t kEnd = 1;
  constexpr std::int32_t kThought = 5;
  const std::vector<std::int32_t> ends{kEnd};
  const auto texts = std::make_shared<const ds4::TokenTexts>(tokenizer, ends);
  const JsonGrammar grammar = schema(R"({"type": "object", "properties": {
      "kind": {"enum": ["novel", "letter"]}, "pages": {"type": "array", "items": {"type": "boolean"},
      "maxItems": 3}, "n": {"type": "null"}}, "required": ["kind", "pages"]})");
  const std::size_t V = tokenizer.vocab_size();
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    std::mt19937_64 random(seed);
    const bool thinks = seed % 2 == 0;
    ds4::TokenChooser chooser(
        {.sampler = {.temperature = seed % 3 == 0 ? 0.0f : 1.0f, .top_p = 0.9f, .seed = seed}},
        std::make_shared<ds4::JsonConstraint>(texts, grammar, ends,
                                              thinks ? std::optional(kThought) : std::nullopt));
    std::vector<float> logits(V);
    std::string text;
    bool thought = thinks;
    for (int i = 0; i < 400; ++i) {
      for (float& logit : logits) logit = static_cast<float>(random() % 1000) * 0.01f;
      if (thought && i == 5) logits[kThought] = 100.0f;  // the reasoning is free, and ends here
      const std::int32_t id = chooser(logits);
      if (thought) {
        thought = id != kThought;
        CHECK((i < 5 || !thought));
        continue;
      }
      if (id == kEnd) break;
      text += tokenizer.token_bytes(id);
    }
    CAPTURE(text);
    CHECK(fits(grammar, text));
    CHECK(nlohmann::json::accept(text));
  }
}

TEST_CASE("json constraint: it tells of a token what it does to the logits") {
  const auto tokenizer = ds4::Tokenizer::load(ds4::test::models("/austen"));
  const std::vector<std::int32_t> ends{1};
  const auto texts = std::make_shared<const ds4::TokenTexts>(tokenizer, ends);
  ds4::JsonConstraint constraint(texts, ds4::json_object_grammar(), ends, std::nullopt);
  std::string text;
  for (const char* piece : {"{\"", "a", "\"", ":", "1", "}"}) {
    std::vector<float> logits(tokenizer.vocab_size());
    constraint.restrict(logits);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      CHECK(std::isinf(logits[i]) != constraint.allows(static_cast<std::int32_t>(i)));
    }
    for (const std::int32_t id : tokenizer.encode_plain(piece)) {
      REQUIRE(constraint.allows(id));
      constraint.accept(id);
    }
  }
  CHECK(constraint.allows(1));
}

TEST_CASE("token chooser: biases, penalties and min_p, with the draws that are left") {
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, 3.0f};
  using Chooser = ds4::TokenChooser;
  CHECK(Chooser({.sampler = {.temperature = 0}}, nullptr)(logits) == 3);
  CHECK(Chooser({.sampler = {.temperature = 0}, .bias = {{0, 100.0f}, {9, 1.0f}, {-1, 1.0f}}},
                nullptr)(logits) == 0);
  Chooser once({.sampler = {.temperature = 0}, .presence_penalty = 1.5f}, nullptr);
  CHECK(once(logits) == 3);
  CHECK(once(logits) == 2);
  CHECK(once(logits) == 3);
  Chooser often({.sampler = {.temperature = 0}, .frequency_penalty = 0.6f}, nullptr);
  std::vector<std::int32_t> chosen;
  for (int i = 0; i < 4; ++i) chosen.push_back(often(logits));
  CHECK(chosen == std::vector<std::int32_t>{3, 3, 2, 3});
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    CHECK(Chooser({.sampler = {.seed = seed}, .min_p = 0.3f}, nullptr)(logits) >= 2);
  }
  CHECK_FALSE(Chooser({.min_p = 0.3f}, nullptr).is_plain());
  CHECK(Chooser({}, nullptr).is_plain());
  CHECK(error_text([] { Chooser({.min_p = 2.0f}, nullptr); }) ==
        "ds4: min_p: expected a number from 0 to 1, found 2.000000");
}

TEST_CASE("token chooser: log-probabilities") {
  const std::vector<float> logits{1.0f, 3.0f, 3.0f, -std::numeric_limits<float>::infinity()};
  const auto [token, likeliest] = ds4::log_probabilities(logits, 0, 2);
  const double sum = std::exp(1.0) + 2 * std::exp(3.0);
  CHECK(token.logprob == doctest::Approx(1.0 - std::log(sum)));
  REQUIRE(likeliest.size() == 2);
  CHECK(likeliest[0].id == 1);
  CHECK(likeliest[1].id == 2);
  CHECK(likeliest[0].logprob == doctest::Approx(3.0 - std::log(sum)));
}
