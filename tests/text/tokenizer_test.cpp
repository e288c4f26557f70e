// Tests of ds4/text/tokenizer.hpp against the reference's ids, on hostile text and on malformed
// files.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/text/byte_level.hpp>
#include <ds4/text/tokenizer.hpp>
#include <support/paths.hpp>

namespace {

using ds4::Tokenizer;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

const Tokenizer& deepseek() {
  static const Tokenizer tokenizer = Tokenizer::load(ds4::test::data("/tokenizer"));
  return tokenizer;
}

const Json& cases() {
  static const Json json =
      Json::parse(std::ifstream(ds4::test::data("/tokenizer/cases.json"), std::ios::binary));
  return json;
}

/// A file of its own for each object, removed with it.
class TempFile {
 public:
  explicit TempFile(std::string_view content) {
    static std::random_device random;
    path_ = std::filesystem::temp_directory_path() /
            ("ds4_tokenizer_test_" + std::to_string(random()) + std::to_string(random()) + ".json");
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Json added(std::int32_t id, const std::string& content, bool normalized = false) {
  return {{"id", id},        {"content", content},       {"single_word", false},  {"lstrip", false},
          {"rstrip", false}, {"normalized", normalized}, {"special", !normalized}};
}

/// A small valid file: bytes are ids 0 to 255, then ab, bc, abc, and the added <a>, <ab>, <a><b.
Json small_file(const std::string& regex = "[a-z]+") {
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    std::string spelling;
    ds4::detail::append_spelling(spelling, {&byte, 1});
    vocab[spelling] = b;
  }
  vocab["ab"] = 256;
  vocab["bc"] = 257;
  vocab["abc"] = 258;
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  return {{"added_tokens", {added(259, "<a>"), added(260, "<ab>"), added(261, "<a><b", true)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "a bc", "a b"}}}}};
}

Tokenizer load_text(std::string_view content) { return Tokenizer::load(TempFile(content).path()); }

Tokenizer load(const Json& file) { return load_text(file.dump()); }

/// The text of the error that loading throws, after the name of the file.
std::string load_error_text(std::string_view content) {
  const TempFile file(content);
  try {
    Tokenizer::load(file.path());
  } catch (const ds4::Error& error) {
    const std::string what = error.what();
    const std::string prefix = "ds4: " + file.path().string() + ": ";
    return what.starts_with(prefix) ? what.substr(prefix.size()) : what;
  }
  return "no error";
}

/// The same for the small file with the value at a JSON pointer replaced.
std::string load_error(const char* pointer, const Json& value) {
  Json file = small_file();
  file[Json::json_pointer(pointer)] = value;
  return load_error_text(file.dump());
}

std::string load_error_without(const char* pointer, const char* key) {
  Json file = small_file();
  file[Json::json_pointer(pointer)].erase(key);
  return load_error_text(file.dump());
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const ds4::Error& error) {
    return error.what();
  }
  return "no error";
}

std::string repeat(std::string_view unit, std::size_t size) {
  std::string text;
  while (text.size() < size) text += unit;
  return text;
}

void check_stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special = false) {
  ds4::StreamDecoder stream(tokenizer, skip_special);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string piece = stream.push(id);
    CHECK(ds4::detail::utf8_valid_length(piece) == piece.size());
    text += piece;
  }
  text += stream.finish();
  CHECK(text == tokenizer.decode(ids, skip_special));
}

const std::string kReplacement = "\xEF\xBF\xBD";

TEST_CASE("tokenizer: all cases of the reference") {
  REQUIRE(cases()["cases"].size() == 320);
  REQUIRE(deepseek().vocab_size() == 129280);
  for (const Json& item : cases()["cases"]) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<Ids>();
    CAPTURE(item.dump());
    CHECK(deepseek().encode(text) == ids);
    CHECK(deepseek().decode(ids) == item["decoded"].get<std::string>());
    CHECK(deepseek().decode(ids, true) ==
          item.value("decoded_skip_special", item["decoded"].get<std::string>()));
    check_stream(deepseek(), ids);
    check_stream(deepseek(), ids, true);
  }
}

TEST_CASE("tokenizer: ids that are parts of characters") {
  REQUIRE(cases()["decode_only"].size() == 11);
  for (const Json& item : cases()["decode_only"]) {
    const auto ids = item["ids"].get<Ids>();
    CHECK(deepseek().decode(ids) == item["decoded"].get<std::string>());
    check_stream(deepseek(), ids);
  }
}

