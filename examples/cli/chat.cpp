// ds4 chat: a conversation in turns.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/chat_json.hpp>
#include <ds4/text/chat_message.hpp>
#include <ds4/text/effort_profile.hpp>
#include <ds4/text/python_json.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/text/turn_reader.hpp>

#include "cli/drafting.hpp"
#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/progress.hpp"
#include "cli/sampling.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

/// Tokens of a prompt between two moves of the bar.
constexpr std::size_t kPieceTokens = 512;
/// Tokens of an answer where the model has no token that ends it.
constexpr std::size_t kPlainTokens = 256;

constexpr const char* kCommands =
    R"(A line is a message. One that begins with """ goes on until a line that ends so.
  /save FILE   write the chat to a file
  /load FILE   continue the chat of a file
  /read FILE   send the content of a file as a message
  /tools FILE  offer the model the tools of a file, a JSON array as in requests to a server; you then
               give the result of each call. Without FILE: none any more
  /reset       begin a new chat
  /think       let the model reason before it answers; /no-think: not
  /help        this list
  /quit        end; also Ctrl-D, or Ctrl-C twice
Ctrl-C stops an answer.
)";

struct ChatVerbOptions {
  ModelChoice model;
  std::string system;
  std::optional<bool> think;
  std::string effort = "low";
  std::optional<std::size_t> max_tokens;
  Sampling sampling;
  std::string draft = "off";
};

bool shows_attributes() {
  const char* terminal = std::getenv("TERM");
  return output_is_terminal() && terminal != nullptr && std::string_view(terminal) != "dumb";
}

/// Prints an answer as it comes: its reasoning dimmed on a terminal, else between the tags.
class AnswerPrinter {
 public:
  AnswerPrinter() : dims_(shows_attributes()) {}
  AnswerPrinter(const AnswerPrinter&) = delete;
  AnswerPrinter& operator=(const AnswerPrinter&) = delete;
  ~AnswerPrinter() {
    if (reasoning_ && dims_) print_error(kPlain);
  }

  void show(const TurnReader::Text& text) {
    if (!text.reasoning.empty()) {
      if (!reasoning_) print(dims_ ? kDim : "<think>");
      reasoning_ = true;
      print(text.reasoning);
    }
    if (!text.content.empty()) {
      end_reasoning();
      print(text.content);
    }
  }
  void finish() {
    end_reasoning();
    print("\n");
  }
  /// A call, as JSON on a line.
  void show(const ToolCall& call) {
    std::string line = "{\"name\": \"";
    append_json_characters(line, call.name);
    print(line + "\", \"arguments\": " + call.arguments + "}\n");
  }

 private:
  static constexpr const char* kDim = "\x1b[2m";
  static constexpr const char* kPlain = "\x1b[0m";

  void end_reasoning() {
    if (!reasoning_) return;
    print(dims_ ? std::string(kPlain) + "\n" : "</think>\n");
    reasoning_ = false;
  }

  bool dims_;
  bool reasoning_ = false;
};

/// A chat: what was said, and a state that has taken in the most of it that the next turn begins
/// with.
class Chat {
 public:
  /// Without an encoding, messages are texts that the model continues.
  Chat(AnyModel& model, const Tokenizer& tokenizer, const ChatEncoding* encoding,
       const ChatVerbOptions& options)
      : model_(model),
        tokenizer_(tokenizer),
        encoding_(encoding),
        options_(options),
        sampler_(make_sampler(options.sampling, model.config(), tokenizer)),
        length_(draft_length_for(model, options.draft)) {
    encoded_.thinking = encoding != nullptr && options.think.value_or(true);
    encoded_.effort = options.effort == "max"    ? ChatEffort::max
                      : options.effort == "high" ? ChatEffort::high
                                                 : ChatEffort::low;
    encoded_.profile = effort_profile_of(model_dir(options.model));
    reset();
  }

