// Answers in OpenAI's form: from tokens to JSON, whole or as events of a stream.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/utf8.hpp>
#include <ds4/serve/api_json.hpp>
#include <ds4/serve/chat_request.hpp>
#include <ds4/serve/completion_request.hpp>
#include <ds4/serve/scheduler.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/turn_reader.hpp>

namespace ds4::inline v0_1 {

/// What all parts of an answer have in common.
struct AnswerHead {
  std::string id = {};       ///< unique, behind "chatcmpl-" or "cmpl-"
  std::string model = {};    ///< as it was asked for
  std::int64_t created = 0;  ///< seconds since 1970
};

/// What an answer took.
struct Usage {
  ///@{
  /// Tokens: of the prompt, of these found in states, generated, and of these reasoning.
  std::size_t prompt = 0;
  std::size_t cached = 0;
  std::size_t completion = 0;
  std::size_t reasoning = 0;
  ///@}

  /// Adds that of another answer to the same prompt.
  void add(const Usage& other) {
    prompt = std::max(prompt, other.prompt);
    cached = std::max(cached, other.cached);
    completion += other.completion;
    reasoning += other.reasoning;
  }
  /// The member `usage`.
  std::string json() const {
    using namespace detail;
    return json_object(
        {{"prompt_tokens", json_number(prompt)},
         {"completion_tokens", json_number(completion)},
         {"total_tokens", json_number(prompt + completion)},
         {"prompt_tokens_details", json_object({{"cached_tokens", json_number(cached)}})},
         {"completion_tokens_details", json_object({{"reasoning_tokens", json_number(reasoning)}})},
         {"prompt_cache_hit_tokens", json_number(cached)},
         {"prompt_cache_miss_tokens", json_number(prompt - cached)}});
  }
};

/// An event of a stream: "data: {...}" and an empty line.
inline std::string event(std::string_view json) { return "data: " + std::string(json) + "\n\n"; }

namespace detail {

/// The spelling of a token in log-probabilities: bytes that are no UTF-8 as \xNN.
inline std::string token_text(std::string_view bytes) {
  if (utf8_valid_length(bytes) == bytes.size()) return std::string(bytes);
  std::string text;
  append_printable(text, bytes);
  return text;
}
inline std::string token_json(const Tokenizer& tokenizer, const TokenLogprob& token,
                              const std::optional<std::string>& likeliest) {
  const std::string& bytes = tokenizer.token_bytes(token.id);
  std::vector<std::string> numbers;
  for (const char c : bytes) numbers.push_back(json_number(int{static_cast<unsigned char>(c)}));
  return json_object({{"token", json_text(token_text(bytes))},
                      {"logprob", json_number(double{token.logprob})},
                      {"bytes", json_array(numbers)},
                      {"top_logprobs", likeliest.value_or("")}});
}
inline std::string token_json(const Tokenizer& tokenizer, const ServedToken& token) {
  std::vector<std::string> likeliest;
  likeliest.reserve(token.likeliest.size());
  for (const TokenLogprob& other : token.likeliest) {
    likeliest.push_back(token_json(tokenizer, other, std::nullopt));
  }
  return token_json(tokenizer, token.logprob, json_array(likeliest));
}

/// A part of an answer's stream, or a whole answer.
template <class Answer>
std::string answer_json(const AnswerHead& head, std::string_view object, const std::string& choices,
                        const std::string& usage) {
  return json_object({{"id", json_text(std::string(Answer::kPrefix) + head.id)},
                      {"object", json_text(object)},
                      {"created", json_number(head.created)},
                      {"model", json_text(head.model)},
                      {"choices", choices},
                      {"usage", usage}});
}
inline std::string one_choice(const std::string& choice) {
  return json_array(std::span(&choice, 1));
}

}  // namespace detail

/// One answer to a chat, token by token. Keeps a reference to the tokenizer.
class ChatAnswer {
 public:
  ///@{
  /// How ids begin; what a whole answer, and a part of a stream, are called.
  static constexpr std::string_view kPrefix = "chatcmpl-";
  static constexpr std::string_view kObject = "chat.completion";
  static constexpr std::string_view kPart = "chat.completion.chunk";
  ///@}