TEST_CASE("tokenizer: single tokens") {
  CHECK(deepseek().token_to_id("<｜User｜>") == 128803);
  CHECK(deepseek().token_to_id("\u0120the") == deepseek().encode(" the")[0]);
  CHECK(deepseek().token_to_id(" the") == std::nullopt);
  CHECK(deepseek().token_bytes(128803) == "<｜User｜>");
  CHECK(deepseek().is_special(1));
  CHECK_FALSE(deepseek().is_special(128803));  // the file says so
  CHECK(deepseek().token_bytes(deepseek().encode(" the")[0]) == " the");
  // Ids without a token stand for nothing; a character may go on behind one.
  const Ids emoji = deepseek().encode("🙃");
  REQUIRE(emoji.size() > 1);
  for (const std::int32_t id : {-1, 129280, std::numeric_limits<std::int32_t>::min(),
                                std::numeric_limits<std::int32_t>::max()}) {
    CHECK(deepseek().token_bytes(id).empty());
    CHECK_FALSE(deepseek().is_special(id));
    Ids ids = emoji;
    ids.insert(ids.begin() + 1, id);
    ids.push_back(id);
    for (const bool skip_special : {false, true}) {
      CHECK(deepseek().decode(ids, skip_special) == "🙃");
      check_stream(deepseek(), ids, skip_special);
    }
  }
  CHECK(deepseek().ids_without_token(129280).empty());
  CHECK(deepseek().ids_without_token(129283) == Ids{129280, 129281, 129282});
  CHECK(deepseek().ids_without_token(0).empty());
}

TEST_CASE("tokenizer: every token and every byte comes back") {
  for (std::int32_t id = 0; id < 129280; ++id) {
    const std::string& bytes = deepseek().token_bytes(id);
    if (deepseek().decode(Ids{id}) != bytes) {
      CHECK(ds4::detail::utf8_valid_length(bytes) < bytes.size());
    }
  }
  std::vector<bool> seen(256);
  for (std::int32_t id = 0; id < 129280; ++id) {
    const std::string& bytes = deepseek().token_bytes(id);
    if (bytes.size() == 1) seen[static_cast<unsigned char>(bytes[0])] = true;
  }
  for (std::size_t b = 0; b < 256; ++b) {
    CAPTURE(b);
    CHECK(seen[b]);
    const std::string byte(1, static_cast<char>(b));
    const std::string expected = b < 0x80 ? byte : kReplacement;
    CHECK(deepseek().decode(deepseek().encode(byte)) == expected);
    CHECK(deepseek().decode(deepseek().encode("a" + byte + "z")) == "a" + expected + "z");
  }
}

TEST_CASE("tokenizer: ill-formed UTF-8 counts as U+FFFD, one for each maximal sequence") {
  const auto& r = kReplacement;
  const std::pair<std::string, std::string> texts[] = {
      {"\x80", r},
      {"a\xFFz", "a" + r + "z"},
      {"\xC0\xAF", r + r},                         // overlong
      {"\xE0\x80\xAF", r + r + r},                 // overlong
      {"\xED\xA0\x80", r + r + r},                 // surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},         // above U+10FFFF
      {"\xE4\xB8", r},                             // cut off
      {"\xE4\xB8z", r + "z"},                      // broken off
      {"\xF0\x9F\x98", r},                         // cut off
      {"\xF0\x9F\x98\xF0\x9F\x98\x80", r + "😀"},  // broken off by a whole character
      {"\xE4\xB8\xAD\xB8", "中" + r},
  };
  for (const auto& [text, repaired] : texts) {
    CAPTURE(repaired);
    CHECK(deepseek().encode(text) == deepseek().encode(repaired));
    CHECK(deepseek().decode(deepseek().encode(text)) == repaired);
  }
}

