// The releases' chat encoding: messages to token ids.
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
#include <ds4/text/chat_message.hpp>
#include <ds4/text/chat_texts.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>

namespace ds4::inline v0_1 {

namespace detail {
class PromptBuilder;
}  // namespace detail

/// The ids that structure a chat. Source: model.md 12.
struct ChatTokens {
  std::int32_t begin = 0;      ///< begin of sequence
  std::int32_t end = 0;        ///< end of an assistant's turn
  std::int32_t user = 0;       ///< in front of a user's text
  std::int32_t assistant = 0;  ///< in front of an assistant's turn
  std::int32_t think = 0;      ///< begin of the reasoning
  std::int32_t end_think = 0;  ///< end of the reasoning
  ///@{
  /// Those that a tokenizer may lack are then -1: the mark of tool calls, and what is in front of a
  /// reminder and behind a message with a task, by ChatTask.
  std::int32_t dsml = -1;
  std::int32_t latest_reminder = -1;
  std::array<std::int32_t, 7> tasks{-1, -1, -1, -1, -1, -1, -1};
  ///@}
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

  /// The ids of a whole chat, and of what asks for the next turn. Consecutive messages of a user
  /// and of tools are one turn, with an empty line between them, the results in the order of the
  /// calls. Reasoning in front of the last user or developer message is dropped unless there are
  /// tools or it is to be kept, and so are developer messages there; without thinking there is none
  /// at all. Takes what the release takes: any order of roles, an answer at the end. Throws
  /// ds4::Error for a developer message without content, for JSON of a tool or a schema that is
  /// none, for a token that the tokenizer lacks, and for a required call where it thinks.
  std::vector<std::int32_t> encode(std::span<const ChatMessage> messages,
                                   const ChatOptions& options = {}) const;

 private:
  /// An answer, with what opens it where `opens`, with its reasoning where `thought`.
  void add_answer(detail::PromptBuilder& prompt, const ChatMessage& message, bool thought,
                  bool opens) const;
  /// "\n\n<｜DSML｜tool_calls>..." of some calls, and what comes behind a system text or a
  /// developer's.
  void add_calls(detail::PromptBuilder& prompt, std::span<const ToolCall> calls) const;
  void add_tools(detail::PromptBuilder& prompt, const ChatTools& tools) const;

  const Tokenizer* tokenizer_;
  ChatTokens tokens_;
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

///@{
/// That of the tokens which a tokenizer may lack; the tasks by ChatTask.
inline constexpr std::string_view kDsmlToken = "｜DSML｜";
inline constexpr std::string_view kReminderToken = "<｜latest_reminder｜>";
inline constexpr std::array<std::string_view, 7> kTaskTokens{"",
                                                             "<｜action｜>",
                                                             "<｜query｜>",
                                                             "<｜authority｜>",
                                                             "<｜domain｜>",
                                                             "<｜title｜>",
                                                             "<｜read_url｜>"};
///@}

/// A prompt as it grows: plain texts are encoded in one piece from one special token to the next,
/// as tokens reach across the seams of texts.
class PromptBuilder {
 public:
  explicit PromptBuilder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void text(std::string_view more) { plain_ += more; }
  /// A special token; -1 is one that the tokenizer lacks.
  void token(std::int32_t id, std::string_view spelling) {
    if (id < 0) throw Error("tokenizer", "expected " + std::string(spelling) + ", found none");
    flush();
    ids_.push_back(id);
  }
  /// Ids in place of a text.
  void ids(std::span<const std::int32_t> more) {
    flush();
    ids_.insert(ids_.end(), more.begin(), more.end());
  }
  std::vector<std::int32_t> take() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    const auto more = tokenizer_.encode_plain(plain_);
    ids_.insert(ids_.end(), more.begin(), more.end());
    plain_.clear();
  }

  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::string plain_;
};

/// A message with the results and texts of a user's turn put together.
struct ChatTurn {
  const ChatMessage* message;  ///< the last one of it
  ChatRole role;               ///< a tool is a user
  std::string text;
};
std::vector<ChatTurn> chat_turns(std::span<const ChatMessage> messages);

/// The number of the last turn of a user or developer; none: that behind all.
inline std::size_t last_asking(const std::vector<ChatTurn>& turns) {
  std::size_t last = turns.size();
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == ChatRole::user || turns[i].role == ChatRole::developer) last = i;
  }
  return last;
}

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
  const auto optional = [&](std::string_view spelling) {
    return tokenizer.token_to_id(spelling).value_or(-1);
  };
  tokens_.dsml = optional(detail::kDsmlToken);
  tokens_.latest_reminder = optional(detail::kReminderToken);
  for (std::size_t i = 1; i < tokens_.tasks.size(); ++i) {
    tokens_.tasks[i] = optional(detail::kTaskTokens[i]);
  }
}

