// Tests of ds4/core/json.hpp and ds4/core/messages.hpp.
#include <random>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/core/json.hpp>
#include <ds4/core/messages.hpp>
#include <support/files.hpp>
#include <support/mutate.hpp>

namespace {

using ds4::detail::parse_json;
using ds4::detail::printable;
using ds4::test::error_text;

doctest::String parse_error(std::string_view text) {
  return error_text([&] { parse_json("file", text); });
}

TEST_CASE("json: values of every kind are read as nlohmann reads them") {
  const std::string text =
      R"( {"a": [1, -2, 3.5e-2, "x\u00e9\n", true, null, {}, []], "b": {"a": [[{"a": 1}], 2]}} )";
  CHECK(parse_json("file", text) == nlohmann::json::parse(text));
  CHECK(parse_json("file", "3") == 3);
}

TEST_CASE("json: broken text is refused with its position") {
  CHECK(parse_error("{\"a\": 1,}") == doctest::Contains("ds4: file: expected JSON, found "));
  CHECK(parse_error("{\"a\": 1,\n}") == doctest::Contains("line 2, column 1"));
  CHECK(parse_error("") == doctest::Contains("expected JSON"));
  CHECK(parse_error("{} {}") == doctest::Contains("expected end of input"));
  CHECK(parse_error("[NaN]") == doctest::Contains("invalid literal"));
  CHECK(parse_error("[1e999]") == doctest::Contains("number overflow"));
  CHECK(parse_error("[\"\xff\"]") == doctest::Contains("ill-formed UTF-8"));
  CHECK(parse_error("// comment\n1") == doctest::Contains("invalid literal"));
}

TEST_CASE("json: a NUL does not hide what follows") {
  using namespace std::string_view_literals;
  CHECK(parse_error("{}\0{"sv) == "ds4: file: expected JSON, found a NUL at byte 2");
}

TEST_CASE("json: repeated keys are refused at every level") {
  CHECK(parse_error(R"({"a": 1, "b": 2, "a": 1})") ==
        "ds4: file: expected each key once, found \"a\" again");
  CHECK(parse_error(R"([{"b": {"a\nb": 1, "a\nb": 1}}])") ==
        "ds4: file: expected each key once, found \"a\\x0ab\" again");
  CHECK(parse_error(R"({"a": {"a": 1}, "b": {"a": 1}})") == "");
}

TEST_CASE("json: depth is limited") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  CHECK(parse_error(nested(64)) == "");
  CHECK(parse_error(nested(65)) ==
        "ds4: file: expected at most 64 levels of nested JSON, found more");
  CHECK(parse_error(std::string(10'000'000, '[')) == doctest::Contains("at most 64 levels"));
}

TEST_CASE("json: a file is read whole, up to the limit") {
  const ds4::test::TempDir dir;
  const auto file = dir.write("a.json", "{\"a\": [1, 2]}");
  CHECK(ds4::detail::read_json(file)["a"][1] == 2);
  CHECK(ds4::detail::read_json(file, 13)["a"][1] == 2);
  CHECK(error_text([&] { ds4::detail::read_json(file, 12); }) ==
        doctest::Contains("a.json: expected JSON of at most 12 bytes, found 13"));
  CHECK(error_text([&] { ds4::detail::read_json(dir.path() / "b.json"); }) ==
        doctest::Contains("b.json: cannot open: No such file or directory"));
}

TEST_CASE("json: sizes are integers that fit") {
  const auto size = [](const char* text) { return ds4::detail::as_size(parse_json("file", text)); };
  CHECK(size("0") == 0);
  CHECK(size("18446744073709551615") == 18446744073709551615u);
  for (const char* other : {"-1", "4.0", "\"4\"", "null", "true", "[4]", "18446744073709551616"}) {
    CAPTURE(other);
    CHECK_FALSE(size(other).has_value());
  }
}

TEST_CASE("messages: what could break a line or steer a terminal is escaped") {
  CHECK(printable("caf\xC3\xA9 \xE2\x82\xAC") == "caf\xC3\xA9 \xE2\x82\xAC");
  CHECK(printable("a\nb\x1B[31m\x7F") == "a\\x0ab\\x1b[31m\\x7f");
  CHECK(printable("\xC2\x85 \xE2\x80\xA8 \xE2\x80\xAE") ==
        "\\xc2\\x85 \\xe2\\x80\\xa8 \\xe2\\x80\\xae");
  CHECK(printable("\xFF\xC3") == "\\xff\\xc3");
  CHECK(printable(std::string(100, 'a') + std::string(100, 'b'), 10) == "aaaaa...bbbbb");
}

TEST_CASE("messages: twenty problems are shown, the others counted") {
  ds4::detail::Problems problems;
  CHECK(error_text([&] { problems.throw_if_any("file"); }) == "");
  problems.add("a");
  ds4::detail::Problems others;
  others.append(problems);
  others.add("b");
  CHECK(error_text([&] { others.throw_if_any("file"); }) == "ds4: file: a; b");
  for (int i = 0; i < 22; ++i) problems.add("p" + std::to_string(i));
  CHECK(error_text([&] { problems.throw_if_any("file"); }) == doctest::Contains("p18; and 3 more"));
  others.append(problems);
  CHECK(error_text([&] { others.throw_if_any("file"); }) ==
        doctest::Contains("file: a; b; a; p0; p1"));
  CHECK(error_text([&] { others.throw_if_any("file"); }) == doctest::Contains("p18; and 3 more"));
}

TEST_CASE("messages: names that have to be escaped do not make a line endless") {
  ds4::detail::Problems problems;
  for (int i = 0; i < 20; ++i) problems.add(std::string(900, 'x'));
  // As many as there are when 2000 bytes are passed, with "; " between them.
  CHECK(error_text([&] { problems.throw_if_any("file"); }).size() ==
        std::string("ds4: file: ; ; ; and 17 more").size() + 3 * 900);
}

TEST_CASE("json: random damage gives a value or an Error") {
  const std::string valid = R"({"a": {"shape": [12, 34], "x": "y\u00e9"}, "b": [1.5, null, true]})";
  std::mt19937 random(1);
  int refused = 0;
  constexpr int kRounds = 5000;
  for (int i = 0; i < kRounds; ++i) {
    if (parse_error(ds4::test::mutated(valid, random)) != "") ++refused;
  }
  CHECK(refused > kRounds / 2);
  CHECK(refused < kRounds);
}

}  // namespace