TEST_CASE("tokenizer: decoding in a stream holds back unfinished characters only") {
  const Tokenizer tokenizer = load(small_file());
  ds4::StreamDecoder stream(tokenizer);
  CHECK(stream.push(0xF0) == "");
  CHECK(stream.push(0x9F) == "");
  CHECK(stream.push(0x98) == "");
  CHECK(stream.push(0x80) == "😀");
  CHECK(stream.push(0xE4) == "");
  CHECK(stream.push('x') == kReplacement + "x");
  CHECK(stream.push(0xC0) == kReplacement);  // can begin nothing
  CHECK(stream.push(0xE4) == "");
  CHECK(stream.push(259) == kReplacement + "<a>");
  CHECK(stream.push(0xE4) == "");
  CHECK(stream.finish() == kReplacement);
  CHECK(stream.finish() == "");

  ds4::StreamDecoder skipping(tokenizer, true);
  CHECK(skipping.push(0xC3) == "");
  CHECK(skipping.push(259) == "");
  CHECK(skipping.push(0xA9) == "é");  // as decode(), which joins the bytes around what it skips
  CHECK(tokenizer.decode(Ids{0xC3, 259, 0xA9}, true) == "é");
}

TEST_CASE("tokenizer: long runs without a quadratic step") {
  constexpr std::size_t kSize = 1 << 20;
  for (const char* unit :
       {"a", " ", "\n", "!", "1", "中", "\t", "ab", " a", "\u0301", "<", "\r\n"}) {
    CAPTURE(unit);
    const std::string text = repeat(unit, kSize);
    CHECK(deepseek().decode(deepseek().encode(text)) == text);
  }
  const std::string zeros(kSize, '\0');
  CHECK(deepseek().decode(deepseek().encode(zeros)) == zeros);
  CHECK(deepseek().encode(std::string(kSize, ' ') + "x").size() < kSize / 64);
  CHECK(deepseek().encode(std::string(kSize, '\xFF')) ==
        deepseek().encode(repeat(kReplacement, 3 * kSize)));
}

TEST_CASE("tokenizer: merges go by rank, leftmost first") {
  const Tokenizer tokenizer = load(small_file());
  CHECK(tokenizer.encode("abc") == Ids{258});
  CHECK(tokenizer.encode("ab") == Ids{256});
  CHECK(tokenizer.encode("abcab") == Ids{258, 256});
  CHECK(tokenizer.encode("abbc") == Ids{256, 257});
  CHECK(tokenizer.encode("ab c") == Ids{256, ' ', 'c'});
  CHECK(tokenizer.encode("") == Ids{});

  Json twins = small_file();
  twins["model"]["vocab"]["aa"] = 262;
  twins["model"]["merges"] = {"a a"};
  CHECK(load(twins).encode("aaa") == Ids{262, 'a'});

  Json unmerged = small_file();  // "b c" is missing, so "abc" cannot come from merges
  unmerged["model"]["merges"] = {"a b"};
  CHECK(load(unmerged).encode("abc") == Ids{256, 'c'});
  unmerged["model"]["ignore_merges"] = true;
  CHECK(load(unmerged).encode("abc") == Ids{258});
  CHECK(load(unmerged).encode("abcc") == Ids{256, 'c', 'c'});

  Json pairs = small_file();
  pairs["model"]["merges"] = Json::parse(R"([["b", "c"], ["a", "bc"], ["a", "b"]])");
  CHECK(load(pairs).encode("abcab") == Ids{258, 256});
}

TEST_CASE("tokenizer: added tokens are found leftmost first, then longest, raw before normalized") {
  const Tokenizer tokenizer = load(small_file());
  CHECK(tokenizer.encode("<ab>") == Ids{260});
  CHECK(tokenizer.encode("x<a>y") == Ids{'x', 259, 'y'});
  CHECK(tokenizer.encode("<a") == Ids{'<', 'a'});
  CHECK(tokenizer.encode("<<a>>") == Ids{'<', 259, '>'});
  CHECK(tokenizer.encode("<a><b") == Ids{259, '<', 'b'});

  Json file = small_file();
  file["added_tokens"] = {added(259, "xy"), added(260, "xyzx"), added(261, "xyzy", true)};
  CHECK(load(file).encode("xyzx") == Ids{260});
  CHECK(load(file).encode("xyzxy") == Ids{260, 'y'});
  CHECK(load(file).encode("xyzz") == Ids{259, 'z', 'z'});
  CHECK(load(file).encode("xyzy") == Ids{259, 'z', 'y'});
  CHECK(load(file).encode("yxyzy") == Ids{'y', 259, 'z', 'y'});
  file["added_tokens"][0] = added(259, "xy", true);
  CHECK(load(file).encode("xyzy") == Ids{261});

  Json both = small_file();  // in both lists: one token
  both["added_tokens"].push_back(added(256, "ab"));
  CHECK(load(both).encode("abc") == Ids{256, 'c'});
  both["added_tokens"][3]["content"] = "\u0120";
  both["added_tokens"][3]["id"] = ' ';
  CHECK(load(both).decode(Ids{' '}) == " ");
}

