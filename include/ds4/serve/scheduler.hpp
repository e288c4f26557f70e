// Many requests to one model: tokens in, tokens out, in passes that they share.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/serve/prefix_cache.hpp>
#include <ds4/serve/served_model.hpp>
#include <ds4/serve/token_chooser.hpp>

namespace ds4::inline v0_1 {

/// Why a sequence is over. `failed` comes with an error.
enum class SequenceEnd : std::uint8_t { stop, length, cancelled, failed };

/// One token of a sequence.
struct ServedToken {
  std::int32_t id = 0;                       ///< its id
  TokenLogprob logprob = {};                 ///< where logprobs are wanted
  std::vector<TokenLogprob> likeliest = {};  ///< as many as were wanted
};

/// What became of a sequence.
struct SequenceResult {
  SequenceEnd end = SequenceEnd::stop;  ///< why it is over
  std::size_t prompt_tokens = 0;        ///< of the prompt
  std::size_t cached_tokens = 0;        ///< of these, not taken in, as a state had them
  std::size_t generated = 0;            ///< tokens
  std::string error = {};               ///< if it failed: an Error's text
  ErrorKind kind = ErrorKind::input;    ///< that Error's
};

/// A sequence to be generated. Callbacks come from the thread that steps the scheduler, and must
/// not call it but for submit and cancel.
struct SequenceRequest {
  std::vector<std::int32_t> ids = {};                                ///< the prompt, at least one
  std::size_t max_tokens = std::numeric_limits<std::size_t>::max();  ///< to generate at most
  std::vector<std::int32_t> ends = {};  ///< ids that end it; they are told as others are
  ChoiceOptions choice = {};            ///< how tokens are chosen
  std::shared_ptr<TokenConstraint> constraint = {};  ///< what they are chosen from, or null
  bool logprobs = false;         ///< each token is told with its log-probability
  std::size_t top_logprobs = 0;  ///< and with so many likeliest ones
  bool prompt_logprobs = false;  ///< on_prompt is wanted; nothing of the prompt is then cached
  std::string client = {};       ///< who asks: clients take turns
  /// Sees the passes over this sequence, which are then of it alone and from its start, or null.
  StageObserver<float>* observer = nullptr;

  /// After each piece of the prompt: how many of its tokens are taken in.
  std::function<void(std::size_t done, std::size_t total)> on_progress = {};
  /// The prompt's tokens behind the first, if wanted.
  std::function<void(std::vector<ServedToken> tokens)> on_prompt = {};
  /// Each token as it is generated; false: it was the last.
  std::function<bool(const ServedToken& token)> on_token = {};
  /// Once, last of all.
  std::function<void(const SequenceResult& result)> on_end = {};
};

/// What a scheduler may use.
struct SchedulerOptions {
  std::size_t parallel = 8;   ///< sequences that are generated at the same time
  std::size_t waiting = 256;  ///< that wait; more are refused
  std::size_t context = 0;    ///< tokens of a sequence at most; 0: as the model
  std::size_t piece = 256;    ///< tokens of a prompt in one pass; also how far states roll back
  /// Bytes for the states of running sequences; 0: no limit.
  std::size_t state_bytes = 0;
  /// Bytes of the state of a sequence of so many tokens, as plan/memory_plan.hpp knows them; where
  /// it is empty, nothing limits them.
  std::function<std::size_t(std::size_t tokens)> planned_state = {};
  std::optional<DraftLength> draft = {};  ///< drafts of this length; see Scheduler
  PrefixCacheOptions cache = {};          ///< see there
};

/// Sums since the start, and what is there now.
struct SchedulerCounts {
  ///@{
  /// Requests, by how they ended, and those that were refused.
  std::size_t finished = 0;
  std::size_t cancelled = 0;
  std::size_t failed = 0;
  std::size_t refused = 0;
  ///@}
  ///@{
  /// Tokens: of prompts, taken in and found in states; generated; and taken in once more by
  /// sequences that had to give up their state.
  std::size_t prefilled = 0;
  std::size_t cached = 0;
  std::size_t generated = 0;
  std::size_t repeated = 0;
  ///@}
  std::size_t passes = 0;        ///< of the model, drafts' aside
  std::size_t preempted = 0;     ///< states given up for want of memory
  std::size_t running = 0;       ///< now
  std::size_t waiting = 0;       ///< now
  std::size_t state_bytes = 0;   ///< planned for what is running
  PrefixCacheCounts cache = {};  ///< see there
};

/// Generates sequences for many requests at once. Each pass holds all sequences that decode and a
/// piece of one prompt, so that a long prompt stops nobody. Clients take turns by how many tokens
/// were taken in for them. What sequences begin with is not computed twice: see PrefixCache; a
/// request whose beginning is just being taken in waits for it.
///
/// The tokens of a sequence are those of a lone run with the same seed, bit for bit, whatever
/// shares the passes. With drafts of a fixed length that holds as well; an automatic length depends
/// on time, so it is used where tokens do not, at temperature 0. Constraints, penalties and
/// logprobs go without drafts.
///
/// submit(), cancel(), close() and counts() may be called from any thread, the others from one.
class Scheduler {
 public:
  /// A request's number.
  using Id = std::uint64_t;

