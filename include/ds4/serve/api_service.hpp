// OpenAI's protocol in front of a scheduler, without a socket: bodies in, answers out.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/inspect/live_look.hpp>
#include <ds4/serve/api_answer.hpp>
#include <ds4/serve/api_error.hpp>
#include <ds4/serve/api_json.hpp>
#include <ds4/serve/chat_request.hpp>
#include <ds4/serve/completion_request.hpp>
#include <ds4/serve/json_constraint.hpp>
#include <ds4/serve/json_grammar.hpp>
#include <ds4/serve/scheduler.hpp>
#include <ds4/serve/turn_memory.hpp>
#include <ds4/text/chat_encoding.hpp>
#include <ds4/text/tokenizer.hpp>

namespace ds4::inline v0_1 {

/// What is known of the model beside its scheduler.
struct ApiServiceOptions {
  std::string model = "ds4";                       ///< its name for clients
  std::size_t context = 0;                         ///< tokens of a sequence at most
  EffortProfile profile = EffortProfile::release;  ///< of the chat encoding
  std::filesystem::path turns = {};                ///< the file of a TurnMemory; empty: none
  /// Makes a look inside for a request that asks for one; empty: such requests are refused.
  std::function<std::shared_ptr<LiveLook>()> look = {};
};

/// An answer on its way to a client, filled by the scheduler's thread and read by the client's.
class Exchange {
 public:
  /// What there is to send.
  struct Part {
    std::string text = {};  ///< events of a stream, or the whole answer
    bool over = false;      ///< nothing follows
    int status = 200;       ///< of an answer that is no stream
  };

  /// Whether events come as they are, and not one answer at the end.
  bool streams() const { return streams_; }
  /// Waits for something to send, as long as this; nothing may have come then.
  Part wait(std::chrono::milliseconds most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [&] { return over_ || (streams_ && !text_.empty()); });
    if (!streams_ && !over_) return {};
    return {std::exchange(text_, {}), over_, status_};
  }
  /// Nobody reads it any more: its sequences end.
  void cancel() {
    if (cancel_) cancel_();
  }

 private:
  friend class ApiService;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  bool streams_ = false;
  bool over_ = false;
  int status_ = 200;
  std::function<void()> cancel_;
};

/// Answers requests with the tokens of a scheduler. Keeps references to it and to the tokenizer.
/// Threads may use one object at the same time; somebody has to step the scheduler.
///
/// A model whose tokenizer lacks tokens of the chat encoding continues the messages of a chat as a
/// text, with empty lines between them; it neither thinks nor calls tools.
class ApiService {
 public:
  /// Throws as TurnMemory does.
  ApiService(Scheduler& scheduler, const ConfigValues& config, const Tokenizer& tokenizer,
             ApiServiceOptions options)
      : scheduler_(scheduler),
        tokenizer_(tokenizer),
        options_(std::move(options)),
        bos_(config.bos_token_id),
        turns_(options_.turns) {
    for (const std::size_t id : config.eos_token_ids)
      ends_.push_back(static_cast<std::int32_t>(id));
    never_ = tokenizer.ids_without_token(config.vocab_size);
    std::erase_if(never_, [&](std::int32_t id) { return std::ranges::count(ends_, id) != 0; });
    if (missing_chat_tokens(tokenizer).empty()) {
      encoding_.emplace(tokenizer);
      tokens_ = encoding_->tokens();
      if (std::ranges::count(ends_, tokens_.end) == 0) ends_.push_back(tokens_.end);
    } else {
      tokens_ = {.end = ends_.empty() ? -1 : ends_.front(), .think = -1, .end_think = -1};
    }
    if (options_.context == 0) options_.context = config.max_position_embeddings;
    std::vector<std::int32_t> without = ends_;
    for (const std::int32_t id : {tokens_.think, tokens_.end_think, tokens_.dsml}) {
      without.push_back(id);
    }
    texts_ = std::make_shared<const TokenTexts>(tokenizer, without);
    std::random_device device;
    random_.seed((std::uint64_t{device()} << 32) | device());
  }
  ApiService(Scheduler&, const ConfigValues&, Tokenizer&&, ApiServiceOptions) = delete;

