// Reading tokenizer.json: its fields, and a refusal of everything not supported.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/utf8.hpp>
#include <ds4/text/added_tokens.hpp>

namespace ds4::inline v0_1::detail {

/// What tokenizer.json says, with types and single values checked; ids and merges are not yet
/// compared with each other.
struct TokenizerFile {
  std::vector<std::pair<std::string, std::int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<AddedToken> added_tokens;
  std::vector<std::string> split_patterns;
  bool ignore_merges = false;
  bool nfc = false;  ///< text is normalised first
};

/// Reads and checks one file. The post-processor, truncation and padding are not read: ds4 adds and
/// removes no tokens.
class TokenizerFileReader {
 public:
  // Bounds what a wrong id can make us allocate, and the search for a token at each position.
  static constexpr std::int32_t kMaxId = (1 << 20) - 1;
  static constexpr std::size_t kMaxContent = 256;  // bytes
  static constexpr std::size_t kMaxPatterns = 32;

  explicit TokenizerFileReader(std::filesystem::path path)
      : path_(std::move(path)), file_(printable_path(path_)) {}

  /// Throws Error with the file's name, the field, what was expected and what was found.
  TokenizerFile read() const {
    const Json root = read_json(path_);
    if (!root.is_object()) refuse_value("the file", "an object", root);
    const Json& model = member(root, "", "model", Json::value_t::object);
    TokenizerFile out;
    read_model(model, out);
    read_added_tokens(member(root, "", "added_tokens", Json::value_t::array), out);
    read_pre_tokenizer(member(root, "", "pre_tokenizer", Json::value_t::object), out);
    read_normalizer(root, out);
    expect(member(root, "", "decoder", Json::value_t::object), "decoder", "type", {"ByteLevel"});
    return out;
  }

  /// The file's name, as messages show it.
  const std::string& file() const { return file_; }

  /// Throws Error: "<file>: <field>: expected <expected>, found <found>".
  [[noreturn]] void refuse(std::string_view field, std::string_view expected,
                           std::string_view found) const {
    std::string what(field);
    what.append(": expected ").append(expected).append(", found ").append(found);
    throw Error(ErrorKind::file, file_, what);
  }

  /// A string from the file, quoted, in ASCII, not long.
  static std::string quote(std::string_view content) {
    constexpr std::size_t kShown = 60;
    std::string text;
    append_utf8(text, content.substr(0, kShown));
    text = nlohmann::json(text).dump(-1, ' ', true);
    return content.size() > kShown ? text + "..." : text;
  }

 private:
  using Json = nlohmann::json;

  [[noreturn]] void refuse_value(std::string_view field, std::string_view expected,
                                 const Json& found) const {
    refuse(field, expected,
           found.is_string()       ? quote(found.get_ref<const std::string&>())
           : found.is_structured() ? std::string(found.is_array() ? "an array" : "an object")
                                   : found.dump());
  }

  static std::string at(std::string_view field, std::string_view key) {
    return field.empty() ? std::string(key) : std::string(field) + "." + std::string(key);
  }

  static std::string at(std::string_view field, std::size_t index) {
    return std::string(field) + "[" + std::to_string(index) + "]";
  }

  const Json& member(const Json& object, std::string_view field, std::string_view key,
                     Json::value_t type) const {
    const auto found = object.find(key);
    const std::string expected = type == Json::value_t::object  ? "an object"
                                 : type == Json::value_t::array ? "an array"
                                                                : "a string";
    if (found == object.end()) refuse(at(field, key), expected, "nothing");
    if (found->type() != type) refuse_value(at(field, key), expected, *found);
    return *found;
  }

  const std::string& string(const Json& object, std::string_view field,
                            std::string_view key) const {
    return member(object, field, key, Json::value_t::string).get_ref<const std::string&>();
  }

  bool boolean(const Json& object, std::string_view field, std::string_view key) const {
    const auto found = object.find(key);
    if (found == object.end()) refuse(at(field, key), "true or false", "nothing");
    if (!found->is_boolean()) refuse_value(at(field, key), "true or false", *found);
    return found->get<bool>();
  }

  /// Checks that a field has one of the values. nullptr among them also allows it to be absent.
  void expect(const Json& object, std::string_view field, std::string_view key,
              std::initializer_list<Json> values) const {
    const auto is = [&](const Json& value) {
      return std::find(values.begin(), values.end(), value) != values.end();
    };
    const auto found = object.find(key);
    if (found == object.end() ? is(nullptr) : is(*found)) return;
    const std::string expected = values.begin()->dump();
    if (found == object.end()) refuse(at(field, key), expected, "nothing");
    refuse_value(at(field, key), expected, *found);
  }

  /// A field that we do not know could change what the others mean.
  void expect_known(const Json& object, std::string_view field,
                    std::initializer_list<std::string_view> keys) const {
    for (const auto& item : object.items()) {
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
        refuse(field, "known fields only", quote(item.key()));
      }
    }
  }

  std::int32_t id(const Json& value, std::string_view field) const {
    if (!value.is_number_integer() || value < 0 || value > kMaxId) {
      refuse_value(field, "an id from 0 to " + std::to_string(kMaxId), value);
    }
    return value.get<std::int32_t>();
  }