TEST_CASE("tokenizer: plain text has no added tokens") {
  const Tokenizer small = load(small_file());
  CHECK(small.encode_plain("x<ab>y") == Ids{'x', '<', 256, '>', 'y'});
  CHECK(small.encode_plain("<a><b") == Ids{'<', 'a', '>', '<', 'b'});
  CHECK(small.encode_plain("abc") == Ids{258});
  CHECK(small.encode_plain("").empty());

  for (const std::string text :
       {"<｜User｜>", "<think></think>", "<｜end▁of▁sentence｜>", "a<｜Assistant｜>b"}) {
    CAPTURE(text);
    const Ids ids = deepseek().encode_plain(text);
    CHECK(deepseek().decode(ids) == text);
    CHECK(ids != deepseek().encode(text));
    for (const std::int32_t id : ids) CHECK((id > 2 && id < 128000));  // ids of the vocabulary
  }
  // Where nothing is spelled like an added token, the two are the same.
  std::size_t compared = 0;
  for (const Json& item : cases()["cases"]) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<Ids>();
    if (std::ranges::any_of(ids, [](std::int32_t id) { return id < 3 || id >= 128000; })) continue;
    CHECK(deepseek().encode_plain(text) == ids);
    ++compared;
  }
  CHECK(compared > 250);
}

TEST_CASE("tokenizer: regexes split in sequence, each piece on its own") {
  // The second regex sees "a " end after the space; in the whole text "b" follows it.
  Json file = small_file("\\s(?!\\S)");
  Json& steps = file["pre_tokenizer"]["pretokenizers"];
  steps.insert(steps.begin(), steps[0]);
  steps[0]["pattern"]["Regex"] = "a ";
  file["model"]["vocab"]["a\u0120"] = 262;
  file["model"]["merges"] = {"a \u0120", "a b"};
  CHECK(load(file).encode("a b") == Ids{'a', ' ', 'b'});
  steps[1]["pattern"]["Regex"] = "b";
  CHECK(load(file).encode("a b") == Ids{262, 'b'});
  CHECK(load(file).encode("ab") == Ids{'a', 'b'});

  // Empty matches cut too, between characters.
  CHECK(load(small_file("(?=b)")).encode("abcabc") == Ids{'a', 257, 'a', 257});
  CHECK(load(small_file("x*")).encode("abc") == Ids{'a', 'b', 'c'});
  CHECK(load(small_file("x*")).encode("é中😀").size() == 9);

  // Unicode classes; U+180E is no space for the reference, though it is one for PCRE2.
  Json spaces = small_file("a(?=\\s)");
  spaces["model"]["vocab"]["aÂ"] = 262;
  spaces["model"]["vocab"]["aá"] = 263;
  spaces["model"]["merges"] = {"a Â", "a á"};
  CHECK(load(spaces).encode("a\u00A0") == Ids{'a', 0xC2, 0xA0});
  CHECK(load(spaces).encode("a\u00B0") == Ids{262, 0xB0});
  CHECK(load(spaces).encode("a\u1680") == Ids{'a', 0xE1, 0x9A, 0x80});
  CHECK(load(spaces).encode("a\u180E") == Ids{263, 0xA0, 0x8E});
}