  ///@{
  /// Begins to answer the body of a request for `client`, who takes turns with others. Throws
  /// ApiError if it is refused.
  std::shared_ptr<Exchange> chat(std::string_view body, const std::string& client);
  std::shared_ptr<Exchange> complete(std::string_view body, const std::string& client);
  ///@}

  ///@{
  /// The answers to /v1/models, and to /v1/models/ID: throws ApiError for another model.
  std::string models() const {
    using namespace detail;
    const std::string model = model_json();
    return json_object({{"object", json_text("list")}, {"data", one_choice(model)}});
  }
  std::string model(std::string_view id) const {
    if (id == options_.model) return model_json();
    throw ApiError(404, "The model '" + std::string(id) + "' does not exist", "model",
                   "model_not_found");
  }
  ///@}

  /// The counts as Prometheus reads them.
  std::string metrics() const;

 private:
  /// The choices of one request, as they are filled.
  template <class Answer>
  struct Job {
    std::shared_ptr<Exchange> exchange;
    AnswerHead head;
    std::vector<Answer> answers;
    std::vector<Usage> usages;  // by prompt
    std::size_t open = 0;       // answers that are not over
    bool failed = false;
    bool include_usage = false;
    std::shared_ptr<LiveLook> look;  // or null
    std::mutex ids_mutex;
    std::vector<Scheduler::Id> ids;
    bool cancelled = false;
  };

  std::string model_json() const {
    using namespace detail;
    return json_object({{"id", json_text(options_.model)},
                        {"object", json_text("model")},
                        {"created", json_number(started_)},
                        {"owned_by", json_text("ds4")},
                        {"context_length", json_number(options_.context)},
                        {"max_model_len", json_number(options_.context)}});
  }
  std::uint64_t draw() {
    const std::scoped_lock lock(mutex_);
    return random_();
  }
  AnswerHead new_head(const RequestFields& fields) {
    constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuv";
    AnswerHead head{.id = {},
                    .model = fields.model.empty() ? options_.model : fields.model,
                    .created = static_cast<std::int64_t>(std::time(nullptr))};
    for (int half = 0; half < 2; ++half) {
      std::uint64_t bits = draw();
      for (int i = 0; i < 12; ++i, bits >>= 5) head.id += kDigits[bits & 31u];
    }
    return head;
  }
  SequenceRequest new_sequence(const RequestFields& fields, std::uint64_t seed, std::size_t index,
                               const std::string& client) const {
    SequenceRequest sequence;
    if (fields.max_tokens) sequence.max_tokens = *fields.max_tokens;
    sequence.ends = ends_;
    sequence.choice = fields.choice;
    sequence.choice.sampler.seed = seed + index;
    sequence.choice.sampler.never = never_;
    sequence.client = client;
    return sequence;
  }
  /// With the token that ends a turn in place of others that end a text.
  ServedToken as_told(ServedToken token) const {
    if (std::ranges::count(ends_, token.id) != 0) token.id = tokens_.end;
    return token;
  }
  std::vector<std::int32_t> prompt_of(ChatRequest& request);
  static std::string look_event(const LiveLook& look);

  /// Puts text into an exchange.
  static void put(Exchange& exchange, const std::string& text) {
    if (text.empty()) return;
    const std::scoped_lock lock(exchange.mutex_);
    exchange.text_ += text;
    exchange.changed_.notify_all();
  }
  template <class Answer>
  void end_answer(Job<Answer>& job, std::size_t index, std::size_t prompt,
                  const SequenceResult& result);
  template <class Answer>
  void submit(const std::shared_ptr<Job<Answer>>& job, std::size_t index, std::size_t prompt,
              SequenceRequest sequence);
  template <class Answer>
  std::shared_ptr<Exchange> start(const std::shared_ptr<Job<Answer>>& job,
                                  std::vector<std::pair<std::size_t, SequenceRequest>> sequences);

  Scheduler& scheduler_;
  const Tokenizer& tokenizer_;
  ApiServiceOptions options_;
  std::optional<ChatEncoding> encoding_;
  ChatTokens tokens_;
  std::optional<std::size_t> bos_;
  std::vector<std::int32_t> ends_;
  std::vector<std::int32_t> never_;
  std::shared_ptr<const TokenTexts> texts_;
  std::int64_t started_ = static_cast<std::int64_t>(std::time(nullptr));
  std::mutex mutex_;
  std::mt19937_64 random_;  // guarded
  TurnMemory turns_;        // guarded
};