  /// Keeps a reference to the model. Throws as PrefixCache does.
  Scheduler(ServedModel& model, SchedulerOptions options);

  /// Takes a request in. Throws ds4::Error, of kind context for a prompt that leaves no room for a
  /// token, of kind memory if too many wait or none of the states' memory could hold it, and for a
  /// prompt or options that no model or sampler takes.
  Id submit(SequenceRequest request);
  /// Ends a request: at once if it waits, else before the next pass, or in the middle of one that
  /// takes in its prompt. Nothing if it is over.
  void cancel(Id id);

  /// One pass. False if there is nothing to do.
  bool step();
  /// Steps until close(), waits while there is nothing to do, and then writes states to the disk.
  void run();
  /// Ends run(): no request is taken in any more, those that run may go on until `grace` is over.
  void close(std::chrono::milliseconds grace);
  /// Behind run(): writes the states that are in memory alone, for as long as this.
  void save(std::chrono::milliseconds most);

  /// A copy of the counts.
  SchedulerCounts counts() const;

 private:
  using Clock = std::chrono::steady_clock;

  struct Sequence {
    Id id = 0;
    SequenceRequest request;
    std::vector<std::int32_t> ids;  // the prompt and what was generated
    ServedState state;              // of the first of them; empty: none yet
    TokenChooser chooser;
    std::optional<DraftLength> draft;
    SequenceResult result;
    std::vector<ServedToken> prompt = {};  // with log-probabilities, where they are wanted
    std::size_t taken = 0;                 // ids that the state has
    std::size_t snapshot = 0;              // where the last fork of the state was kept
    std::size_t seen = 0;                  // ids that were taken in before the state was given up
    bool cancelled = false;                // guarded by the mutex
    std::uint64_t order = 0;

    std::size_t pending() const { return ids.size() - taken; }
    bool decodes() const { return state.has_value() && pending() == 1 && result.generated > 0; }
  };
  using Sequences = std::list<std::unique_ptr<Sequence>>;

  static constexpr std::size_t kLongestStep = DraftLength::kMost + 1;

  std::size_t context() const {
    const std::size_t most = model_.config().max_position_embeddings;
    return options_.context == 0 ? most : std::min(options_.context, most);
  }
  bool is_limited() const { return options_.state_bytes > 0 && options_.planned_state; }
  /// Bytes that a running sequence is planned to take until its next few passes are over.
  std::size_t planned(std::size_t tokens) const {
    return options_.planned_state
               ? options_.planned_state(std::min(tokens + options_.piece, context()))
               : 0;
  }
  std::size_t planned_of_all() const;
  void admit();
  void make_room();
  void give_up_state(Sequence& sequence);
  bool waits_for_another(const Sequence& sequence) const;
  Sequence* next_prompt();
  void begin(Sequence& sequence);
  void pass(const std::vector<Sequence*>& decoding, Sequence* prompt);
  void pass_drafted(const std::vector<Sequence*>& drafting);
  void pass_with_prompt_logprobs(Sequence& sequence);
  void fail(const std::vector<Sequence*>& batch, Sequence* culprit,
            const std::exception_ptr& error);
  void took_in(Sequence& sequence, std::size_t count);
  void choose(Sequence& sequence, std::span<const float> logits);
  bool tell(Sequence& sequence, const ServedToken& token);
  void keep(Sequence& sequence, bool last);
  void finish(Sequence& sequence, SequenceEnd end);
  void remove_cancelled();
  void publish();