TEST_CASE("tokenizer: a regular expression without JIT, beyond the JIT's stack and beyond limits") {
  // Where the JIT is missing, or its stack too small, the interpreter has to take over.
  Json file =
      Json::parse(std::ifstream(ds4::test::data("/tokenizer/tokenizer.json"), std::ios::binary));
  for (Json& step : file["pre_tokenizer"]["pretokenizers"]) {
    if (!step.contains("pattern")) continue;
    auto& regex = step["pattern"]["Regex"].get_ref<std::string&>();
    regex = "(*NO_JIT)" + regex;
  }
  const Tokenizer interpreted = load(file);
  for (const char* unit : {"a", " ", "\n", "!", "中", "Hello, world! 12 "}) {
    const std::string text = repeat(unit, 1 << 18) + "x";
    CHECK(interpreted.encode(text) == deepseek().encode(text));
  }
  const std::string text(1 << 16, 'a');
  CHECK(load(small_file("(?:(a)|(b))*b?")).encode(text).size() == text.size());

  // An exponential search; many searches that each end, but not soon; one that takes memory.
  struct Case {
    const char* regex;
    std::size_t at;  // where the search begins that does not end: (?:a?){128}a{50} matches once
  };
  for (const auto& [regex, at] :
       {Case{"(a+)+$", 0}, Case{"(*NO_JIT)(a+)+$", 0}, Case{"a*a*a*a*[cx]", 0},
        Case{"(?:a?){128}a{50}", 178}, Case{"(*NO_JIT)(?:a?){128}a{50}", 178},
        Case{"(?:(?R)|a)+[cx]", 0}}) {
    CAPTURE(std::string(regex));
    const Tokenizer endless = load(small_file(regex));
    const std::string error = error_of([&] { endless.encode(std::string(300, 'a') + "b"); });
    CHECK(
        error.starts_with("ds4: encode: expected the tokenizer's regular expressions to take at "
                          "most 519264 steps, found \""));
    CHECK(error.ends_with("\" at byte " + std::to_string(at) + " of a text of 301"));
  }
}

TEST_CASE("tokenizer: the austen model's file") {
  const Tokenizer austen = Tokenizer::load(ds4::test::models("/austen/tokenizer.json"));
  CHECK(austen.vocab_size() == 2048);
  CHECK(austen.token_to_id("<｜User｜>") == 3);
  const std::string text = "It is a truth universally acknowledged.";
  const Ids ids = austen.encode(text);
  CHECK(ids ==
        Ids{1429, 369, 263, 1921, 477, 77, 1183, 559, 1794, 738, 794, 18});  // by the reference
  CHECK(austen.decode(ids) == text);
}

TEST_CASE("tokenizer: a value that threads may share") {
  static_assert(std::is_nothrow_move_constructible_v<Tokenizer>);
  static_assert(std::is_copy_constructible_v<Tokenizer>);
  static_assert(!std::is_constructible_v<ds4::StreamDecoder, Tokenizer>);
  const std::string text = repeat("Hello, world! 12345 <think>中文</think>\n", 4096);
  const Ids expected = deepseek().encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) threads.emplace_back([&] { result = deepseek().encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) CHECK(result == expected);

  Tokenizer first = load(small_file());
  const Tokenizer copy = first;
  const Tokenizer moved = std::move(first);
  first = load(small_file("x"));
  CHECK(copy.encode("abc") == Ids{258});
  CHECK(moved.encode("abc") == Ids{258});
}

TEST_CASE("tokenizer: files that are no JSON") {
  CHECK(load_error_text(small_file().dump()) == "no error");
  CHECK(error_of([] { Tokenizer::load("no_such_file"); }) ==
        "ds4: no_such_file: cannot open: No such file or directory");
  CHECK(error_of([] { Tokenizer::load(ds4::test::models()); }) ==
        "ds4: " + ds4::test::models("/tokenizer.json") +
            ": cannot open: No such file or directory");
  CHECK(error_of([] { Tokenizer::load("no\nsuch file"); }) ==
        "ds4: no\\x0asuch file: cannot open: No such file or directory");
  CHECK(load_error_text("") == "expected data, found an empty file");
  CHECK(load_error_text("{\"a\": \"\xFF\"}").starts_with("expected JSON, found "));
  CHECK(load_error_text("{\"a\": \"\\ud800\"}").starts_with("expected JSON, found "));
  CHECK(load_error_text("[]") == "the file: expected an object, found an array");
  CHECK(load_error_text("{\"a\": 1e999}").starts_with("expected JSON, found number overflow"));
  CHECK(load_error_text("{\"a\": 1, \"a\": 1}") == "expected each key once, found \"a\" again");
  CHECK(load_error_text(repeat("{\"a\":", 1 << 20)) ==
        "expected at most 64 levels of nested JSON, found more");
  const std::string text = small_file().dump();
  for (std::size_t size = 1; size < text.size(); size += 97) {
    CHECK(load_error_text(text.substr(0, size)).starts_with("expected JSON, found "));
  }
}