inline std::vector<std::int32_t> ApiService::prompt_of(ChatRequest& request) {
  request.options.profile = options_.profile;
  if (encoding_) {
    {
      const std::scoped_lock lock(mutex_);
      turns_.recall(request.messages);
    }
    return encoding_->encode(request.messages, request.options);
  }
  if (request.calls) {
    throw ApiError(400, "'tools' is not supported: the model has no token for calls", "tools",
                   "unsupported_parameter");
  }
  request.options.thinking = false;
  std::string text;
  for (const ChatMessage& message : request.messages) {
    text += (text.empty() ? "" : "\n\n") + message.content;
  }
  if (!request.messages.back().open) text += "\n\n";
  std::vector<std::int32_t> ids = tokenizer_.encode_plain(text);
  if (bos_) ids.insert(ids.begin(), static_cast<std::int32_t>(*bos_));
  return ids;
}

template <class Answer>
void ApiService::end_answer(Job<Answer>& job, std::size_t index, std::size_t prompt,
                            const SequenceResult& result) {
  Answer& answer = job.answers[index];
  Exchange& exchange = *job.exchange;
  if (result.end == SequenceEnd::failed) {
    const ApiError error = api_error(result.error, result.kind);
    const std::scoped_lock lock(exchange.mutex_);
    if (!job.failed) {
      job.failed = true;
      exchange.status_ = error.status();
      exchange.text_ += exchange.streams_ ? event(error.json()) : error.json();
    }
  }
  const std::string last = answer.finish(result);
  job.usages[prompt].add(answer.usage());
  if constexpr (requires { answer.closed(); }) {
    if (answer.closed() && encoding_) {
      const std::scoped_lock lock(mutex_);
      turns_.remember(answer.message());
    }
  }
  const bool all = --job.open == 0;
  std::string text = exchange.streams_ && !job.failed ? last : "";
  if (all && !job.failed) {
    Usage usage;
    for (const Usage& of : job.usages) {
      usage.prompt += of.prompt;
      usage.cached += of.cached;
      usage.completion += of.completion;
      usage.reasoning += of.reasoning;
    }
    if (!exchange.streams_) {
      std::vector<std::string> choices;
      choices.reserve(job.answers.size());
      for (const Answer& of : job.answers) choices.push_back(of.choice());
      text = whole_answer<Answer>(job.head, choices, usage);
    } else if (job.include_usage) {
      text += usage_event<Answer>(job.head, usage);
    }
  }
  if (all && exchange.streams_) text += event("[DONE]");
  const std::scoped_lock lock(exchange.mutex_);
  exchange.text_ += text;
  exchange.over_ = exchange.over_ || all;
  exchange.changed_.notify_all();
}

template <class Answer>
std::shared_ptr<Exchange> ApiService::start(
    const std::shared_ptr<Job<Answer>>& job,
    std::vector<std::pair<std::size_t, SequenceRequest>> sequences) {
  job->open = sequences.size();
  const auto cancel = [this, job = std::weak_ptr(job)] {
    const auto open = job.lock();
    if (!open) return;
    const std::scoped_lock lock(open->ids_mutex);
    open->cancelled = true;
    for (const Scheduler::Id id : open->ids) scheduler_.cancel(id);
  };
  job->exchange->cancel_ = cancel;
  for (std::size_t index = 0; index < sequences.size(); ++index) {
    auto& [prompt, sequence] = sequences[index];
    sequence.on_token = [this, job, index](const ServedToken& token) {
      Answer& answer = job->answers[index];
      const std::string events = answer.push(as_told(token));
      if (job->exchange->streams_ && !job->failed) put(*job->exchange, events);
      if (job->look) put(*job->exchange, look_event(*job->look));
      return !answer.ended();
    };
    sequence.on_end = [this, job, index, prompt](const SequenceResult& result) {
      end_answer(*job, index, prompt, result);
    };
    try {
      const Scheduler::Id id = scheduler_.submit(std::move(sequence));
      const std::scoped_lock lock(job->ids_mutex);
      job->ids.push_back(id);
      if (job->cancelled) scheduler_.cancel(id);
    } catch (const Error& error) {
      cancel();
      throw api_error(error.what(), error.kind());
    }
  }
  return job->exchange;
}