namespace detail {

inline std::vector<ChatTurn> chat_turns(std::span<const ChatMessage> messages) {
  std::vector<ChatTurn> turns;
  const ChatMessage* calls = nullptr;  // the assistant's message that results are of
  for (std::size_t i = 0; i < messages.size();) {
    const ChatMessage& first = messages[i];
    if (first.role != ChatRole::user && first.role != ChatRole::tool) {
      if (first.role == ChatRole::assistant && !first.calls.empty()) calls = &first;
      turns.push_back({&first, first.role, first.content});
      ++i;
      continue;
    }
    // The blocks of a turn; results trade places among themselves, by the order of their calls.
    std::vector<std::string> blocks;
    std::vector<std::size_t> places;                           // of results, among the blocks
    std::vector<std::pair<std::size_t, std::size_t>> results;  // the call's number, the message's
    const ChatMessage* last = nullptr;
    while (i < messages.size() && (last == nullptr || last->task == ChatTask::none)) {
      const ChatMessage& message = messages[i];
      if (message.role != ChatRole::user && message.role != ChatRole::tool) break;
      if (message.role == ChatRole::tool) {
        std::size_t number = 0;
        for (std::size_t c = 0; calls != nullptr && c < calls->calls.size(); ++c) {
          if (!message.call_id.empty() && calls->calls[c].id == message.call_id) number = c;
        }
        places.push_back(blocks.size());
        results.emplace_back(number, i);
      }
      blocks.push_back(message.content);
      last = &message;
      ++i;
    }
    std::ranges::sort(results);
    for (std::size_t r = 0; r < results.size(); ++r) {
      blocks[places[r]] = "<tool_result>" + messages[results[r].second].content + "</tool_result>";
    }
    std::string text;
    for (const std::string& block : blocks)
      text.append(&block == blocks.data() ? "" : "\n\n").append(block);
    turns.push_back({last, ChatRole::user, std::move(text)});
  }
  return turns;
}

}  // namespace detail

inline void ChatEncoding::add_calls(detail::PromptBuilder& prompt,
                                    std::span<const ToolCall> calls) const {
  const auto mark = [&](std::string_view in_front, std::string_view behind) {
    prompt.text(in_front);
    prompt.token(tokens_.dsml, detail::kDsmlToken);
    prompt.text(behind);
  };
  mark("\n\n<", "tool_calls>\n");
  for (const ToolCall& call : calls) {
    mark(&call == calls.data() ? "<" : "\n<", "invoke name=\"");
    prompt.text(call.name);
    prompt.text("\">\n");
    PythonJson arguments;
    try {
      arguments = PythonJson::parse(call.arguments);
    } catch (const Error&) {  // one argument, below
      arguments.kind = PythonJson::Kind::scalar;
    }
    if (arguments.kind != PythonJson::Kind::object) {
      arguments = {PythonJson::Kind::object,
                   {},
                   {"arguments"},
                   {{PythonJson::Kind::string, call.arguments, {}, {}}}};
    }
    for (std::size_t i = 0; i < arguments.items.size(); ++i) {
      const PythonJson& value = arguments.items[i];
      const bool string = value.kind == PythonJson::Kind::string;
      mark(i == 0 ? "<" : "\n<", "parameter name=\"");
      prompt.text(arguments.names[i]);
      prompt.text(string ? "\" string=\"true\">" : "\" string=\"false\">");
      prompt.text(string ? value.text : value.dump());
      mark("</", "parameter>");
    }
    mark("\n</", "invoke>");
  }
  mark("\n</", "tool_calls>");
}

inline void ChatEncoding::add_tools(detail::PromptBuilder& prompt, const ChatTools& tools) const {
  if (!tools.functions.empty()) {
    prompt.text("\n\n");
    // Marks and tags in the text are tokens.
    std::string_view rest = detail::kToolsHead;
    while (!rest.empty()) {
      std::size_t at = rest.size();
      std::size_t length = 0;
      std::int32_t id = 0;
      for (const auto& [spelling, token] :
           {std::pair{detail::kDsmlToken, tokens_.dsml},
            std::pair{std::string_view("<think>"), tokens_.think},
            std::pair{std::string_view("</think>"), tokens_.end_think}}) {
        const std::size_t found = rest.find(spelling);
        if (found >= at) continue;
        at = found;
        length = spelling.size();
        id = token;
      }
      prompt.text(rest.substr(0, at));
      if (length > 0) prompt.token(id, detail::kDsmlToken);
      rest.remove_prefix(at + length);
    }
    for (std::size_t i = 0; i < tools.functions.size(); ++i) {
      if (i > 0) prompt.text("\n");
      prompt.text(PythonJson::parse(tools.functions[i]).dump());
    }
    prompt.text(detail::kToolsTail);
  }
  if (!tools.schema.empty()) {
    prompt.text("\n\n");
    prompt.text(detail::kSchemaHead);
    prompt.text(PythonJson::parse(tools.schema).dump());
  } else if (tools.json_object) {
    prompt.text("\n\n");
    prompt.text(detail::kJsonObject);
  }
}