TEST_CASE(
    "tokenizer: what added tokens strip, words, and normalised text, as the reference has it") {
  const Json groups =
      Json::parse(std::ifstream(ds4::test::data("/tokenizer/added.json"), std::ios::binary));
  REQUIRE(groups.size() == 15);
  std::size_t count = 0;
  for (const Json& group : groups) {
    Json file = small_file(group["regex"]);
    file["added_tokens"] = group["added_tokens"];
    file["normalizer"] = group["normalizer"];
    const Tokenizer tokenizer = load(file);
    for (const Json& item : group["cases"]) {
      CAPTURE(item.dump());
      CHECK(tokenizer.encode(item[0].get<std::string>()) == item[1].get<Ids>());
      ++count;
    }
  }
  CHECK(count == 337);
}

TEST_CASE("tokenizer: what anybody wrote is normalised, but has no added tokens") {
  Json file = small_file();
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"][0]["lstrip"] = true;
  file["added_tokens"][1]["single_word"] = true;
  const Tokenizer tokenizer = load(file);
  CHECK(tokenizer.encode_plain("e\u0301 <a>") == Ids{0xC3, 0xA9, ' ', '<', 'a', '>'});
  CHECK(tokenizer.encode_plain("x <ab>") == Ids{'x', ' ', '<', 256, '>'});
  CHECK(tokenizer.encode("e\u0301 <a>") == Ids{0xC3, 0xA9, 259});
  CHECK(tokenizer.encode_plain("").empty());
  CHECK(tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00E9");
}

TEST_CASE("tokenizer: white space that many tokens strip is not read again for each") {
  // Millions of characters: reading on to the end of the run for each would take hours.
  Json file = small_file();
  file["added_tokens"] = {added(259, "\n"), added(260, "<s>"), added(261, "\t")};
  file["added_tokens"][0]["rstrip"] = true;
  file["added_tokens"][1]["single_word"] = true;
  file["added_tokens"][2]["lstrip"] = true;
  const Tokenizer tokenizer = load(file);
  constexpr std::size_t kCount = 1'000'000;
  CHECK(tokenizer.encode(repeat("\n", kCount)).size() == kCount);
  CHECK(tokenizer.encode(repeat("\t", kCount)).size() == kCount);
  CHECK(tokenizer.encode(repeat(" ", kCount) + "\t") == Ids{261});
  CHECK(tokenizer.encode("\n" + repeat(" ", kCount)) == Ids{259});
  CHECK(tokenizer.encode(repeat("<s>", 3 * 100'000)).size() == 100'000);
  CHECK(tokenizer.encode("x" + repeat("<s>", 3 * 100'000)).size() == 4 + 99'999);
}

TEST_CASE("tokenizer: fields that are missing or not supported") {
  CHECK(load_error_without("", "model") == "model: expected an object, found nothing");
  CHECK(load_error_without("", "added_tokens") == "added_tokens: expected an array, found nothing");
  CHECK(load_error_without("", "pre_tokenizer") ==
        "pre_tokenizer: expected an object, found nothing");
  CHECK(load_error_without("", "decoder") == "decoder: expected an object, found nothing");
  CHECK(load_error_without("", "normalizer") == "no error");
  CHECK(load_error("/decoder/type", "WordPiece") ==
        "decoder.type: expected \"ByteLevel\", found \"WordPiece\"");
  const Json nfc = {{"type", "NFC"}};
  CHECK(load_error("/normalizer", nfc) == "no error");
  CHECK(load_error("/normalizer", {{"type", "NFKC"}}) ==
        "normalizer.type: expected \"NFC\", found \"NFKC\"");
  CHECK(load_error("/normalizer", {{"type", "NFC"}, {"form", "D"}}) ==
        "normalizer: expected known fields only, found \"form\"");
  CHECK(load_error("/normalizer", Json::object()) ==
        "normalizer.type: expected \"NFC\", found nothing");
  CHECK(load_error("/normalizer", {{"type", "Sequence"}, {"normalizers", Json::array()}}) ==
        "no error");
  CHECK(load_error("/normalizer", {{"type", "Sequence"}, {"normalizers", {nfc, 2}}}) ==
        "normalizer.normalizers[1]: expected an object, found 2");
  CHECK(load_error("/normalizer",
                   {{"type", "Sequence"}, {"normalizers", {nfc, {{"type", "Lowercase"}}}}}) ==
        "normalizer.normalizers[1].type: expected \"NFC\", found \"Lowercase\"");
  CHECK(load_error("/normalizer", 1) ==
        "normalizer: expected null, NFC or a Sequence of it, found 1");

  CHECK(load_error("/pre_tokenizer/type", "Whitespace") ==
        "pre_tokenizer.type: expected \"Sequence\", found \"Whitespace\"");
  CHECK(load_error("/pre_tokenizer/pretokenizers", Json::array()) ==
        "pre_tokenizer.pretokenizers: expected from 1 to 33 steps, found 0");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0", 5) ==
        "pre_tokenizer.pretokenizers[0]: expected an object, found 5");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/type", "Digits") ==
        "pre_tokenizer.pretokenizers[0].type: expected \"Split\", found \"Digits\"");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/behavior", "Removed") ==
        "pre_tokenizer.pretokenizers[0].behavior: expected \"Isolated\", found \"Removed\"");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/invert", true) ==
        "pre_tokenizer.pretokenizers[0].invert: expected false, found true");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/pattern", {{"String", "a"}}) ==
        "pre_tokenizer.pretokenizers[0].pattern: expected known fields only, found \"String\"");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a(") ==
        "pre_tokenizer.pretokenizers[0].pattern.Regex: expected a regular expression, found "
        "\"missing closing parenthesis\" at byte 2");
  CHECK(load_error("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\C")
            .starts_with("pre_tokenizer.pretokenizers[0].pattern.Regex: expected a regular "
                         "expression, found"));
  CHECK(load_error("/pre_tokenizer/pretokenizers/1/type", "Split") ==
        "pre_tokenizer.pretokenizers[1].type: expected \"ByteLevel\", found \"Split\"");
  CHECK(load_error("/pre_tokenizer/pretokenizers/1/use_regex", true) ==
        "pre_tokenizer.pretokenizers[1].use_regex: expected false, found true");
  CHECK(load_error("/pre_tokenizer/pretokenizers/1/add_prefix_space", true) ==
        "pre_tokenizer.pretokenizers[1].add_prefix_space: expected false, found true");
  CHECK(load_error_without("/pre_tokenizer/pretokenizers/1", "use_regex") ==
        "pre_tokenizer.pretokenizers[1].use_regex: expected false, found nothing");

  CHECK(load_error("/model/type", "Unigram") == "model.type: expected \"BPE\", found \"Unigram\"");
  CHECK(load_error("/model/dropout", 0.5) == "model.dropout: expected null, found 0.5");
  CHECK(load_error("/model/unk_token", "<unk>") ==
        "model.unk_token: expected null, found \"<unk>\"");
  CHECK(load_error("/model/continuing_subword_prefix", "##") ==
        "model.continuing_subword_prefix: expected null, found \"##\"");
  CHECK(load_error("/model/continuing_subword_prefix", "") == "no error");
  CHECK(load_error("/model/end_of_word_suffix", "</w>") ==
        "model.end_of_word_suffix: expected null, found \"</w>\"");
  CHECK(load_error("/model/byte_fallback", true) ==
        "model.byte_fallback: expected false, found true");
  CHECK(load_error("/model/ignore_merges", 1) ==
        "model.ignore_merges: expected true or false, found 1");
  CHECK(load_error("/model/new_field", 1) ==
        "model: expected known fields only, found \"new_field\"");
  CHECK(load_error("/model/vocab", Json::array()) ==
        "model.vocab: expected an object, found an array");
  CHECK(load_error("/model/merges", "a b") == "model.merges: expected an array, found \"a b\"");

  for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
    const std::string name = flag;
    CHECK(load_error(("/added_tokens/1/" + name).c_str(), true) == "no error");
    CHECK(load_error(("/added_tokens/1/" + name).c_str(), 1) ==
          "added_tokens[1]." + name + ": expected true or false, found 1");
    CHECK(load_error_without("/added_tokens/1", flag) ==
          "added_tokens[1]." + name + ": expected true or false, found nothing");
  }
  CHECK(load_error("/added_tokens/1", "x") == "added_tokens[1]: expected an object, found \"x\"");
  CHECK(load_error("/added_tokens/1/content", 7) ==
        "added_tokens[1].content: expected a string, found 7");
  CHECK(load_error("/added_tokens/1/content", "") ==
        "added_tokens[1].content: expected from 1 to 256 bytes, found 0");
  CHECK(load_error("/added_tokens/1/content", repeat("x", 257)) ==
        "added_tokens[1].content: expected from 1 to 256 bytes, found 257");
  CHECK(load_error("/added_tokens/1/special", "yes") ==
        "added_tokens[1].special: expected true or false, found \"yes\"");
  CHECK(load_error_without("/added_tokens/1", "normalized") ==
        "added_tokens[1].normalized: expected true or false, found nothing");
}