  ServedModel& model_;
  SchedulerOptions options_;
  PrefixCache cache_;
  Sequences running_;                             // this thread's
  std::map<std::string, std::uint64_t> service_;  // tokens taken in, by client that is there
  std::vector<float> logits_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  Sequences waiting_;              // guarded
  std::map<Id, Sequence*> by_id_;  // guarded
  Id last_id_ = 0;                 // guarded
  bool closed_ = false;            // guarded
  Clock::time_point deadline_{};   // guarded: of what runs, once closed
  SchedulerCounts counts_;         // this thread's
  SchedulerCounts published_;      // guarded
  std::size_t refused_ = 0;        // guarded
};

inline Scheduler::Scheduler(ServedModel& model, SchedulerOptions options)
    : model_(model), options_(std::move(options)), cache_(model, options_.cache) {
  options_.parallel = std::max<std::size_t>(options_.parallel, 1);
  options_.piece = std::max<std::size_t>(options_.piece, 2 * kLongestStep);
  publish();
}

inline Scheduler::Id Scheduler::submit(SequenceRequest request) {
  const std::size_t vocab = model_.config().vocab_size;
  if (request.ids.empty()) throw Error("prompt", "found no token, expected at least one");
  for (const std::int32_t id : request.ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= vocab) {
      throw Error("prompt", "found id " + std::to_string(id) + ", expected 0 to " +
                                std::to_string(vocab - 1));
    }
  }
  const std::size_t size = request.ids.size();
  const std::size_t room = context() - std::min(context(), size);
  if (size > context() || (room == 0 && request.max_tokens > 0)) {
    throw Error(ErrorKind::context, "prompt",
                "found " + std::to_string(size) + " tokens, expected fewer than the " +
                    std::to_string(context()) + " of the context");
  }
  request.max_tokens = std::min(request.max_tokens, room);
  if (is_limited() && planned(size + 1) > options_.state_bytes) {
    throw Error(ErrorKind::memory, "prompt",
                "found " + std::to_string(size) + " tokens, whose state takes " +
                    std::to_string(planned(size + 1)) + " bytes, expected at most " +
                    std::to_string(options_.state_bytes));
  }
  if (is_limited()) {  // as many as there is memory for
    std::size_t most = request.max_tokens;
    for (std::size_t least = 0; least < most;) {
      const std::size_t middle = least + (most - least + 1) / 2;
      if (planned(size + middle) > options_.state_bytes) {
        most = middle - 1;
      } else {
        least = middle;
      }
    }
    request.max_tokens = most;
  }
  auto sequence = std::make_unique<Sequence>(Sequence{.id = 0,
                                                      .request = std::move(request),
                                                      .ids = {},
                                                      .state = {},
                                                      .chooser = TokenChooser({}, nullptr),
                                                      .draft = {},
                                                      .result = {}});
  SequenceRequest& kept = sequence->request;
  sequence->chooser = TokenChooser(kept.choice, kept.constraint);
  sequence->ids = kept.ids;
  sequence->result.prompt_tokens = size;
  const bool drafts =
      options_.draft && sequence->chooser.is_plain() && !kept.logprobs && kept.observer == nullptr;
  if (drafts && (!options_.draft->is_automatic() || kept.choice.sampler.temperature == 0)) {
    sequence->draft = options_.draft;
  }
  const std::scoped_lock lock(mutex_);
  if (closed_ || waiting_.size() >= options_.waiting) {
    ++refused_;
    throw Error(ErrorKind::memory, "scheduler",
                closed_ ? "found it closing, expected one that takes requests"
                        : "found " + std::to_string(waiting_.size()) +
                              " requests that wait, expected fewer");
  }
  sequence->id = sequence->order = ++last_id_;
  by_id_[sequence->id] = sequence.get();
  waiting_.push_back(std::move(sequence));
  wake_.notify_all();
  return last_id_;
}