  void reset();
  void save(const std::string& file) const {
    if (encoding_ == nullptr) {
      model_.save_session(file, session_.ids, session_.state);
      return;
    }
    // The state's tokens may be others than the chat's behind what both begin with.
    AnySession saved = session_;
    saved.ids = history();
    fit(saved.state, session_.ids, saved.ids, saved.ids.size());
    model_.save_session(file, saved.ids, saved.state);
  }
  void load(const std::string& file) {
    session_ = model_.load_session(file);
    if (length_) model_.keep_drafts(session_.state);
    if (encoding_ == nullptr) return;
    loaded_ = session_.ids;
    messages_.clear();
    calls_ = 0;
    // Its tools are in its tokens.
    const auto user = std::ranges::find(loaded_, encoding_->tokens().user);
    loaded_tools_ = std::find(loaded_.begin(), user, encoding_->tokens().dsml) != user;
  }
  std::size_t size() const { return encoding_ == nullptr ? session_.ids.size() : history().size(); }
  /// What drafts brought; nothing without.
  const std::optional<DraftLength>& drafts() const { return length_; }

  /// Throws ds4::Error if that is not possible with this model.
  void think(bool thinking);
  /// Offers the tools of a JSON text, or none. Throws ds4::Error if that is not possible.
  void offer(const std::string& json);
  /// What the next message is, where it is the result of a call; "" otherwise.
  std::string awaited() const { return calls_ == 0 ? "" : "result of " + awaited_call().name; }

  /// Takes a message in and prints the answer, if it is no result that others follow. Without room
  /// for the message, or if it is interrupted before the answer begins, the chat stays as it was.
  void ask(std::string_view text);

 private:
  bool has_tools() const { return !encoded_.tools.functions.empty() || loaded_tools_; }
  const ToolCall& awaited_call() const {
    const auto answer = std::ranges::find(messages_.rbegin(), messages_.rend(), ChatRole::assistant,
                                          &ChatMessage::role);
    return answer->calls[answer->calls.size() - calls_];
  }
  /// The tokens of messages behind those that were loaded.
  std::vector<std::int32_t> encode(std::span<const ChatMessage> messages) const {
    ChatOptions encoded = encoded_;
    encoded.keep_reasoning = loaded_tools_;
    if (!loaded_.empty()) encoded.effort = ChatEffort::low;  // that is said in front of all
    std::vector<std::int32_t> ids = encoding_->encode(messages, encoded);
    if (!loaded_.empty()) ids.erase(ids.begin());
    ids.insert(ids.begin(), loaded_.begin(), loaded_.end());
    return ids;
  }
  /// The tokens of the chat so far, as the next turn will have them in front.
  std::vector<std::int32_t> history() const {
    std::vector<ChatMessage> messages = messages_;
    // Results that others follow are no turn yet.
    while (!messages.empty() && messages.back().role == ChatRole::tool) messages.pop_back();
    messages.push_back({ChatRole::user, ""});
    std::vector<std::int32_t> ids = encode(messages);
    constexpr std::size_t kOpening = 3;  // user, assistant, and whether it thinks
    ids.resize(ids.size() - kOpening);
    return ids;
  }
  /// Takes a state that has taken in the first of `taken` back to what `ids` begin with, `most`
  /// tokens at most, or to an empty one.
  void fit(AnyState& state, std::span<const std::int32_t> taken, std::span<const std::int32_t> ids,
           std::size_t most) const {
    const std::size_t position = model_.position(state);
    const auto known = taken.first(position);
    const auto common =
        static_cast<std::size_t>(std::ranges::mismatch(known, ids).in1 - known.begin());
    const std::size_t kept = std::min(common, most);
    try {
      model_.rollback(state, position - kept);
    } catch (const Error&) {  // too far
      state = model_.new_state();
      if (length_) model_.keep_drafts(state);
    }
  }
  std::size_t room() const {
    return model_.config().max_position_embeddings - model_.position(session_.state);
  }
  /// Takes in the tokens that are pending; nothing if it is interrupted.
  std::optional<Logits> take_in();
  void tell_if_full() const {
    if (room() > 0) return;
    complain("ds4: context: found no room for more than " +
             std::to_string(model_.config().max_position_embeddings) +
             " tokens, the answer ends there; /reset begins a new chat");
  }
  void answer(const Logits& logits);
  void continue_text(const Logits& logits);

