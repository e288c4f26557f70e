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

/// The chat as the next turn sees it: its tokens, of which the state has taken in the first.
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
        length_(draft_length_for(model, options.draft)),
        thinking_(encoding != nullptr && options.think.value_or(true)) {
    reset();
  }

  void reset();
  void save(const std::string& file) const {
    model_.save_session(file, session_.ids, session_.state);
  }
  void load(const std::string& file) {
    session_ = model_.load_session(file);
    if (length_) model_.keep_drafts(session_.state);
  }
  std::size_t size() const { return session_.ids.size(); }
  /// What drafts brought; nothing without.
  const std::optional<DraftLength>& drafts() const { return length_; }

  /// Throws ds4::Error if that is not possible with this model.
  void think(bool thinking);

  /// Takes a message in and prints the answer. Without room for the message, or if it is
  /// interrupted before the answer begins, the chat stays as it was.
  void ask(std::string_view text);

 private:
  void append(std::span<const std::int32_t> ids) {
    session_.ids.insert(session_.ids.end(), ids.begin(), ids.end());
  }
  std::size_t room() const {
    return model_.config().max_position_embeddings - model_.position(session_.state);
  }
  void append_message(std::string_view text);
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
  bool thinking_;
  AnySession session_;
};

void Chat::reset() {
  session_ = {{}, model_.new_state()};
  if (length_) model_.keep_drafts(session_.state);
  if (encoding_ != nullptr) {
    append(encoding_->opening(options_.system));
    return;
  }
  put_bos_in_front(session_.ids, model_.config());
  append(tokenizer_.encode_plain(options_.system));
}

void Chat::think(bool thinking) {
  if (thinking && encoding_ == nullptr) {
    throw Error("/think", "expected a model with the tokens of the chat encoding");
  }
  thinking_ = thinking;
}

void Chat::append_message(std::string_view text) {
  if (encoding_ != nullptr) {
    append(encoding_->user_turn(text, thinking_));
  } else {
    const bool first = session_.ids.size() <= 1;
    append(tokenizer_.encode_plain((first ? "" : "\n\n") + std::string(text)));
  }
}

void Chat::ask(std::string_view text) {
  const AnySession before = session_;
  append_message(text);
  const std::size_t pending = session_.ids.size() - model_.position(session_.state);
  if (pending > room()) {
    complain("ds4: context: found " + std::to_string(session_.ids.size()) +
             " tokens with this message, expected at most " +
             std::to_string(model_.config().max_position_embeddings) +
             "; /reset begins a new chat");
    session_ = before;
    return;
  }
  const auto logits = take_in();
  if (!logits) {
    session_ = before;
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
  // What follows the assistant token is taken in again without the reasoning.
  const std::size_t turn = session_.ids.size() - 1;
  AnyState without_reasoning;
  if (thinking_) {
    without_reasoning = session_.state;
    model_.rollback(without_reasoning, 1);
  }
  TurnReader reader(*encoding_, thinking_);
  AnswerPrinter printer;
  const std::size_t most = options_.max_tokens.value_or(std::numeric_limits<std::size_t>::max());
  generate(model_, session_, logits, sampler_, length_, most, [&](std::int32_t id) {
    printer.show(reader.push(ends_text(model_.config(), id) ? encoding_->tokens().end : id));
    return !reader.ended();
  });
  printer.show(reader.finish());
  printer.finish();
  tell_if_full();
  if (thinking_) {
    session_.ids.resize(turn);
    append(encoding_->assistant_turn(reader.content()));
    session_.state = std::move(without_reasoning);
  } else {
    session_.ids.push_back(encoding_->tokens().end);
  }
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
  /// The next one that is not empty; nothing at the end of the chat.
  std::optional<std::string> next() {
    std::string message;
    bool open = false;  // inside of """
    bool warned = false;
    for (;;) {
      if (terminal_) print_error(open ? "... " : "> ");
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
  while (auto message = reader.next()) {
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
