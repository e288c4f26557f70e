// A generated turn, id by id, as reasoning, content and tool calls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>

namespace ds4::inline v0_1 {

/// How a turn was asked for.
struct TurnOptions {
  bool thinking = true;   ///< it begins with reasoning
  bool tools = false;     ///< it may have calls; without, their markup is text
  bool in_calls = false;  ///< it begins inside of the calls' block: ChatOptions::call_required
  std::vector<std::string> stop = {};  ///< texts that end the content, and are not part of it
};

/// Why a turn is over.
enum class TurnEnd : std::uint8_t { stop, length, tool_calls };

/// Splits a turn, as it is generated token by token, into reasoning, content and calls. What comes
/// out does not depend on how the turn was cut into tokens, and nothing is held back that can be
/// told. Only the tokens themselves mark: spelled in plain text they are text. Keeps a reference to
/// the encoding's tokenizer. Source: model.md 12.5.
class TurnReader {
 public:
  /// More of a call.
  struct CallText {
    std::size_t index = 0;       ///< which one
    std::string name = {};       ///< of its function, whole, when the call begins
    std::string arguments = {};  ///< more of the JSON text
  };
  /// Text that became complete, always valid UTF-8.
  struct Text {
    std::string reasoning = {};        ///< inside of the think tags
    std::string content = {};          ///< the answer
    std::vector<CallText> calls = {};  ///< behind the content
  };

  /// A turn behind ChatEncoding::encode().
  TurnReader(const ChatEncoding& encoding, const TurnOptions& options)
      : TurnReader(encoding.tokenizer(), encoding.tokens(), options) {}
  /// One of a model that has not all tokens of the encoding: those that it lacks are -1.
  TurnReader(const Tokenizer& tokenizer, const ChatTokens& tokens, const TurnOptions& options)
      : tokens_(tokens),
        decoder_(tokenizer),
        options_(options),
        place_(options.in_calls   ? Place::block
               : options.thinking ? Place::reasoning
                                  : Place::content) {}
  /// The same without tools.
  TurnReader(const ChatEncoding& encoding, bool thinking)
      : TurnReader(encoding, TurnOptions{.thinking = thinking}) {}

  /// Takes the next id. What follows the end, which is the end token or a stop text, does not
  /// count.
  Text push(std::int32_t id);
  /// What is still held back; for a turn that is cut off.
  Text finish();

  /// Whether what comes next is reasoning.
  bool in_reasoning() const { return place_ == Place::reasoning; }
  /// Whether what comes next is content, or the beginning of calls.
  bool in_content() const { return place_ == Place::content; }
  bool ended() const { return ended_; }  ///< the end token has come, or a stop text
  /// What was read so far. Arguments are JSON unless the turn was cut off, or a value that is no
  /// string is none.
  const ChatMessage& message() const { return message_; }
  ///@{
  /// The ids of its reasoning, and those behind, without the end: ChatMessage::reasoning_ids and
  /// answer_ids. Of a turn that called a tool while it was thinking there are none behind.
  const std::vector<std::int32_t>& reasoning_ids() const { return reasoning_ids_; }
  const std::vector<std::int32_t>& answer_ids() const { return answer_ids_; }
  ///@}
  /// message(), with these ids.
  ChatMessage message_with_ids() const {
    ChatMessage message = message_;
    message.reasoning_ids = reasoning_ids_;
    message.answer_ids = answer_ids_;
    return message;
  }
  /// Why it is over, if it was not cut off.
  TurnEnd end() const { return message_.calls.empty() ? TurnEnd::stop : TurnEnd::tool_calls; }

 private:
  // Where in the grammar what comes next is: behind the block nothing counts any more.
  enum class Place : std::uint8_t { reasoning, content, block, name, key, flag, value, behind };
  // Stands for the mark of calls in texts: no valid UTF-8 has it.
  static constexpr char kMark = '\xff';

  Text take(std::string_view more, bool last);
  /// Reads on from one place of the grammar; false if it takes more text to do so.
  bool step(bool last);
  bool read_text(bool last);
  bool read_between();
  bool read_name();
  bool read_key();
  bool read_flag();
  bool read_value(bool last);

  void put(std::string_view text);
  void put_content(std::string_view text, bool last);
  void put_arguments(std::string_view text);
  void close_call();
  std::string_view rest() const { return std::string_view(pending_).substr(read_); }
  static std::string shown(std::string_view text);