  void read_model(const Json& model, TokenizerFile& out) const {
    expect(model, "model", "type", {"BPE"});
    expect_known(model, "model",
                 {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    expect(model, "model", "dropout", {nullptr});
    expect(model, "model", "unk_token", {nullptr});
    expect(model, "model", "continuing_subword_prefix", {nullptr, ""});
    expect(model, "model", "end_of_word_suffix", {nullptr, ""});
    expect(model, "model", "fuse_unk", {false, nullptr});
    expect(model, "model", "byte_fallback", {false, nullptr});
    out.ignore_merges = model.contains("ignore_merges") && boolean(model, "model", "ignore_merges");

    const Json& vocab = member(model, "model", "vocab", Json::value_t::object);
    out.vocab.reserve(vocab.size());
    for (auto token = vocab.begin(); token != vocab.end(); ++token) {
      const std::string& spelling = token.key();
      if (spelling.empty()) refuse("model.vocab", "tokens that are not empty", "\"\"");
      if (!token->is_number_integer() || *token < 0 || *token > kMaxId) {
        id(*token, "model.vocab[" + quote(spelling) + "]");
      }
      out.vocab.emplace_back(spelling, token->get<std::int32_t>());
    }

    const Json& merges = member(model, "model", "merges", Json::value_t::array);
    out.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      const auto is_string = [](const Json& part) { return part.is_string(); };
      if (merge.is_array() && merge.size() == 2 && is_string(merge[0]) && is_string(merge[1])) {
        out.merges.emplace_back(merge[0].get_ref<const std::string&>(),
                                merge[1].get_ref<const std::string&>());
        continue;
      }
      const std::string_view pair =
          merge.is_string() ? merge.get_ref<const std::string&>() : std::string_view();
      const std::size_t space = pair.find(' ');
      if (space == std::string_view::npos || pair.find(' ', space + 1) != std::string_view::npos) {
        refuse_value(at("model.merges", out.merges.size()), "\"a b\" or [\"a\", \"b\"]", merge);
      }
      out.merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
    }
  }

  void read_added_tokens(const Json& tokens, TokenizerFile& out) const {
    for (const Json& token : tokens) {
      const std::string field = at("added_tokens", out.added_tokens.size());
      if (!token.is_object()) refuse_value(field, "an object", token);
      expect_known(token, field,
                   {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      const auto number = token.find("id");
      AddedToken added;
      added.id = id(number == token.end() ? Json() : *number, at(field, "id"));
      added.content = string(token, field, "content");
      added.special = boolean(token, field, "special");
      added.normalized = boolean(token, field, "normalized");
      added.single_word = boolean(token, field, "single_word");
      added.lstrip = boolean(token, field, "lstrip");
      added.rstrip = boolean(token, field, "rstrip");
      if (added.content.empty() || added.content.size() > kMaxContent) {
        refuse(at(field, "content"), "from 1 to " + std::to_string(kMaxContent) + " bytes",
               std::to_string(added.content.size()));
      }
      out.added_tokens.push_back(std::move(added));
    }
  }

  /// Only the byte-level form: a Sequence of Split regexes and, last, ByteLevel.
  void read_pre_tokenizer(const Json& pre_tokenizer, TokenizerFile& out) const {
    expect(pre_tokenizer, "pre_tokenizer", "type", {"Sequence"});
    const Json& steps =
        member(pre_tokenizer, "pre_tokenizer", "pretokenizers", Json::value_t::array);
    if (steps.empty() || steps.size() > kMaxPatterns + 1) {
      refuse("pre_tokenizer.pretokenizers",
             "from 1 to " + std::to_string(kMaxPatterns + 1) + " steps",
             std::to_string(steps.size()));
    }
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const std::string field = at("pre_tokenizer.pretokenizers", i);
      const Json& step = steps[i];
      if (!step.is_object()) refuse_value(field, "an object", step);
      if (i + 1 == steps.size()) {
        expect(step, field, "type", {"ByteLevel"});
        expect_known(step, field, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
        expect(step, field, "add_prefix_space", {false});
        expect(step, field, "use_regex", {false});
      } else {
        expect(step, field, "type", {"Split"});
        expect_known(step, field, {"type", "pattern", "behavior", "invert"});
        expect(step, field, "behavior", {"Isolated"});
        expect(step, field, "invert", {false});
        const Json& pattern = member(step, field, "pattern", Json::value_t::object);
        expect_known(pattern, at(field, "pattern"), {"Regex"});
        out.split_patterns.push_back(string(pattern, at(field, "pattern"), "Regex"));
      }
    }
  }

  /// None, NFC, or a Sequence of any number of them.
  void read_normalizer(const Json& root, TokenizerFile& out) const {
    const auto found = root.find("normalizer");
    if (found == root.end() || found->is_null()) return;
    if (!found->is_object()) refuse_value("normalizer", "null, NFC or a Sequence of it", *found);
    expect(*found, "normalizer", "type", {"NFC", "Sequence"});
    if (found->at("type") == "NFC") return read_nfc(*found, "normalizer", out);
    const Json& steps = member(*found, "normalizer", "normalizers", Json::value_t::array);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const std::string field = at("normalizer.normalizers", i);
      if (!steps[i].is_object()) refuse_value(field, "an object", steps[i]);
      read_nfc(steps[i], field, out);
    }
  }

  void read_nfc(const Json& step, std::string_view field, TokenizerFile& out) const {
    expect(step, field, "type", {"NFC"});
    expect_known(step, field, {"type"});
    out.nfc = true;
  }

  std::filesystem::path path_;
  std::string file_;
};

}  // namespace ds4::inline v0_1::detail