inline void Scheduler::cancel(Id id) {
  const std::scoped_lock lock(mutex_);
  const auto at = by_id_.find(id);
  if (at == by_id_.end()) return;
  at->second->cancelled = true;
  wake_.notify_all();
}

inline SchedulerCounts Scheduler::counts() const {
  const std::scoped_lock lock(mutex_);
  SchedulerCounts counts = published_;
  counts.waiting = waiting_.size();
  counts.refused = refused_;
  return counts;
}

inline void Scheduler::publish() {
  counts_.running = running_.size();
  counts_.state_bytes = planned_of_all();
  counts_.cache = cache_.counts();
  const std::scoped_lock lock(mutex_);
  published_ = counts_;
}

inline void Scheduler::close(std::chrono::milliseconds grace) {
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  deadline_ = Clock::now() + grace;
  wake_.notify_all();
}

inline void Scheduler::run() {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (closed_ && Clock::now() >= deadline_) {
        for (const auto& [id, sequence] : by_id_) sequence->cancelled = true;
      }
    }
    if (step()) continue;
    std::unique_lock lock(mutex_);
    if (!waiting_.empty()) continue;
    if (closed_) return;
    lock.unlock();
    const bool saved = cache_.save_one();  // while there is nothing else to do
    publish();
    if (saved) continue;
    lock.lock();
    wake_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
  }
}

inline void Scheduler::save(std::chrono::milliseconds most) {
  const auto deadline = Clock::now() + most;
  cache_.save_all([&] { return Clock::now() < deadline; });
  publish();
}

inline std::size_t Scheduler::planned_of_all() const {
  std::size_t bytes = 0;
  for (const auto& sequence : running_) bytes += planned(sequence->taken);
  return bytes;
}

/// Lets those that wait run, as many as there is room for: first the clients that less was done
/// for.
inline void Scheduler::admit() {
  const std::scoped_lock lock(mutex_);
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  std::map<std::string, std::uint64_t> service;  // those that are gone are forgotten
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      const std::string& client = sequence->request.client;
      const auto known = service_.find(client);
      if (known == service_.end()) continue;
      service[client] = known->second;
      least = std::min(least, known->second);
    }
  }
  // A new one has no credit from the time before it came.
  for (const auto& sequence : waiting_) {
    service.try_emplace(sequence->request.client, service.empty() ? 0 : least);
  }
  service_ = std::move(service);
  while (!waiting_.empty() && running_.size() < options_.parallel) {
    auto best = waiting_.end();
    for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
      const auto rank = [&](const Sequence& sequence) {
        std::size_t own = 0;  // how many of the client's run
        for (const auto& other : running_) {
          own += other->request.client == sequence.request.client ? 1 : 0;
        }
        return std::tuple(own, service_[sequence.request.client], sequence.order);
      };
      if (best == waiting_.end() || rank(**at) < rank(**best)) best = at;
    }
    if (is_limited() && !running_.empty() &&
        planned_of_all() + planned((*best)->ids.size()) > options_.state_bytes) {
      return;
    }
    running_.splice(running_.end(), waiting_, best);
  }
}

/// Where the states would outgrow their memory, the youngest sequence gives up its own, and waits.
inline void Scheduler::make_room() {
  while (is_limited() && running_.size() > 1 && planned_of_all() > options_.state_bytes) {
    const auto youngest = std::ranges::max_element(
        running_, {}, [](const auto& sequence) { return sequence->order; });
    give_up_state(**youngest);
    ++counts_.preempted;
    const std::scoped_lock lock(mutex_);
    waiting_.splice(waiting_.begin(), running_, youngest);
  }
}

inline void Scheduler::give_up_state(Sequence& sequence) {
  sequence.seen = std::max(sequence.seen, sequence.taken);
  sequence.state.reset();
  sequence.prompt.clear();
  sequence.taken = sequence.snapshot = 0;
}