  ChatTokens tokens_;
  StreamDecoder decoder_;
  TurnOptions options_;
  Place place_;
  bool ended_ = false;
  ChatMessage message_{ChatRole::assistant, {}};
  std::vector<std::int32_t> reasoning_ids_;
  std::vector<std::int32_t> answer_ids_;
  bool called_in_reasoning_ = false;
  std::string pending_;   // text that is not read
  std::size_t read_ = 0;  // of it
  std::string held_;      // content that may be the beginning of a stop text
  bool call_open_ = false;
  bool has_arguments_ = false;  // of the open call
  bool string_ = false;         // the open value is one
  Text out_;
};

inline TurnReader::Text TurnReader::push(std::int32_t id) {
  if (ended_) return {};
  if (id == tokens_.end) {
    Text text = take(decoder_.finish(), true);
    ended_ = true;
    return text;
  }
  const bool thought = place_ == Place::reasoning;
  if (id == tokens_.end_think && id >= 0 && (thought || place_ == Place::content)) {
    Text text = take(decoder_.finish(), thought);
    if (place_ == Place::reasoning) place_ = Place::content;
    if (!thought) answer_ids_.push_back(id);
    return text;
  }
  if (thought) {
    reasoning_ids_.push_back(id);
  } else if (!called_in_reasoning_) {
    answer_ids_.push_back(id);
  }
  if (id == tokens_.dsml && id >= 0) {
    const char mark[] = {kMark};
    Text text = take(decoder_.finish() + std::string(mark, 1), false);
    called_in_reasoning_ = called_in_reasoning_ || (thought && place_ == Place::block);
    return text;
  }
  return take(decoder_.push(id), false);
}

inline TurnReader::Text TurnReader::finish() {
  return ended_ ? Text() : take(decoder_.finish(), true);
}

inline TurnReader::Text TurnReader::take(std::string_view more, bool last) {
  pending_ += more;
  while (!ended_ && step(last)) {
  }
  pending_.erase(0, read_);
  read_ = 0;
  if (last && !ended_) put_content({}, true);
  return std::exchange(out_, {});
}

inline bool TurnReader::step(bool last) {
  switch (place_) {
    case Place::reasoning:
    case Place::content:
      return read_text(last);
    case Place::block:
      return read_between();
    case Place::name:
      return read_name();
    case Place::key:
      return read_key();
    case Place::flag:
      return read_flag();
    case Place::value:
      return read_value(last);
    case Place::behind:
      read_ = pending_.size();
  }
  return false;
}

// A block begins at "<" and the mark. Up to two newlines in front of it are its own.
inline bool TurnReader::read_text(bool last) {
  const std::string_view text = rest();
  constexpr std::size_t kNewlines = 2;
  const auto without_newlines = [&](std::size_t end) {
    for (std::size_t n = 0; n < kNewlines && end > 0 && text[end - 1] == '\n'; ++n) --end;
    return end;
  };
  if (options_.tools) {
    const char opening[] = {'<', kMark};
    const std::size_t at = text.find(std::string_view(opening, 2));
    if (at != text.npos) {
      put(text.substr(0, without_newlines(at)));
      if (ended_) return false;
      put_content({}, true);
      read_ += at + 2;
      place_ = Place::block;
      return true;
    }
  }
  std::size_t ready = text.size();
  if (!last && options_.tools) {
    if (ready > 0 && text[ready - 1] == '<') --ready;
    ready = without_newlines(ready);
  }
  put(text.substr(0, ready));
  read_ += ready;
  return false;
}

// Between tags: what is none is skipped.
inline bool TurnReader::read_between() {
  const std::string_view text = rest();
  constexpr std::string_view kInvoke = "invoke name=\"";
  constexpr std::string_view kParameter = "parameter name=\"";
  const std::size_t at = text.find(kMark);
  if (at == text.npos) {
    // The slash of a closing tag is in front of its mark.
    if (!text.empty()) read_ += text.size() - 1;
    return false;
  }
  const std::string_view tag = text.substr(at + 1);
  if (at > 0 && text[at - 1] == '/') {
    const std::size_t end = tag.find('>');
    if (end == tag.npos) return false;
    const std::string_view name = tag.substr(0, end);
    if (name == "invoke") {
      close_call();
    } else if (name != "parameter") {
      close_call();
      place_ = Place::behind;
    }
    read_ += at + 1 + end + 1;
    return true;
  }
  for (const auto& [start, next] :
       {std::pair{kInvoke, Place::name}, std::pair{kParameter, Place::key}}) {
    if (tag.size() < start.size() && start.starts_with(tag)) return false;  // may still become it
    if (!tag.starts_with(start) || (next == Place::key && !call_open_)) continue;
    read_ += at + 1 + start.size();
    place_ = next;
    if (next == Place::key) {
      put_arguments(has_arguments_ ? ", \"" : "{\"");
      has_arguments_ = true;
    }
    return true;
  }
  read_ += at + 1;
  return true;
}

inline bool TurnReader::read_name() {
  const std::string_view text = rest();
  const std::size_t end = text.find('"');
  if (end == text.npos) return false;
  close_call();
  call_open_ = true;
  has_arguments_ = false;
  const std::string name = shown(text.substr(0, end));
  out_.calls.push_back({message_.calls.size(), name, {}});
  message_.calls.push_back({{}, name, {}});
  read_ += end + 1;
  place_ = Place::block;
  return true;
}

inline bool TurnReader::read_key() {
  const std::string_view text = rest();
  const std::size_t end = text.find('"');
  std::string characters;
  append_json_characters(characters, shown(text.substr(0, std::min(end, text.size()))));
  put_arguments(characters);
  read_ += std::min(end, text.size());
  if (end == text.npos) return false;
  put_arguments("\": ");
  ++read_;
  place_ = Place::flag;
  return true;
}

inline bool TurnReader::read_flag() {
  const std::string_view text = rest();
  const std::size_t end = text.find('>');
  if (end == text.npos) return false;
  string_ = text.substr(0, end).find("string=\"true\"") != text.npos;
  if (string_) put_arguments("\"");
  read_ += end + 1;
  place_ = Place::value;
  return true;
}

// A value ends at "</" and the mark, whatever it contains.
inline bool TurnReader::read_value(bool last) {
  const std::string_view text = rest();
  const char closing[] = {'<', '/', kMark};
  const std::size_t at = text.find(std::string_view(closing, 3));
  std::size_t ready = std::min(at, text.size());
  if (at == text.npos && !last) {
    if (text.ends_with("</")) {
      ready -= 2;
    } else if (text.ends_with("<")) {
      ready -= 1;
    }
  }
  const std::string value = shown(text.substr(0, ready));
  if (string_) {
    std::string characters;
    append_json_characters(characters, value);
    put_arguments(characters);
  } else {
    put_arguments(value);
  }
  read_ += ready;
  if (at == text.npos) return false;
  if (string_) put_arguments("\"");
  ++read_;  // the slash stays: what comes is the closing tag
  place_ = Place::block;
  return true;
}

inline void TurnReader::put(std::string_view text) {
  if (place_ == Place::content) return put_content(text, false);
  const std::string more = shown(text);
  message_.reasoning += more;
  out_.reasoning += more;
}

// The stop text that ends first ends the content.
inline void TurnReader::put_content(std::string_view text, bool last) {
  held_ += shown(text);
  std::size_t end = held_.npos;
  std::size_t begin = held_.npos;
  for (const std::string& stop : options_.stop) {
    const std::size_t at = stop.empty() ? held_.npos : held_.find(stop);
    if (at == held_.npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
      end = at + stop.size();
      begin = at;
    }
  }
  std::size_t ready = std::min(begin, held_.size());
  if (begin == held_.npos && !last) {
    std::size_t kept = 0;  // the longest end that a stop text begins with
    for (const std::string& stop : options_.stop) {
      for (std::size_t n = std::min(stop.size(), held_.size()); n > kept; --n) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) kept = n;
      }
    }
    ready -= kept;
  }
  message_.content.append(held_, 0, ready);
  out_.content.append(held_, 0, ready);
  held_.erase(0, ready);
  if (begin == held_.npos) return;
  held_.clear();
  ended_ = true;
}

inline void TurnReader::put_arguments(std::string_view text) {
  if (text.empty()) return;
  ToolCall& call = message_.calls.back();
  call.arguments += text;
  if (out_.calls.empty() || out_.calls.back().index + 1 != message_.calls.size()) {
    out_.calls.push_back({message_.calls.size() - 1, {}, {}});
  }
  out_.calls.back().arguments += text;
}

inline void TurnReader::close_call() {
  if (!call_open_) return;
  put_arguments(has_arguments_ ? "}" : "{}");
  call_open_ = false;
}

inline std::string TurnReader::shown(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == kMark) {
      out += detail::kDsmlToken;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace ds4::inline v0_1