  /// Number `index` of the request's answers; tokens that the model lacks are -1.
  ChatAnswer(const Tokenizer& tokenizer, const ChatTokens& tokens, const ChatRequest& request,
             AnswerHead head, std::size_t index)
      : tokenizer_(&tokenizer),
        tokens_(tokens),
        reader_(tokenizer, tokens, turn_options(request)),
        head_(std::move(head)),
        index_(index),
        thinks_(turn_options(request).thinking),
        logprobs_(request.logprobs),
        streams_usage_(request.fields.include_usage) {}

  /// The first event of the stream: who speaks.
  std::string begin() const {
    return chunk(detail::json_object({{"role", detail::json_text("assistant")},
                                      {"content", detail::json_text("")}}),
                 "", "null");
  }
  /// Takes a token; the events of what became complete, maybe none.
  std::string push(const ServedToken& token) {
    const bool thought = reader_.in_reasoning();
    const bool answered = reader_.in_content();
    const TurnReader::Text text = reader_.push(token.id);
    closed_ = token.id == tokens_.end;
    if (thought && token.id != tokens_.end && token.id != tokens_.end_think) ++usage_.reasoning;
    ++usage_.completion;
    const bool is_markup =
        token.id == tokens_.end || token.id == tokens_.end_think || token.id == tokens_.dsml;
    if (logprobs_ && !is_markup && (thought || answered)) {
      (thought ? reasoning_logprobs_ : content_logprobs_)
          .push_back(detail::token_json(*tokenizer_, token));
    }
    return events(text);
  }
  /// Whether the turn is over: the end token has come, or a stop text.
  bool ended() const { return reader_.ended(); }

  /// Behind the last token: the events of what was held back, and of the end.
  std::string finish(const SequenceResult& result) {
    std::string text = events(reader_.finish());
    usage_.prompt = result.prompt_tokens;
    usage_.cached = result.cached_tokens;
    const bool cut = result.end != SequenceEnd::stop;
    finish_ = cut ? "length" : reader_.message().calls.empty() ? "stop" : "tool_calls";
    return text + chunk("{}", "", detail::json_text(finish_));
  }

  /// What it took.
  const Usage& usage() const { return usage_; }
  /// Whether the end token has come: message() is then what its ids say.
  bool closed() const { return closed_; }
  /// The turn, with the ids that it was generated as.
  ChatMessage message() const { return reader_.message_with_ids(); }

  /// Behind finish(): its element of the choices of an answer that is no stream.
  std::string choice() const {
    using namespace detail;
    const ChatMessage& message = reader_.message();
    std::vector<std::string> calls;
    calls.reserve(message.calls.size());
    for (std::size_t i = 0; i < message.calls.size(); ++i) {
      calls.push_back(call_json(i, message.calls[i].name, message.calls[i].arguments, false));
    }
    const std::string content =
        message.content.empty() && !calls.empty() ? json_null() : json_text(message.content);
    return json_object(
        {{"index", json_number(index_)},
         {"message",
          json_object({{"role", json_text("assistant")},
                       {"content", content},
                       {"reasoning_content", thinks_ ? json_text(message.reasoning) : ""},
                       {"tool_calls", calls.empty() ? "" : json_array(calls)}})},
         {"logprobs", logprobs_ ? logprobs_json(reasoning_logprobs_, content_logprobs_) : "null"},
         {"finish_reason", json_text(finish_)}});
  }

 private:
  std::string call_id(std::size_t call) const {
    return "call_" + head_.id + "_" + std::to_string(index_) + "_" + std::to_string(call);
  }
  /// A whole call, or one of a stream, which has an index.
  std::string call_json(std::size_t call, const std::string& name, const std::string& arguments,
                        bool streams) const {
    using namespace detail;
    return json_object({{"index", streams ? json_number(call) : ""},
                        {"id", json_text(call_id(call))},
                        {"type", json_text("function")},
                        {"function", json_object({{"name", json_text(name)},
                                                  {"arguments", json_text(arguments)}})}});
  }
  static std::string logprobs_json(std::span<const std::string> reasoning,
                                   std::span<const std::string> content) {
    using namespace detail;
    return json_object(
        {{"content", json_array(content)},
         {"reasoning_content", reasoning.empty() ? std::string() : json_array(reasoning)},
         {"refusal", json_null()}});
  }
  /// An event with a delta; its log-probabilities may be missing.
  std::string chunk(const std::string& delta, const std::string& logprobs,
                    const std::string& finish) const {
    using namespace detail;
    const std::string choice = json_object({{"index", json_number(index_)},
                                            {"delta", delta},
                                            {"logprobs", logprobs.empty() ? json_null() : logprobs},
                                            {"finish_reason", finish}});
    return event(answer_json<ChatAnswer>(head_, kPart, one_choice(choice),
                                         streams_usage_ ? json_null() : ""));
  }
  std::string events(const TurnReader::Text& text) {
    using namespace detail;
    std::string out;
    const auto add = [&](std::string_view name, const std::string& value) {
      std::string logprobs;
      if (logprobs_) {  // those that no event has told yet
        logprobs = logprobs_json(std::span(reasoning_logprobs_).subspan(told_reasoning_),
                                 std::span(content_logprobs_).subspan(told_content_));
        told_reasoning_ = reasoning_logprobs_.size();
        told_content_ = content_logprobs_.size();
      }
      out += chunk(json_object({{name, value}}), logprobs, "null");
    };
    if (!text.reasoning.empty()) add("reasoning_content", json_text(text.reasoning));
    if (!text.content.empty()) add("content", json_text(text.content));
    for (const TurnReader::CallText& call : text.calls) {
      if (!call.name.empty()) {
        add("tool_calls", one_choice(call_json(call.index, call.name, "", true)));
      }
      if (call.arguments.empty()) continue;
      add("tool_calls",
          one_choice(json_object(
              {{"index", json_number(call.index)},
               {"function", json_object({{"arguments", json_text(call.arguments)}})}})));
    }
    return out;
  }