/// Whether what another sequence is just taking in is more of this one's beginning than any state
/// has.
inline bool Scheduler::waits_for_another(const Sequence& sequence) const {
  if (sequence.state.has_value() || sequence.request.observer != nullptr ||
      sequence.request.prompt_logprobs) {
    return false;
  }
  const std::size_t reached = cache_.reach(sequence.ids);
  return std::ranges::any_of(running_, [&](const auto& other) {
    if (other.get() == &sequence || !other->state.has_value() || other->decodes()) return false;
    const auto common = static_cast<std::size_t>(
        std::ranges::mismatch(other->ids, sequence.ids).in1 - other->ids.begin());
    return common > other->taken && std::min(common, sequence.ids.size() - 1) > reached;
  });
}

/// The sequence whose prompt the next pass goes on with.
inline Scheduler::Sequence* Scheduler::next_prompt() {
  Sequence* best = nullptr;
  const auto rank = [&](const Sequence& sequence) {
    return std::pair(service_[sequence.request.client], sequence.order);
  };
  for (const auto& sequence : running_) {
    if (sequence->decodes()) continue;
    if (best != nullptr && rank(*best) <= rank(*sequence)) continue;
    if (waits_for_another(*sequence)) continue;
    best = sequence.get();
  }
  return best;
}

inline void Scheduler::begin(Sequence& sequence) {
  const bool drafts = options_.draft.has_value();
  PrefixCache::Found found;
  if (sequence.request.observer == nullptr && !sequence.request.prompt_logprobs) {
    found = cache_.find(sequence.ids);
  }
  if (found.state.has_value()) {
    sequence.state = std::move(found.state);
  } else {
    sequence.state = model_.new_served_state(options_.piece + kLongestStep, drafts);
  }
  sequence.taken = sequence.snapshot = found.position;
  const std::size_t cached = std::min(found.position, sequence.result.prompt_tokens);
  if (sequence.seen == 0) {
    sequence.result.cached_tokens = cached;
    counts_.cached += cached;
  }
}

inline bool Scheduler::step() {
  remove_cancelled();
  admit();
  std::vector<Sequence*> decoding;
  std::vector<Sequence*> drafting;
  std::vector<Sequence*> watched;
  for (const auto& sequence : running_) {
    if (!sequence->decodes()) continue;
    (sequence->request.observer != nullptr ? watched
     : sequence->draft                     ? drafting
                                           : decoding)
        .push_back(sequence.get());
  }
  Sequence* prompt = next_prompt();
  if (prompt != nullptr && !prompt->state.has_value()) {
    try {
      begin(*prompt);
    } catch (...) {
      fail({prompt}, prompt, std::current_exception());
      prompt = nullptr;
    }
  }
  const bool any = prompt != nullptr || !running_.empty();
  if (prompt != nullptr && prompt->request.prompt_logprobs && prompt->result.generated == 0) {
    pass_with_prompt_logprobs(*prompt);
  } else if (prompt != nullptr && prompt->request.observer != nullptr) {
    pass({}, prompt);
  } else if (prompt != nullptr) {
    pass(decoding, prompt);
    decoding.clear();
  }
  if (!decoding.empty()) pass(decoding, nullptr);
  for (Sequence* sequence : watched) pass({sequence}, nullptr);
  if (!drafting.empty()) pass_drafted(drafting);
  make_room();
  publish();
  return any;
}

inline void Scheduler::pass(const std::vector<Sequence*>& decoding, Sequence* prompt) {
  std::vector<Sequence*> batch = decoding;
  if (prompt != nullptr) batch.push_back(prompt);
  std::vector<ServedModel::Sequence> sequences;
  std::vector<std::size_t> counts;
  StageObserver<float>* observer = nullptr;
  for (Sequence* sequence : batch) {
    std::size_t count = sequence->pending();
    // Forks are kept at the ends of pieces, from where every token between can be rolled back to.
    if (sequence == prompt) {
      count = std::min(count, sequence->snapshot + options_.piece - sequence->taken);
    }
    counts.push_back(count);
    sequences.push_back(
        {&sequence->state, std::span(sequence->ids).subspan(sequence->taken, count)});
    if (sequence->request.observer != nullptr) observer = sequence->request.observer;
  }
  logits_.resize(batch.size() * model_.config().vocab_size);
  StopCheck stop;
  if (prompt != nullptr) {
    stop = [&] {
      const std::scoped_lock lock(mutex_);
      return prompt->cancelled || (closed_ && Clock::now() >= deadline_);
    };
  }
  try {
    model_.forward_last(sequences, logits_, observer, stop);
  } catch (const Stopped&) {
    return;  // all states are as before
  } catch (...) {
    fail(batch, prompt != nullptr ? prompt : batch.back(), std::current_exception());
    return;
  }
  ++counts_.passes;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    took_in(*batch[i], counts[i]);
    if (batch[i]->pending() > 0) continue;
    choose(*batch[i], std::span<const float>(logits_).subspan(i * model_.config().vocab_size,
                                                              model_.config().vocab_size));
  }
}