inline std::shared_ptr<Exchange> ApiService::chat(std::string_view body,
                                                  const std::string& client) {
  ChatRequest request = parse_chat_request(body);
  const auto job = std::make_shared<Job<ChatAnswer>>();
  std::vector<std::int32_t> prompt;
  std::optional<JsonGrammar> grammar;
  try {
    prompt = prompt_of(request);
    const ChatTools& tools = request.options.tools;
    if (!tools.schema.empty()) {
      grammar = json_schema_grammar(tools.schema);
    } else if (tools.json_object) {
      grammar = json_object_grammar();
    }
  } catch (const ApiError&) {
    throw;
  } catch (const Error& error) {
    throw api_error(error.what(), ErrorKind::input);
  }
  if (request.look) {
    if (!options_.look) throw ApiError(400, "ds4_look is not supported", "ds4_look");
    job->look = options_.look();
  }
  job->head = new_head(request.fields);
  job->exchange = std::make_shared<Exchange>();
  job->exchange->streams_ = request.fields.stream;
  job->include_usage = request.fields.include_usage;
  job->usages.resize(1);
  const std::uint64_t seed = request.fields.seed ? *request.fields.seed : draw();
  std::vector<std::pair<std::size_t, SequenceRequest>> sequences;
  for (std::size_t i = 0; i < request.fields.n; ++i) {
    SequenceRequest sequence = new_sequence(request.fields, seed, i, client);
    sequence.ids = prompt;
    sequence.logprobs = request.logprobs;
    sequence.top_logprobs = request.top_logprobs;
    sequence.observer = job->look.get();
    if (grammar) {
      sequence.constraint = std::make_shared<JsonConstraint>(
          texts_, *grammar, ends_,
          turn_options(request).thinking ? std::optional(tokens_.end_think) : std::nullopt);
    }
    sequences.emplace_back(0, std::move(sequence));
    job->answers.emplace_back(tokenizer_, tokens_, request, job->head, i);
    if (request.fields.stream) put(*job->exchange, job->answers.back().begin());
  }
  return start(job, std::move(sequences));
}

inline std::shared_ptr<Exchange> ApiService::complete(std::string_view body,
                                                      const std::string& client) {
  const CompletionRequest request = parse_completion_request(body);
  const auto job = std::make_shared<Job<CompletionAnswer>>();
  job->head = new_head(request.fields);
  job->exchange = std::make_shared<Exchange>();
  job->exchange->streams_ = request.fields.stream;
  job->include_usage = request.fields.include_usage;
  job->usages.resize(request.prompts.size());
  const std::uint64_t seed = request.fields.seed ? *request.fields.seed : draw();
  std::vector<std::pair<std::size_t, SequenceRequest>> sequences;
  for (std::size_t p = 0; p < request.prompts.size(); ++p) {
    std::vector<std::int32_t> ids;
    if (const auto* text = std::get_if<std::string>(&request.prompts[p])) {
      try {
        ids = tokenizer_.encode_plain(*text);
      } catch (const Error& error) {
        throw api_error(error.what(), ErrorKind::input);
      }
      if (bos_) ids.insert(ids.begin(), static_cast<std::int32_t>(*bos_));
    } else {
      ids = std::get<std::vector<std::int32_t>>(request.prompts[p]);
    }
    for (std::size_t i = 0; i < request.fields.n; ++i) {
      const std::size_t index = job->answers.size();
      SequenceRequest sequence = new_sequence(request.fields, seed, i, client);
      sequence.ids = ids;
      sequence.logprobs = request.logprobs.has_value();
      sequence.top_logprobs = request.logprobs.value_or(0);
      job->answers.emplace_back(tokenizer_, request, job->head, index, ends_);
      if (request.echo && request.logprobs) {
        sequence.prompt_logprobs = true;
        sequence.on_prompt = [job, index, ids](std::vector<ServedToken> tokens) {
          const std::string events = job->answers[index].echo(ids, tokens);
          if (job->exchange->streams_) put(*job->exchange, events);
        };
      } else if (request.echo) {
        const std::string events = job->answers[index].echo(ids, {});
        if (request.fields.stream) put(*job->exchange, events);
      }
      sequences.emplace_back(p, std::move(sequence));
    }
  }
  return start(job, std::move(sequences));
}

