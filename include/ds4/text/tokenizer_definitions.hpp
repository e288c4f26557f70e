// What tokenizer.hpp declares.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/utf8.hpp>
#include <ds4/text/added_tokens.hpp>
#include <ds4/text/bpe.hpp>
#include <ds4/text/byte_level.hpp>
#include <ds4/text/nfc.hpp>
#include <ds4/text/split_regex.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/tokenizer_file.hpp>

namespace ds4::inline v0_1 {

/// One call of encode(): the working memory and the steps from text to ids.
class Tokenizer::Encoder {
 public:
  /// Working memory for a text of this size.
  Encoder(const Tokenizer& tokenizer, std::size_t text_size)
      : tokenizer_(tokenizer), scratch_(text_size), merger_(tokenizer.merges_) {}

  /// The ids of the text.
  std::vector<std::int32_t> run(std::string_view text, AddedTokens added) {
    if (added == AddedTokens::as_text) {
      normalize(text);
      if (!text_.empty()) split(subject_, 0);
      return std::move(out_);
    }
    const auto token = [&](std::int32_t id) { out_.push_back(id); };
    const auto is_word = [&](std::string_view character) {
      return tokenizer_.word_->is_in(character, scratch_);
    };
    const auto gap = [&](std::string_view part) {
      split(subject_.substr(offset(part, text_), part.size()), 0);
    };
    tokenizer_.raw_tokens_.cut(
        text, token,
        [&](std::string_view part) {
          normalize(part);
          tokenizer_.normalized_tokens_.cut(text_, token, gap, is_word);
        },
        is_word);
    return std::move(out_);
  }

 private:
  static std::size_t offset(std::string_view part, std::string_view whole) {
    return static_cast<std::size_t>(part.data() - whole.data());
  }

  /// What is to be encoded next.
  void normalize(std::string_view text) {
    if (tokenizer_.nfc_) text = normal_ = detail::nfc(text);
    text_ = subject_ = text;
    altered_.clear();
    // Differs: for PCRE2 \s includes U+180E, which Unicode has not counted as a space since 6.3 and
    // the reference does not. The regexes see U+200B in its place, equal in size and category.
    for (std::size_t at = 0; (at = text.find("\xE1\xA0\x8E", at)) != std::string_view::npos;
         at += 3) {
      if (altered_.empty()) altered_ = text;
      altered_.replace(at, 3, "\xE2\x80\x8B");
      subject_ = altered_;
    }
  }

  void split(std::string_view part, std::size_t level) {
    if (level == tokenizer_.splits_.size()) {
      return piece(text_.substr(offset(part, subject_), part.size()));
    }
    tokenizer_.splits_[level].split(part, scratch_,
                                    [&](std::string_view next) { split(next, level + 1); });
  }

  void piece(std::string_view text) {
    if (tokenizer_.ignore_merges_) {
      spelling_.clear();
      detail::append_spelling(spelling_, text);
      if (const auto id = tokenizer_.token_to_id(spelling_)) return out_.push_back(*id);
    }
    bytes_.clear();
    for (const char c : text) {
      bytes_.push_back(tokenizer_.byte_ids_[static_cast<unsigned char>(c)]);
    }
    merger_.merge(bytes_, out_);
  }

  const Tokenizer& tokenizer_;
  detail::RegexScratch scratch_;
  detail::Merger merger_;
  std::string_view text_;     // what is encoded
  std::string_view subject_;  // what the regexes see, of equal size
  std::string normal_;
  std::string altered_;
  std::string spelling_;
  std::vector<std::int32_t> bytes_;
  std::vector<std::int32_t> out_;
};

DS4_FUNCTION std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  return encode(text, AddedTokens::as_ids);
}

DS4_FUNCTION std::vector<std::int32_t> Tokenizer::encode_plain(std::string_view text) const {
  return encode(text, AddedTokens::as_text);
}

DS4_FUNCTION std::vector<std::int32_t> Tokenizer::encode(std::string_view text,
                                                         AddedTokens added) const {
  if (text.size() > std::numeric_limits<std::uint32_t>::max() / 3) {  // U+FFFD takes 3 bytes
    throw Error("encode", "expected a text below 1.4 GB, found one of " +
                              std::to_string(text.size()) + " bytes");
  }
  std::string repaired;
  if (detail::utf8_valid_length(text) != text.size()) {
    detail::append_utf8(repaired, text);
    text = repaired;
  }
  return Encoder(*this, text.size()).run(text, added);
}

DS4_FUNCTION std::string Tokenizer::decode(std::span<const std::int32_t> ids,
                                           bool skip_special) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const Token& next = token(id);
    if (!(skip_special && next.special)) bytes += next.bytes;
  }
  if (detail::utf8_valid_length(bytes) == bytes.size()) return bytes;
  std::string out;
  detail::append_utf8(out, bytes);
  return out;
}

DS4_FUNCTION const std::string& Tokenizer::token_bytes(std::int32_t id) const {
  return token(id).bytes;
}

DS4_FUNCTION bool Tokenizer::is_special(std::int32_t id) const { return token(id).special; }

DS4_FUNCTION std::vector<std::int32_t> Tokenizer::ids_without_token(std::size_t size) const {
  std::vector<std::int32_t> ids;
  for (std::size_t id = 0; id < size; ++id) {
    if (id >= tokens_.size() || tokens_[id].bytes.empty()) {
      ids.push_back(static_cast<std::int32_t>(id));
    }
  }
  return ids;
}