/// A piece of a prompt whose tokens are wanted with their log-probabilities.
inline void Scheduler::pass_with_prompt_logprobs(Sequence& sequence) {
  constexpr std::size_t kRows = 64;  // of logits at a time
  const std::size_t V = model_.config().vocab_size;
  const std::size_t count = std::min(kRows, sequence.pending());
  std::vector<float> rows;
  try {
    rows =
        model_.forward_all(sequence.state, std::span(sequence.ids).subspan(sequence.taken, count));
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t next = sequence.taken + i + 1;
      if (next == sequence.ids.size()) break;
      ServedToken token{sequence.ids[next]};
      std::tie(token.logprob, token.likeliest) = log_probabilities(
          std::span<const float>(rows).subspan(i * V, V), token.id, sequence.request.top_logprobs);
      sequence.prompt.push_back(std::move(token));
    }
  } catch (...) {
    fail({&sequence}, &sequence, std::current_exception());
    return;
  }
  ++counts_.passes;
  took_in(sequence, count);
  if (sequence.pending() > 0) return;
  if (sequence.request.on_prompt) sequence.request.on_prompt(std::exchange(sequence.prompt, {}));
  choose(sequence, std::span<const float>(rows).last(V));
}

inline void Scheduler::pass_drafted(const std::vector<Sequence*>& drafting) {
  std::vector<ServedModel::Drafted> sequences;
  sequences.reserve(drafting.size());
  for (Sequence* sequence : drafting) {
    sequences.push_back({&sequence->state, sequence->ids.back(), &sequence->chooser.sampler(),
                         sequence->draft ? &*sequence->draft : nullptr,
                         sequence->request.max_tokens - sequence->result.generated});
  }
  std::vector<std::vector<std::int32_t>> chosen;
  try {
    chosen = model_.decode_drafted(sequences);
  } catch (...) {
    fail(drafting, drafting.back(), std::current_exception());
    return;
  }
  ++counts_.passes;
  for (std::size_t i = 0; i < drafting.size(); ++i) {
    Sequence& sequence = *drafting[i];
    sequence.taken += chosen[i].size();  // what was chosen last before, and all but the last now
    service_[sequence.request.client] += chosen[i].size();
    bool goes_on = true;
    try {
      for (std::size_t k = 0; goes_on && k < chosen[i].size(); ++k) {
        sequence.ids.push_back(chosen[i][k]);
        goes_on = tell(sequence, {chosen[i][k]});
      }
    } catch (...) {
      fail({&sequence}, &sequence, std::current_exception());
      continue;
    }
    // A draft may have gone on behind the end.
    const std::size_t taken = std::min(sequence.taken, sequence.ids.size());
    model_.rollback(sequence.state, sequence.taken - taken);
    sequence.taken = taken;
    if (goes_on) {
      keep(sequence, false);
    } else {
      keep(sequence, true);
      finish(sequence, sequence.result.end);
    }
  }
}

inline void Scheduler::took_in(Sequence& sequence, std::size_t count) {
  const std::size_t prompt = sequence.result.prompt_tokens;
  for (std::size_t i = sequence.taken; i < sequence.taken + count; ++i) {
    if (i < sequence.seen) {
      ++counts_.repeated;
    } else if (i < prompt) {
      ++counts_.prefilled;
    }
  }
  sequence.taken += count;
  service_[sequence.request.client] += count;
  if (sequence.taken <= prompt && sequence.request.on_progress) {
    sequence.request.on_progress(sequence.taken, prompt);
  }
  keep(sequence, false);
}