  const Tokenizer* tokenizer_;
  ChatTokens tokens_;
  TurnReader reader_;
  AnswerHead head_;
  std::size_t index_;
  bool thinks_;
  bool logprobs_;
  bool streams_usage_;
  bool closed_ = false;
  Usage usage_;
  std::string finish_;
  ///@{
  /// JSON of tokens, and how many of them the stream has told.
  std::vector<std::string> reasoning_logprobs_;
  std::vector<std::string> content_logprobs_;
  std::size_t told_reasoning_ = 0;
  std::size_t told_content_ = 0;
  ///@}
};

/// One continuation of a text, token by token. Keeps a reference to the tokenizer.
class CompletionAnswer {
 public:
  ///@{
  /// As ChatAnswer has them.
  static constexpr std::string_view kPrefix = "cmpl-";
  static constexpr std::string_view kObject = "text_completion";
  static constexpr std::string_view kPart = kObject;
  ///@}

  /// Number `index` of the request's choices.
  CompletionAnswer(const Tokenizer& tokenizer, const CompletionRequest& request, AnswerHead head,
                   std::size_t index, std::vector<std::int32_t> ends)
      : tokenizer_(&tokenizer),
        decoder_(tokenizer, true),
        head_(std::move(head)),
        index_(index),
        stop_(request.fields.stop),
        logprobs_(request.logprobs),
        streams_usage_(request.fields.include_usage),
        ends_(std::move(ends)) {}

  /// Told before the first token where the prompt is echoed: its ids, and with log-probabilities
  /// those of all but the first.
  std::string echo(std::span<const std::int32_t> ids, std::span<const ServedToken> tokens) {
    std::string text;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::string piece = decoder_.push(ids[i]);
      if (logprobs_) {
        const bool told = i > 0 && i <= tokens.size();
        note(ids[i], told ? &tokens[i - 1] : nullptr);
      }
      text += piece;
      length_ += piece.size();
    }
    text_ += text;
    return text.empty() && !logprobs_ ? "" : chunk(text, "null");
  }
  /// Takes a token; the event of what became complete, maybe none.
  std::string push(const ServedToken& token) {
    if (ended_) return "";
    ++usage_.completion;
    if (std::ranges::count(ends_, token.id) != 0) {
      ended_ = true;
      return put("", true);
    }
    if (logprobs_) note(token.id, &token);
    const std::string piece = decoder_.push(token.id);
    length_ += piece.size();
    return put(piece, false);
  }
  /// Whether it is over: an end token has come, or a stop text.
  bool ended() const { return ended_; }
  /// Behind the last token: the events of what was held back, and of the end.
  std::string finish(const SequenceResult& result) {
    std::string out = ended_ ? "" : put(decoder_.finish(), true);
    usage_.prompt = result.prompt_tokens;
    usage_.cached = result.cached_tokens;
    finish_ = result.end == SequenceEnd::stop ? "stop" : "length";
    return out + chunk("", detail::json_text(finish_));
  }
  /// What it took.
  const Usage& usage() const { return usage_; }

  /// Behind finish(): its element of the choices of an answer that is no stream.
  std::string choice() const {
    return choice_json(text_, 0, tokens_.size(), detail::json_text(finish_));
  }