DS4_FUNCTION std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view content) const {
  const auto found = ids_.find(content);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

DS4_FUNCTION const Tokenizer::Token& Tokenizer::token(std::int32_t id) const {
  static const Token kNone;
  // A negative id is huge as an unsigned one.
  const auto index = static_cast<std::size_t>(static_cast<std::uint32_t>(id));
  return index < tokens_.size() ? tokens_[index] : kNone;
}

DS4_FUNCTION Tokenizer Tokenizer::load(const std::filesystem::path& dir_or_file) {
  std::error_code ignored;
  const bool is_dir = std::filesystem::is_directory(dir_or_file, ignored);
  const detail::TokenizerFileReader reader(is_dir ? dir_or_file / "tokenizer.json" : dir_or_file);
  const detail::TokenizerFile file = reader.read();
  Tokenizer out;
  out.nfc_ = file.nfc;
  out.add_vocab(file, reader);
  out.add_merges(file, reader);
  out.add_added_tokens(file, reader);
  for (std::size_t i = 0; i < file.split_patterns.size(); ++i) {
    const std::string field =
        "pre_tokenizer.pretokenizers[" + std::to_string(i) + "].pattern.Regex";
    out.splits_.emplace_back(file.split_patterns[i], reader.file(), field);
  }
  out.ignore_merges_ = file.ignore_merges;
  return out;
}

DS4_FUNCTION void Tokenizer::add_vocab(const detail::TokenizerFile& file,
                                       const detail::TokenizerFileReader& reader) {
  // Once, to the size that it takes in the end: a single large id makes a large table.
  std::size_t size = 0;
  const auto grow = [&](std::int32_t id) {
    size = std::max(size, static_cast<std::size_t>(id) + 1);
  };
  for (const auto& [spelling, id] : file.vocab) grow(id);
  for (const detail::AddedToken& added : file.added_tokens) grow(added.id);
  tokens_.resize(size);
  ids_.reserve(file.vocab.size() + file.added_tokens.size());
  for (const auto& [spelling, id] : file.vocab) {
    const auto index = static_cast<std::size_t>(id);
    if (!tokens_[index].bytes.empty()) {
      reader.refuse("model.vocab[" + reader.quote(spelling) + "]", "an id of its own",
                    std::to_string(id) + " a second time");
    }
    tokens_[index].bytes = detail::unspell(spelling);
    ids_.emplace(spelling, id);
  }
  // With these, every text has ids.
  for (std::size_t b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    std::string spelling;
    detail::append_spelling(spelling, {&byte, 1});
    const auto id = token_to_id(spelling);
    if (!id) reader.refuse("model.vocab", "a token for each byte", "none for " + std::to_string(b));
    byte_ids_[b] = *id;
  }
}

DS4_FUNCTION void Tokenizer::add_merges(const detail::TokenizerFile& file,
                                        const detail::TokenizerFileReader& reader) {
  const auto field = [](std::size_t rank) { return "model.merges[" + std::to_string(rank) + "]"; };
  std::vector<detail::Merge> merges;
  merges.reserve(file.merges.size());
  for (const auto& [left, right] : file.merges) {
    const auto find = [&](const std::string& spelling) {
      const auto id = token_to_id(spelling);
      if (id) return *id;
      reader.refuse(field(merges.size()), "tokens of the vocabulary", reader.quote(spelling));
    };
    merges.push_back({find(left), find(right), find(left + right)});
  }
  merges_ = detail::MergeTable(std::move(merges), tokens_.size());
  if (const auto rank = merges_.duplicate()) {
    reader.refuse(field(*rank), "a new pair", "one that an earlier merge has");
  }
}

namespace detail {

/// \w as the reference has it: alphabetic characters, marks, decimal digits, connectors such as the
/// underscore, and the joiners; the ranges are letters in circles and squares.
inline constexpr std::string_view kWordCharacter =
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}]";

}  // namespace detail

DS4_FUNCTION void Tokenizer::add_added_tokens(const detail::TokenizerFile& file,
                                              const detail::TokenizerFileReader& reader) {
  std::vector<detail::AddedToken> raw;
  std::vector<detail::AddedToken> normalized;
  std::unordered_set<std::string_view> contents;
  for (std::size_t i = 0; i < file.added_tokens.size(); ++i) {
    const detail::AddedToken& added = file.added_tokens[i];
    const std::string field = "added_tokens[" + std::to_string(i) + "]";
    if (!contents.insert(added.content).second) {
      reader.refuse(field + ".content", "each token once", reader.quote(added.content) + " twice");
    }
    const auto index = static_cast<std::size_t>(added.id);
    // A token may stand in both lists, then with one id.
    const auto known = ids_.find(added.content);
    if (known == ids_.end() ? !tokens_[index].bytes.empty() : known->second != added.id) {
      reader.refuse(field + ".id", "the id of " + reader.quote(added.content) + " alone",
                    std::to_string(added.id));
    }
    // Differs: for a token of this list alone the reference reads the content as a spelling.
    if (known == ids_.end()) tokens_[index].bytes = added.content;
    tokens_[index].special = added.special;
    ids_.emplace(added.content, added.id);
    auto& list = added.normalized ? normalized : raw;
    list.push_back(added);
    if (added.normalized && nfc_) list.back().content = detail::nfc(added.content);
    if (added.single_word && !word_) word_.emplace(detail::kWordCharacter, reader.file(), field);
  }
  raw_tokens_ = detail::AddedTokenFinder(std::move(raw));
  normalized_tokens_ = detail::AddedTokenFinder(std::move(normalized));
}

}  // namespace ds4::inline v0_1
