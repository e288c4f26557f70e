// The release's chat encoding: messages to token ids, and a generated turn to its parts.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/text/tokenizer.hpp>

namespace ds4::inline v0_1 {

/// Who says something.
enum class ChatRole : std::uint8_t { system, user, assistant };

/// One message of a chat, without any special token.
struct ChatMessage {
  ChatRole role = ChatRole::user;  ///< who says it
  std::string content;             ///< what is said
  std::string reasoning = {};      ///< of an assistant that thought first
};

/// How the next turn is asked for.
struct ChatOptions {
  bool thinking = true;  ///< the assistant reasons before it answers
  bool tools = false;    ///< tools are in use, so earlier reasoning is kept
};

/// The ids that structure a chat. Source: model.md 12.
struct ChatTokens {
  std::int32_t begin = 0;      ///< begin of sequence
  std::int32_t end = 0;        ///< end of an assistant's turn
  std::int32_t user = 0;       ///< in front of a user's text
  std::int32_t assistant = 0;  ///< in front of an assistant's turn
  std::int32_t think = 0;      ///< begin of the reasoning
  std::int32_t end_think = 0;  ///< end of the reasoning
};

/// The tokens of the chat encoding that a tokenizer does not have; with all of them it can chat.
inline std::vector<std::string_view> missing_chat_tokens(const Tokenizer& tokenizer);

/// Encodes chats. Special tokens come from their ids alone: a text that spells one stays a text.
/// Keeps a reference to the tokenizer. Source: model.md 12.
class ChatEncoding {
 public:
  /// Throws Error that names the tokens which the tokenizer lacks.
  explicit ChatEncoding(const Tokenizer& tokenizer);
  explicit ChatEncoding(Tokenizer&&) = delete;  // it would not live long enough

  /// The encoding's own tokens.
  const ChatTokens& tokens() const { return tokens_; }
  /// What text is encoded with.
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  /// The ids of a whole chat. A user's messages in a row are one turn, with an empty line between
  /// them. Behind a user's message at its end stands what asks for the answer.
  /// Reasoning in front of the last user message is dropped unless tools are in use; without
  /// thinking there is none at all. Throws Error for a system message that is not the first one,
  /// and for an assistant's that does not follow a user's.
  std::vector<std::int32_t> encode(std::span<const ChatMessage> messages,
                                   ChatOptions options = {}) const;

  // The parts of it, for a chat that grows turn by turn: opening, then any number of user_turn
  // and assistant_turn.

  /// The beginning of a chat, with the system text or none.
  std::vector<std::int32_t> opening(std::string_view system) const;
  /// A user's message and what asks for the answer; the last id is \<think\> or \</think\>.
  std::vector<std::int32_t> user_turn(std::string_view text, bool thinking) const;
  /// An earlier answer whose reasoning is dropped, behind the assistant token: \</think\>, its
  /// content as it was generated, and the end.
  std::vector<std::int32_t> assistant_turn(std::span<const std::int32_t> content) const;

 private:
  void append(std::vector<std::int32_t>& ids, std::string_view text) const {
    const auto more = tokenizer_->encode_plain(text);
    ids.insert(ids.end(), more.begin(), more.end());
  }

  const Tokenizer* tokenizer_;
  ChatTokens tokens_;
};

/// Splits a turn, as it is generated token by token, into reasoning and content. Keeps a reference
/// to the encoding's tokenizer.
class TurnReader {
 public:
  /// Text that became complete, always valid UTF-8.
  struct Text {
    std::string reasoning;  ///< inside of the think tags
    std::string content;    ///< the answer
  };

  /// A turn behind user_turn(text, thinking).
  TurnReader(const ChatEncoding& encoding, bool thinking)
      : tokens_(encoding.tokens()), decoder_(encoding.tokenizer()), in_reasoning_(thinking) {}

  /// Takes the next id. Only the first \</think\> of a turn that thinks ends the reasoning. What
  /// follows the end token does not count.
  Text push(std::int32_t id);
  /// What is still held back of an unfinished character; for a turn that is cut off.
  Text finish() { return add(decoder_.finish()); }

  /// Whether what comes next is reasoning.
  bool in_reasoning() const { return in_reasoning_; }
  bool ended() const { return ended_; }  ///< the end token has come
  /// What was read so far.
  const ChatMessage& message() const { return message_; }
  /// The ids of its content.
  const std::vector<std::int32_t>& content() const { return content_; }

 private:
  Text add(std::string text);