TEST_CASE("tokenizer: ids and merges that do not fit together") {
  const Json wrong_ids[] = {-1, 1048576, 18446744073709551615U, 1.5, "1", nullptr, Json::array()};
  const char* const found[] = {"-1",   "1048576", "18446744073709551615", "1.5", "\"1\"",
                               "null", "an array"};
  for (std::size_t i = 0; i < std::size(wrong_ids); ++i) {
    CHECK(load_error("/model/vocab/ab", wrong_ids[i]) ==
          std::string("model.vocab[\"ab\"]: expected an id from 0 to 1048575, found ") + found[i]);
    CHECK(load_error("/added_tokens/1/id", wrong_ids[i]) ==
          std::string("added_tokens[1].id: expected an id from 0 to 1048575, found ") + found[i]);
  }
  CHECK(load_error_without("/added_tokens/1", "id") ==
        "added_tokens[1].id: expected an id from 0 to 1048575, found null");
  CHECK(load_error("/model/vocab/bc", 256) ==
        "model.vocab[\"bc\"]: expected an id of its own, found 256 a second time");
  CHECK(load_error("/model/vocab/", 300) ==
        "model.vocab: expected tokens that are not empty, found \"\"");
  CHECK(load_error_without("/model/vocab", "A") ==
        "model.vocab: expected a token for each byte, found none for 65");
  CHECK(load_error("/added_tokens/1/id", 256) ==
        "added_tokens[1].id: expected the id of \"<ab>\" alone, found 256");
  CHECK(load_error("/added_tokens/1/id", 259) ==
        "added_tokens[1].id: expected the id of \"<ab>\" alone, found 259");
  CHECK(load_error("/added_tokens/1/content", "ab") ==
        "added_tokens[1].id: expected the id of \"ab\" alone, found 260");
  CHECK(load_error("/added_tokens/1/content", "<a>") ==
        "added_tokens[1].content: expected each token once, found \"<a>\" twice");

  CHECK(load_error("/model/merges/1", "a x y") ==
        "model.merges[1]: expected \"a b\" or [\"a\", \"b\"], found \"a x y\"");
  CHECK(load_error("/model/merges/1", "ab") ==
        "model.merges[1]: expected \"a b\" or [\"a\", \"b\"], found \"ab\"");
  CHECK(load_error("/model/merges/1", {"a", "b", "c"}) ==
        "model.merges[1]: expected \"a b\" or [\"a\", \"b\"], found an array");
  CHECK(load_error("/model/merges/1", {"a", 1}) ==
        "model.merges[1]: expected \"a b\" or [\"a\", \"b\"], found an array");
  CHECK(load_error("/model/merges/1", "a xy") ==
        "model.merges[1]: expected tokens of the vocabulary, found \"xy\"");
  CHECK(load_error("/model/merges/1", "xy a") ==
        "model.merges[1]: expected tokens of the vocabulary, found \"xy\"");
  CHECK(load_error("/model/merges/1", " a") ==
        "model.merges[1]: expected tokens of the vocabulary, found \"\"");
  CHECK(load_error("/model/merges/1", "a c") ==
        "model.merges[1]: expected tokens of the vocabulary, found \"ac\"");
  CHECK(load_error("/model/merges/1", "b c") ==
        "model.merges[1]: expected a new pair, found one that an earlier merge has");
  CHECK(load_error("/model/merges/1", repeat("x", 100) + " a") ==
        "model.merges[1]: expected tokens of the vocabulary, found \"" + repeat("x", 60) + "\"...");

  Json holes = small_file();  // ids may leave gaps, which are no tokens
  holes["added_tokens"][2]["id"] = 300;
  const Tokenizer tokenizer = load(holes);
  CHECK(tokenizer.vocab_size() == 301);
  CHECK(tokenizer.token_bytes(280).empty());
  CHECK(tokenizer.decode(Ids{97, 280, 98}) == "ab");
  const Ids without = tokenizer.ids_without_token(305);  // 261 to 299, and 301 on
  CHECK(without.size() == 39 + 4);
  CHECK(std::ranges::count(without, 300) == 0);
  CHECK(without.back() == 304);
}

}  // namespace