inline void ChatEncoding::add_answer(detail::PromptBuilder& prompt, const ChatMessage& message,
                                     bool thought, bool opens) const {
  const auto token = [&](std::int32_t id) { prompt.token(id, "a token"); };
  const auto add = [&](const std::string& text, std::span<const std::int32_t> ids) {
    ids.empty() ? prompt.text(text) : prompt.ids(ids);
  };
  if (opens) {
    token(tokens_.assistant);
    token(thought ? tokens_.think : tokens_.end_think);
  }
  if (thought) {
    add(message.reasoning, message.reasoning_ids);
    const bool answers = !message.content.empty() || !message.calls.empty();
    if (opens && message.open && !answers) return;  // it goes on thinking
    token(tokens_.end_think);
  }
  add(message.content, message.answer_ids);
  if (message.answer_ids.empty() && !message.calls.empty()) add_calls(prompt, message.calls);
  if (!message.open) token(tokens_.end);
}

inline std::vector<std::int32_t> ChatEncoding::encode(std::span<const ChatMessage> messages,
                                                      const ChatOptions& options) const {
  if (options.call_required && options.thinking) {
    throw Error("call_required", "expected an assistant that does not think, found one that does");
  }
  std::vector<detail::ChatTurn> turns = detail::chat_turns(messages);
  const bool thinks = options.thinking;
  const bool keeps = options.keep_reasoning || !options.tools.functions.empty() ||
                     std::ranges::any_of(messages, [](const ChatMessage& message) {
                       return !message.tools.functions.empty();
                     });
  std::size_t last = detail::last_asking(turns);
  if (thinks && !keeps) {  // notes of a developer are of one question
    std::vector<detail::ChatTurn> kept;
    for (std::size_t i = 0; i < turns.size(); ++i) {
      const bool early = last < turns.size() && i < last;
      if (!early || turns[i].role != ChatRole::developer) kept.push_back(std::move(turns[i]));
    }
    turns = std::move(kept);
    last = detail::last_asking(turns);
  }

  detail::PromptBuilder prompt(*tokenizer_);
  const auto token = [&](std::int32_t id) { prompt.token(id, "a token"); };
  token(tokens_.begin);
  if (thinks && options.effort != ChatEffort::low) {
    const bool max = options.effort == ChatEffort::max;
    if (options.profile == EffortProfile::release) {
      prompt.text(max ? detail::kEffortMax : detail::kEffortHigh);
    } else if (max) {
      prompt.text(detail::kEffortHigh);
    }
  }
  bool has_tools = false;  // they are written
  if (std::ranges::none_of(turns, [](const auto& turn) { return turn.role == ChatRole::system; })) {
    add_tools(prompt, options.tools);
    has_tools = true;
  }
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const detail::ChatTurn& turn = turns[i];
    const bool late = keeps || last == turns.size() || i >= last;
    switch (turn.role) {
      case ChatRole::system:
        prompt.text(turn.text);
        if (!has_tools) add_tools(prompt, options.tools);
        has_tools = true;
        break;
      case ChatRole::developer:
        if (turn.text.empty()) {
          throw Error("message of a developer", "found no content, expected some");
        }
        token(tokens_.user);
        prompt.text(turn.text);
        add_tools(prompt, turn.message->tools);
        break;
      case ChatRole::latest_reminder:
        prompt.token(tokens_.latest_reminder, detail::kReminderToken);
        prompt.text(turn.text);
        break;
      case ChatRole::assistant:
        add_answer(
            prompt, *turn.message,
            thinks && (options.opens_answers
                           ? keeps || turn.message->open
                           : late && (i == 0 || turns[i - 1].message->task == ChatTask::none)),
            options.opens_answers);
        break;
      default:
        token(tokens_.user);
        prompt.text(turn.text);
    }
    if (options.opens_answers) continue;
    const bool is_last = i + 1 == turns.size();
    if (!is_last && turns[i + 1].role != ChatRole::assistant &&
        turns[i + 1].role != ChatRole::latest_reminder) {
      continue;
    }
    const bool asks = turn.role == ChatRole::user || turn.role == ChatRole::developer;
    const auto task = static_cast<std::size_t>(turn.message->task);
    if (turn.message->task == ChatTask::action || (task == 0 && asks)) {
      token(tokens_.assistant);
      token(thinks && (task > 0 || late) ? tokens_.think : tokens_.end_think);
    }
    if (task > 0) prompt.token(tokens_.tasks[task], detail::kTaskTokens[task]);
  }
  const bool goes_on = !turns.empty() && turns.back().message->open;
  if (options.opens_answers && !goes_on) {
    token(tokens_.assistant);
    token(thinks ? tokens_.think : tokens_.end_think);
  }
  if (options.call_required) {
    prompt.text("\n\n<");
    prompt.token(tokens_.dsml, detail::kDsmlToken);
    prompt.text("tool_calls>\n");
  }
  return prompt.take();
}

}  // namespace ds4::inline v0_1