inline void Scheduler::choose(Sequence& sequence, std::span<const float> logits) {
  if (sequence.request.max_tokens == 0) {
    keep(sequence, true);
    finish(sequence, SequenceEnd::length);
    return;
  }
  try {
    ServedToken token{sequence.chooser(logits)};
    if (sequence.request.logprobs) {
      std::tie(token.logprob, token.likeliest) =
          log_probabilities(logits, token.id, sequence.request.top_logprobs);
    }
    sequence.ids.push_back(token.id);
    if (sequence.result.generated == 0) keep(sequence, true);  // the whole prompt
    if (tell(sequence, token)) return;
  } catch (...) {
    fail({&sequence}, &sequence, std::current_exception());
    return;
  }
  keep(sequence, true);
  finish(sequence, sequence.result.end);
}

/// Tells a token, the last of ids; false if it is the last of the sequence, whose end is then set.
inline bool Scheduler::tell(Sequence& sequence, const ServedToken& token) {
  ++sequence.result.generated;
  ++counts_.generated;
  const std::int32_t id = token.id;
  const bool goes_on = !sequence.request.on_token || sequence.request.on_token(token);
  if (!goes_on || std::ranges::count(sequence.request.ends, id) != 0) {
    sequence.result.end = SequenceEnd::stop;
    return false;
  }
  if (sequence.result.generated >= sequence.request.max_tokens) {
    sequence.result.end = SequenceEnd::length;
    return false;
  }
  return true;
}

/// Keeps a fork of the state if it is the last one or, soon, could not be rolled back to the one
/// before.
inline void Scheduler::keep(Sequence& sequence, bool last) {
  if (sequence.taken == sequence.snapshot || sequence.taken == 0) return;
  const bool due = sequence.taken + kLongestStep > sequence.snapshot + options_.piece;
  if (!due && !last) return;
  try {
    cache_.insert(std::span(sequence.ids).first(sequence.taken), sequence.state);
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): it goes on without
  }
  sequence.snapshot = sequence.taken;
}

/// A pass has thrown: one sequence fails, the others take in their tokens again.
inline void Scheduler::fail(const std::vector<Sequence*>& batch, Sequence* culprit,
                            const std::exception_ptr& error) {
  for (Sequence* sequence : batch) give_up_state(*sequence);
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    culprit->result.error = known.what();
    culprit->result.kind = known.kind();
  } catch (const std::bad_alloc&) {
    culprit->result.error = "ds4: sequence: expected memory for it, found none";
    culprit->result.kind = ErrorKind::memory;
  } catch (const std::exception& other) {
    culprit->result.error = std::string("ds4: sequence: ") + other.what();
    culprit->result.kind = ErrorKind::lost;
  }
  finish(*culprit, SequenceEnd::failed);
}

inline void Scheduler::finish(Sequence& sequence, SequenceEnd end) {
  sequence.result.end = end;
  ++(end == SequenceEnd::failed      ? counts_.failed
     : end == SequenceEnd::cancelled ? counts_.cancelled
                                     : counts_.finished);
  std::unique_ptr<Sequence> over;
  for (auto at = running_.begin(); at != running_.end(); ++at) {
    if (at->get() != &sequence) continue;
    over = std::move(*at);
    running_.erase(at);
    break;
  }
  {
    const std::scoped_lock lock(mutex_);
    by_id_.erase(sequence.id);
  }
  if (sequence.request.on_end) sequence.request.on_end(sequence.result);
}

inline void Scheduler::remove_cancelled() {
  std::vector<Sequence*> cancelled;
  {
    const std::scoped_lock lock(mutex_);
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      const auto next = std::next(at);
      if ((*at)->cancelled) running_.splice(running_.end(), waiting_, at);
      at = next;
    }
    for (const auto& sequence : running_) {
      if (sequence->cancelled) cancelled.push_back(sequence.get());
    }
  }
  for (Sequence* sequence : cancelled) {
    if (sequence->state.has_value()) keep(*sequence, true);
    finish(*sequence, SequenceEnd::cancelled);
  }
}

}  // namespace ds4::inline v0_1