  ChatTokens tokens_;
  StreamDecoder decoder_;
  bool in_reasoning_;
  bool ended_ = false;
  ChatMessage message_{ChatRole::assistant, {}};
  std::vector<std::int32_t> content_;
};

namespace detail {

/// The spelling of every member of ChatTokens.
inline constexpr std::array<std::pair<std::string_view, std::int32_t ChatTokens::*>, 6> kChatTokens{
    {{"<｜begin▁of▁sentence｜>", &ChatTokens::begin},
     {"<｜end▁of▁sentence｜>", &ChatTokens::end},
     {"<｜User｜>", &ChatTokens::user},
     {"<｜Assistant｜>", &ChatTokens::assistant},
     {"<think>", &ChatTokens::think},
     {"</think>", &ChatTokens::end_think}}};

}  // namespace detail

inline std::vector<std::string_view> missing_chat_tokens(const Tokenizer& tokenizer) {
  std::vector<std::string_view> missing;
  for (const auto& [spelling, member] : detail::kChatTokens) {
    if (!tokenizer.token_to_id(spelling)) missing.push_back(spelling);
  }
  return missing;
}

inline ChatEncoding::ChatEncoding(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {
  std::string missing;
  for (const std::string_view token : missing_chat_tokens(tokenizer)) {
    missing.append(missing.empty() ? "" : ", ").append(token);
  }
  if (!missing.empty()) {
    throw Error("tokenizer", "expected the tokens of the chat encoding, found no " + missing);
  }
  for (const auto& [spelling, member] : detail::kChatTokens) {
    const std::int32_t id = tokenizer.token_to_id(spelling).value_or(-1);  // none is missing
    if (std::ranges::count(tokenizer.encode_plain(spelling), id) != 0) {
      throw Error("tokenizer", "expected " + std::string(spelling) +
                                   " as an added token, found one that texts contain");
    }
    tokens_.*member = id;
  }
}

inline std::vector<std::int32_t> ChatEncoding::encode(std::span<const ChatMessage> messages,
                                                      ChatOptions options) const {
  const auto is = [&](std::size_t i, ChatRole role) {
    return i < messages.size() && messages[i].role == role;
  };
  std::size_t last_user = 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (is(i, ChatRole::user)) last_user = i;
    if (is(i, ChatRole::system) && i > 0) {
      throw Error("message " + std::to_string(i),
                  "found a system message, expected one only as the first");
    }
    if (is(i, ChatRole::assistant) && (i == 0 || !is(i - 1, ChatRole::user))) {
      throw Error("message " + std::to_string(i),
                  "found an assistant's message, expected it behind a user's");
    }
  }

  std::vector<std::int32_t> ids{tokens_.begin};
  std::string turn;  // a user's texts, which are encoded in one piece: tokens reach across the seam
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == ChatRole::system) {
      append(ids, message.content);
    } else if (message.role == ChatRole::user) {
      turn += message.content;
      if (is(i + 1, ChatRole::user)) {
        turn += "\n\n";
        continue;
      }
      ids.push_back(tokens_.user);
      append(ids, std::exchange(turn, {}));
      ids.push_back(tokens_.assistant);
      const bool thinks = options.thinking && (options.tools || i == last_user);
      ids.push_back(thinks ? tokens_.think : tokens_.end_think);
      if (thinks && is(i + 1, ChatRole::assistant)) {
        append(ids, messages[i + 1].reasoning);
        ids.push_back(tokens_.end_think);
      }
    } else {
      append(ids, message.content);
      ids.push_back(tokens_.end);
    }
  }
  return ids;
}

inline std::vector<std::int32_t> ChatEncoding::opening(std::string_view system) const {
  std::vector<std::int32_t> ids{tokens_.begin};
  append(ids, system);
  return ids;
}

inline std::vector<std::int32_t> ChatEncoding::user_turn(std::string_view text,
                                                         bool thinking) const {
  std::vector<std::int32_t> ids{tokens_.user};
  append(ids, text);
  ids.push_back(tokens_.assistant);
  ids.push_back(thinking ? tokens_.think : tokens_.end_think);
  return ids;
}

inline std::vector<std::int32_t> ChatEncoding::assistant_turn(
    std::span<const std::int32_t> content) const {
  std::vector<std::int32_t> ids{tokens_.end_think};
  ids.insert(ids.end(), content.begin(), content.end());
  ids.push_back(tokens_.end);
  return ids;
}

inline TurnReader::Text TurnReader::push(std::int32_t id) {
  if (ended_) return {};
  if (id == tokens_.end || (id == tokens_.end_think && in_reasoning_)) {
    Text rest = add(decoder_.finish());
    (id == tokens_.end ? ended_ : in_reasoning_) = id == tokens_.end;
    return rest;
  }
  if (!in_reasoning_) content_.push_back(id);
  return add(decoder_.push(id));
}

inline TurnReader::Text TurnReader::add(std::string text) {
  Text out;
  (in_reasoning_ ? message_.reasoning : message_.content) += text;
  (in_reasoning_ ? out.reasoning : out.content) = std::move(text);
  return out;
}

}  // namespace ds4::inline v0_1