 private:
  struct Noted {
    std::string text;
    std::string logprob;
    std::string likeliest;
    std::size_t offset;
  };

  void note(std::int32_t id, const ServedToken* token) {
    using namespace detail;
    const auto text_of = [&](std::int32_t of) { return token_text(tokenizer_->token_bytes(of)); };
    Noted noted{json_text(text_of(id)), json_null(), json_null(), length_};
    if (token != nullptr) {
      noted.logprob = json_number(double{token->logprob.logprob});
      std::vector<std::string> texts;
      std::vector<std::string> values;
      std::string likeliest = "{";
      for (const TokenLogprob& other : token->likeliest) {
        if (likeliest.size() > 1) likeliest += ", ";
        likeliest += json_text(text_of(other.id)) + ": " + json_number(double{other.logprob});
      }
      noted.likeliest = likeliest + "}";
    }
    tokens_.push_back(std::move(noted));
  }
  /// Shows text up to a stop text, and holds back what may be the beginning of one.
  std::string put(const std::string& more, bool last) {
    held_ += more;
    std::size_t end = held_.npos;
    std::size_t begin = held_.npos;
    std::size_t kept = 0;
    for (const std::string& stop : stop_) {
      const std::size_t at = held_.find(stop);
      if (at != held_.npos && at + stop.size() < end) {
        end = at + stop.size();
        begin = at;
      }
      for (std::size_t n = std::min(stop.size(), held_.size()); n > kept; --n) {
        if (held_.ends_with(std::string_view(stop).substr(0, n))) kept = n;
      }
    }
    const std::size_t ready = begin != held_.npos ? begin
                              : last              ? held_.size()
                                                  : held_.size() - kept;
    const std::string shown = held_.substr(0, ready);
    held_.erase(0, ready);
    text_ += shown;
    if (begin != held_.npos) {
      ended_ = true;
      held_.clear();
    }
    return shown.empty() ? "" : chunk(shown, "null");
  }
  std::string choice_json(const std::string& text, std::size_t first, std::size_t end,
                          const std::string& finish) const {
    using namespace detail;
    std::string logprobs = "null";
    if (logprobs_) {
      std::array<std::vector<std::string>, 4> lists;
      for (const Noted& noted : std::span(tokens_).subspan(first, end - first)) {
        lists[0].push_back(noted.text);
        lists[1].push_back(noted.logprob);
        lists[2].push_back(noted.likeliest);
        lists[3].push_back(json_number(noted.offset));
      }
      logprobs = json_object({{"tokens", json_array(lists[0])},
                              {"token_logprobs", json_array(lists[1])},
                              {"top_logprobs", json_array(lists[2])},
                              {"text_offset", json_array(lists[3])}});
    }
    return json_object({{"index", json_number(index_)},
                        {"text", json_text(text)},
                        {"logprobs", logprobs},
                        {"finish_reason", finish}});
  }
  std::string chunk(const std::string& text, const std::string& finish) {
    using namespace detail;
    const std::string choice = choice_json(text, told_, tokens_.size(), finish);
    told_ = tokens_.size();
    return event(answer_json<CompletionAnswer>(head_, kPart, one_choice(choice),
                                               streams_usage_ ? json_null() : ""));
  }

  const Tokenizer* tokenizer_;
  StreamDecoder decoder_;
  AnswerHead head_;
  std::size_t index_;
  std::vector<std::string> stop_;
  std::optional<std::size_t> logprobs_;
  bool streams_usage_;
  std::vector<std::int32_t> ends_;
  std::string text_;
  std::string held_;
  std::size_t length_ = 0;  // bytes of text so far, stop texts included
  std::vector<Noted> tokens_;
  std::size_t told_ = 0;
  bool ended_ = false;
  Usage usage_;
  std::string finish_;
};

/// A whole answer, of its choices and their usages together.
template <class Answer>
std::string whole_answer(const AnswerHead& head, std::span<const std::string> choices,
                         const Usage& usage) {
  return detail::answer_json<Answer>(head, Answer::kObject, detail::json_array(choices),
                                     usage.json());
}
/// The last event of an answer's stream, where usage is wanted.
template <class Answer>
std::string usage_event(const AnswerHead& head, const Usage& usage) {
  return event(detail::answer_json<Answer>(head, Answer::kPart, "[]", usage.json()));
}

}  // namespace ds4::inline v0_1