  AnyModel& model_;
  const Tokenizer& tokenizer_;
  const ChatEncoding* encoding_;
  const ChatVerbOptions& options_;
  Sampler sampler_;
  std::optional<DraftLength> length_;
  ChatOptions encoded_;
  std::vector<ChatMessage> messages_;  // behind what was loaded
  std::vector<std::int32_t> loaded_;
  bool loaded_tools_ = false;
  std::size_t calls_ = 0;  // of the last answer, that have no result yet
  AnySession session_;     // the tokens of the last turn, and its state
};

void Chat::reset() {
  session_ = {{}, model_.new_state()};
  if (length_) model_.keep_drafts(session_.state);
  messages_.clear();
  loaded_.clear();
  loaded_tools_ = false;
  calls_ = 0;
  if (encoding_ != nullptr) {
    if (!options_.system.empty()) messages_.push_back({ChatRole::system, options_.system});
    return;
  }
  put_bos_in_front(session_.ids, model_.config());
  const auto system = tokenizer_.encode_plain(options_.system);
  session_.ids.insert(session_.ids.end(), system.begin(), system.end());
}

void Chat::think(bool thinking) {
  if (thinking && encoding_ == nullptr) {
    throw Error("/think", "expected a model with the tokens of the chat encoding");
  }
  encoded_.thinking = thinking;
}

void Chat::offer(const std::string& json) {
  if (encoding_ == nullptr || encoding_->tokens().dsml < 0) {
    throw Error("/tools", "expected a model with a token for calls");
  }
  if (!loaded_.empty()) {
    throw Error("/tools", "expected a new chat, as after /reset: this one was loaded");
  }
  ChatTools tools;
  if (!json.empty()) tools.functions = tool_functions(PythonJson::parse(json), "tools");
  encoded_.tools = std::move(tools);
}

void Chat::ask(std::string_view text) {
  const AnySession before = session_;
  const std::vector<ChatMessage> said = messages_;
  const std::size_t open = calls_;
  if (encoding_ == nullptr) {
    const bool first = session_.ids.size() <= 1;
    const auto more = tokenizer_.encode_plain((first ? "" : "\n\n") + std::string(text));
    session_.ids.insert(session_.ids.end(), more.begin(), more.end());
  } else {
    ChatMessage message{calls_ == 0 ? ChatRole::user : ChatRole::tool, std::string(text)};
    if (calls_ > 0) message.call_id = awaited_call().id;
    messages_.push_back(std::move(message));
    if (calls_ > 0 && --calls_ > 0) return;
    std::vector<std::int32_t> ids = encode(messages_);
    fit(session_.state, session_.ids, ids, ids.size() - 1);
    session_.ids = std::move(ids);
  }
  const auto stay = [&] {
    session_ = before;
    messages_ = said;
    calls_ = open;
  };
  const std::size_t pending = session_.ids.size() - model_.position(session_.state);
  if (pending > room()) {
    complain("ds4: context: found " + std::to_string(session_.ids.size()) +
             " tokens with this message, expected at most " +
             std::to_string(model_.config().max_position_embeddings) +
             "; /reset begins a new chat");
    stay();
    return;
  }
  const auto logits = take_in();
  if (!logits) {
    stay();
    print("\n");
    return;
  }
  if (encoding_ != nullptr) {
    answer(*logits);
  } else {
    continue_text(*logits);
  }
}

