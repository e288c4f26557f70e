// The tokenizer: text to token ids and back, from a checkpoint's tokenizer.json.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/utf8.hpp>
#include <ds4/text/added_tokens.hpp>
#include <ds4/text/bpe.hpp>
#include <ds4/text/split_regex.hpp>

namespace ds4::inline v0_1 {

namespace detail {

struct TokenizerFile;
class TokenizerFileReader;

}  // namespace detail

/// Byte-level BPE as tokenizer.json describes it. A value: copies are independent. All queries are
/// const and write to nothing shared, so threads may use one object at the same time.
/// Source: model.md 8.
class Tokenizer {
 public:
  /// Reads tokenizer.json, given itself or the folder that holds it. Throws Error that names the
  /// field, what was expected and what was found if the file is malformed or asks for anything that
  /// is not supported.
  static Tokenizer load(const std::filesystem::path& dir_or_file);

  /// The ids of text. Special tokens spelled out in text become their ids; none is added, not even
  /// a begin-of-sequence token. Bytes that are not UTF-8 count as U+FFFD, one for each maximal
  /// ill-formed sequence. Takes any text below 1.4 GB; throws Error only if a regular expression of
  /// the file reaches a limit of PCRE2 on it. Characters newer than PCRE2's Unicode tables (14 in
  /// 10.42), or those of NFC (14), may be cut or composed otherwise than by the reference.
  std::vector<std::int32_t> encode(std::string_view text) const;

  /// The ids of text that may come from anybody: as encode(), but what is spelled like a special or
  /// other added token is encoded as the characters that it is. Throws as encode() does.
  std::vector<std::int32_t> encode_plain(std::string_view text) const;

  /// The text of ids, always valid UTF-8: what is not becomes U+FFFD, as in encode(). With
  /// skip_special, special tokens are left out. An id without a token yields nothing: models have
  /// more ids than their tokenizers, and may choose one.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  /// The bytes one token stands for, which may be part of a character; none if no token has the id.
  const std::string& token_bytes(std::int32_t id) const;

  /// Whether decode() can leave the token out.
  bool is_special(std::int32_t id) const;

  /// The ids from 0 to size - 1 that no token has, ascending: those that a model of this vocabulary
  /// size is not to choose; see SamplerOptions::never.
  std::vector<std::int32_t> ids_without_token(std::size_t size) const;

  /// The id of a token spelled as in tokenizer.json: special tokens as in text, others with each
  /// byte as a printable character (a space as U+0120).
  std::optional<std::int32_t> token_to_id(std::string_view content) const;

  /// Largest id + 1. Ids below it may have no token.
  std::size_t vocab_size() const { return tokens_.size(); }

 private:
  struct Token {
    std::string bytes;  // empty: no token has this id
    bool special = false;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  using Vocab = std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>>;
  class Encoder;
  enum class AddedTokens : bool { as_text, as_ids };

  Tokenizer() = default;
  std::vector<std::int32_t> encode(std::string_view text, AddedTokens added) const;
  void add_vocab(const detail::TokenizerFile& file, const detail::TokenizerFileReader& reader);
  void add_merges(const detail::TokenizerFile& file, const detail::TokenizerFileReader& reader);
  void add_added_tokens(const detail::TokenizerFile& file,
                        const detail::TokenizerFileReader& reader);
  const Token& token(std::int32_t id) const;

  std::vector<Token> tokens_;                 // by id
  Vocab ids_;                                 // by spelling
  std::array<std::int32_t, 256> byte_ids_{};  // the token of each single byte
  detail::MergeTable merges_;
  bool ignore_merges_ = false;              // a piece that is a token is not merged
  bool nfc_ = false;                        // texts are normalised
  std::vector<detail::SplitRegex> splits_;  // applied one inside the other
  std::optional<detail::SplitRegex> word_;  // a character of words, where added tokens ask
  detail::AddedTokenFinder raw_tokens_;     // not normalized: searched for first
  detail::AddedTokenFinder normalized_tokens_;
};

/// Turns a stream of ids into text, in pieces of whole characters: bytes of an unfinished character
/// wait for the next id. All pieces together are what Tokenizer::decode() gives. Keeps a reference
/// to the tokenizer.
class StreamDecoder {
 public:
  /// With skip_special, special tokens are left out.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}
  StreamDecoder(Tokenizer&&, bool = false) = delete;  // it would not live long enough

  /// The text that id completes, maybe none.
  std::string push(std::int32_t id) {
    const std::string& bytes = tokenizer_->token_bytes(id);
    std::string out;
    if (skip_special_ && tokenizer_->is_special(id)) return out;
    held_ += bytes;
    held_.erase(0, detail::append_utf8(out, held_, true));
    return out;
  }

  /// What is still held back, as U+FFFD. The decoder can then be used for another stream.
  std::string finish() {
    std::string out;
    detail::append_utf8(out, held_);
    held_.clear();
    return out;
  }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string held_;
};

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/text/tokenizer_definitions.hpp>
#endif