/// An event "look": of each layer its kind, the experts, and first, last and share of the tokens
/// that were attended to.
inline std::string ApiService::look_event(const LiveLook& look) {
  using namespace detail;
  std::vector<std::string> layers;
  for (const LayerLook& layer : look.layers()) {
    std::vector<std::string> experts;
    experts.reserve(layer.experts.size());
    for (const std::int32_t expert : layer.experts) experts.push_back(json_number(expert));
    std::vector<std::string> attended;
    constexpr double kDigits = 1e4;
    const auto share = [](double value) {
      return json_number(std::round(value * kDigits) / kDigits);
    };
    for (const AttendedTokens& tokens : layer.attended) {
      const std::array<std::string, 3> parts{json_number(tokens.first), json_number(tokens.last),
                                             share(tokens.share)};
      attended.push_back(json_array(parts));
    }
    const AttentionKind kind = layer.layer.attention;
    layers.push_back(json_object({{"kind", json_text(kind == AttentionKind::sliding ? "sliding"
                                                     : kind == AttentionKind::csa   ? "CSA"
                                                                                    : "HCA")},
                                  {"experts", json_array(experts)},
                                  {"attended", json_array(attended)},
                                  {"sink", share(layer.sink)}}));
  }
  return "event: look\n" + event(json_object({{"position", json_number(look.position())},
                                              {"layers", json_array(layers)}}));
}

inline std::string ApiService::metrics() const {
  const SchedulerCounts counts = scheduler_.counts();
  std::string text;
  const auto metric = [&](const char* name, const char* type, const char* help, std::size_t value) {
    const std::string full = std::string("ds4_") + name;
    text += "# HELP " + full + " " + help + "\n# TYPE " + full + " " + type + "\n" + full + " " +
            std::to_string(value) + "\n";
  };
  metric("requests_finished_total", "counter", "Sequences that came to their end.",
         counts.finished);
  metric("requests_cancelled_total", "counter", "Sequences that clients ended.", counts.cancelled);
  metric("requests_failed_total", "counter", "Sequences that failed.", counts.failed);
  metric("requests_refused_total", "counter", "Sequences for which there was no room.",
         counts.refused);
  metric("prompt_tokens_prefilled_total", "counter", "Tokens of prompts that were taken in.",
         counts.prefilled);
  metric("prompt_tokens_cached_total", "counter", "Tokens of prompts that a kept state had.",
         counts.cached);
  metric("generated_tokens_total", "counter", "Tokens that were generated.", counts.generated);
  metric("repeated_tokens_total", "counter", "Tokens that were taken in once more.",
         counts.repeated);
  metric("passes_total", "counter", "Passes of the model.", counts.passes);
  metric("preemptions_total", "counter", "States that were given up for want of memory.",
         counts.preempted);
  metric("requests_running", "gauge", "Sequences that are generated now.", counts.running);
  metric("requests_waiting", "gauge", "Sequences that wait.", counts.waiting);
  metric("state_bytes", "gauge", "Bytes planned for the states of running sequences.",
         counts.state_bytes);
  metric("cache_hits_total", "counter", "Lookups of states that found one.", counts.cache.hits);
  metric("cache_misses_total", "counter", "Lookups of states that found none.",
         counts.cache.misses);
  metric("cache_memory_bytes", "gauge", "Bytes of kept states in memory.",
         counts.cache.memory_bytes);
  metric("cache_memory_states", "gauge", "Kept states in memory.", counts.cache.memory_states);
  metric("cache_disk_bytes", "gauge", "Bytes of kept states on disk.", counts.cache.disk_bytes);
  metric("cache_disk_states", "gauge", "Kept states on disk.", counts.cache.disk_states);
  metric("cache_failures_total", "counter", "Files of states that could not be used.",
         counts.cache.failures);
  return text;
}

}  // namespace ds4::inline v0_1