std::optional<Logits> Chat::take_in() {
  auto& [ids, state] = session_;
  const std::span<const std::int32_t> pending = std::span(ids).subspan(model_.position(state));
  ProgressBar bar(ProgressBar::Of::tokens);
  std::optional<Logits> logits;
  for (std::size_t done = 0; done < pending.size();) {
    if (pending.size() > kPieceTokens) bar.show(done, pending.size());
    const std::size_t count = std::min(kPieceTokens, pending.size() - done);
    try {
      logits = model_.prefill(state, pending.subspan(done, count), nullptr, interrupted);
    } catch (const Stopped&) {
      return std::nullopt;
    }
    done += count;
  }
  if (pending.size() > kPieceTokens) bar.show(pending.size(), pending.size());
  return logits;
}

void Chat::answer(const Logits& logits) {
  // The next turn may have this one without its reasoning: a state in front of that stays.
  const AnySession in_front = session_;
  TurnReader reader(*encoding_, TurnOptions{.thinking = encoded_.thinking, .tools = has_tools()});
  AnswerPrinter printer;
  const std::size_t most = options_.max_tokens.value_or(std::numeric_limits<std::size_t>::max());
  generate(model_, session_, logits, sampler_, length_, most, [&](std::int32_t id) {
    printer.show(reader.push(ends_text(model_.config(), id) ? encoding_->tokens().end : id));
    return !reader.ended();
  });
  printer.show(reader.finish());
  printer.finish();
  tell_if_full();
  ChatMessage message = reader.message_with_ids();
  for (std::size_t i = 0; i < message.calls.size(); ++i) {
    printer.show(message.calls[i]);
    message.calls[i].id = std::to_string(messages_.size()) + "." + std::to_string(i);
  }
  calls_ = message.calls.size();
  messages_.push_back(std::move(message));
  // Whichever state has more of what comes next.
  const std::vector<std::int32_t> next = history();
  const auto known = std::span(session_.ids).first(model_.position(session_.state));
  const bool goes_on = std::ranges::mismatch(known, next).in1 == known.end();
  if (!goes_on) session_ = in_front;
}

void Chat::continue_text(const Logits& logits) {
  StreamDecoder decoder(tokenizer_);
  const std::size_t most = options_.max_tokens.value_or(kPlainTokens);
  generate(model_, session_, logits, sampler_, length_, most, [&](std::int32_t id) {
    if (ends_text(model_.config(), id)) return false;
    print(decoder.push(id));
    return true;
  });
  print(decoder.finish() + "\n");
  tell_if_full();
}

/// What a command leaves to do.
enum class Then : std::uint8_t { read_on, ask, quit };

/// Obeys a line that begins with a slash and replaces it by the message to ask, if there is one.
/// Throws ds4::Error, the chat unchanged.
Then obey(Chat& chat, std::string& line) {
  const std::size_t space = std::min(line.find(' '), line.size());
  const std::string command(line.substr(0, space));
  std::string_view argument = std::string_view(line).substr(space);
  argument.remove_prefix(std::min(argument.find_first_not_of(' '), argument.size()));
  argument.remove_suffix(argument.size() - (argument.find_last_not_of(' ') + 1));
  const auto file = [&] {
    if (argument.empty()) throw Error(command, "expected the name of a file, found none");
    return std::string(argument);
  };
  const auto tell = [](const std::string& text) {
    if (error_is_terminal()) print_error(text + "\n");
  };
  if (command == "/quit") return Then::quit;
  if (command == "/help") {
    print_error(kCommands);
  } else if (command == "/save") {
    chat.save(file());
    tell("saved " + std::to_string(chat.size()) + " tokens");
  } else if (command == "/load") {
    chat.load(file());
    tell("loaded " + std::to_string(chat.size()) + " tokens");
  } else if (command == "/read") {
    line = read_file(file());
    return Then::ask;
  } else if (command == "/tools") {
    chat.offer(argument.empty() ? "" : read_file(std::string(argument)));
  } else if (command == "/reset") {
    chat.reset();
    tell("a new chat");
  } else if (command == "/think" || command == "/no-think") {
    chat.think(command == "/think");
  } else {
    throw Error(command, "there is no such command; /help lists them");
  }
  return Then::read_on;
}

/// Reads messages, of several lines between """ as well.
class MessageReader {
 public:
  /// The next one that is not empty; nothing at the end of the chat. A terminal shows what it is to
  /// be.
  std::optional<std::string> next(const std::string& awaited) {
    std::string message;
    bool open = false;  // inside of """
    bool warned = false;
    for (;;) {
      if (terminal_) print_error(open ? "... " : awaited + "> ");
      std::string line;
      switch (read_line(line)) {
        case Input::end:
          if (terminal_) print_error("\n");
          return message.empty() ? std::nullopt : std::optional(message);
        case Input::interrupt:
          forget_interrupt();
          if (terminal_) print_error("\n");
          if (warned) return std::nullopt;
          warned = true;
          open = false;
          message.clear();
          if (terminal_) print_error("Ctrl-C again, or /quit, ends the chat.\n");
          continue;
        case Input::line:
          break;
      }
      warned = false;
      is_command_ = !open && line.starts_with('/');
      if (open) message += '\n';
      std::string_view text = line;
      if (!open && text.starts_with(kQuotes)) {
        open = true;
        text.remove_prefix(kQuotes.size());
      } else if (!open) {
        if (text.find_first_not_of(" \t") != text.npos) return line;
        continue;
      }
      const bool ends = text.ends_with(kQuotes);
      if (ends) text.remove_suffix(kQuotes.size());
      message += text;
      if (ends && !message.empty()) return message;
      if (ends) open = false;
    }
  }

  /// Whether the last one is a command.
  bool is_command() const { return is_command_; }

 private:
  static constexpr std::string_view kQuotes = "\"\"\"";

  bool terminal_ = input_is_terminal();
  bool is_command_ = false;
};

void chat(const ChatVerbOptions& options) {
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  std::optional<ChatEncoding> encoding;
  std::string missing;
  for (const std::string_view token : missing_chat_tokens(tokenizer)) {
    missing.append(missing.empty() ? "" : ", ").append(token);
  }
  if (missing.empty()) {
    encoding.emplace(tokenizer);
  } else if (options.think.value_or(false)) {
    throw Error("--think",
                "expected a model with the tokens of the chat encoding, found no " + missing);
  } else {
    complain("ds4: chat: the model has no " + missing +
             ", so it continues your messages as plain text");
  }
  catch_every_interrupt();
  Chat chat(*model, tokenizer, encoding ? &*encoding : nullptr, options);
  if (input_is_terminal()) print_error("/help lists the commands, /quit ends.\n");
  MessageReader reader;
  while (auto message = reader.next(chat.awaited())) {
    auto then = Then::ask;
    if (reader.is_command()) {
      try {
        then = obey(chat, *message);
      } catch (const Error& error) {
        complain(error.what());
        then = Then::read_on;
      }
    }
    if (then == Then::quit) break;
    if (then == Then::ask) chat.ask(*message);
    forget_interrupt();
  }
  if (chat.drafts()) print_error(to_string(chat.drafts()->totals()) + "\n");
}

void add_options(Verb& verb) {
  auto options = std::make_shared<ChatVerbOptions>();
  verb.footer("In the chat:\n" + std::string(kCommands));
  add_model_options(verb, options->model, false);
  verb.add_option("--system", options->system, "Text in front of the chat");
  verb.add_flag("--think,!--no-think", options->think,
                "Whether the model reasons before it answers; it does unless told");
  verb.add_option("--effort", options->effort, "How hard it thinks: low, high or max")
      .capture_default_str()
      .one_of({"low", "high", "max"});
  verb.add_option("--max-tokens", options->max_tokens,
                  "Tokens of an answer at most. Unless told, the model ends it itself, or after " +
                      std::to_string(kPlainTokens) + " tokens if it cannot")
      .check(expect_count(1));
  add_sampling_options(verb, options->sampling);
  add_draft_option(verb, options->draft);
  verb.callback([options] { chat(*options); });
}

const VerbRegistration kChat(20, "chat", "Talk with a model", add_options);

}  // namespace

}  // namespace ds4::cli
