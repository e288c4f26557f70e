// The model: embedding, the typed sequence of layers, head; prefill and decode.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/load.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/version.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/dspark.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/mtp.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/state/dspark_pass.hpp>
#include <ds4/state/mtp_pass.hpp>
#include <ds4/state/state.hpp>

namespace ds4::inline v0_1 {

/// Which of a pass's tokens get logits.
enum class LogitsOf : std::uint8_t { all, last };

/// A DeepSeek-V4 model of configuration C on backend B. A copy shares the weights and is on a copy
/// of the backend: of Reference each thread may run one, of Simd one made by with_team(), as copies
/// share the threads. Source: model.md 2.
template <ModelConfig C, Backend B = Reference<float>>
class Model {
 public:
  ///@{
  /// What the model is made of, and the types of its results.
  using Config = C;
  using Scalar = typename B::Scalar;
  using Element = typename B::Element;
  using State = ds4::State<C, B>;
  static constexpr std::size_t V = C::vocab_size;
  using Logits = Tensor<Scalar, V>;
  using LogitsRows = Rows<Scalar, V>;
  ///@}

  /// One sequence of a batch: the tokens to take in, and the state they continue, which no other
  /// sequence of the batch does.
  struct Sequence {
    ///@{
    /// A state of the caller's, and at least one token.
    State* state;
    std::span<const std::int32_t> ids;
    ///@}
  };

  /// Loads a checkpoint folder: config.json, and model.safetensors or its shards, which stay mapped
  /// while the model or a copy lives. Throws ds4::Error if the configuration is not C's, field by
  /// field, or a tensor is missing, surplus, misshapen or of an unknown storage.
  static Model load(const std::filesystem::path& dir, B backend = B());

  ///@{
  /// The state of an empty sequence; see State about the limit.
  State new_state() const { return State(); }
  State new_state(std::size_t rollback_limit) const { return State(rollback_limit); }
  ///@}

  /// Takes in a prompt (at least one token) and returns the logits [V] of its last token.
  /// Throws ds4::Error for an empty prompt, ids outside the vocabulary, a context overflow or a
  /// lost state; the state is then as before. The observer, if any, sees every part and stage of
  /// the passes, of which a long prompt takes several. Throws Stopped soon after stop(), if there
  /// is one, gave true: the state is then as before.
  ///
  /// A pass can fail: a file of the checkpoint cannot be read whole any more (see FaultGuard),
  /// there is no memory (an Error of that kind), or the observer throws, whose exception comes out.
  /// With a stop() the state is then as before; without one it is lost (State::is_lost) if the pass
  /// had begun to write to it.
  Logits prefill(State& state, std::span<const std::int32_t> ids,
                 StageObserver<Scalar>* observer = nullptr, const StopCheck& stop = {});

  /// Takes in one token and returns its logits [V]. Throws as prefill does.
  Logits decode(State& state, std::int32_t id, StageObserver<Scalar>* observer = nullptr) {
    return prefill(state, {&id, 1}, observer);
  }

  /// Takes in some tokens, at least one, and returns the likeliest next one, a tie to the lower id:
  /// the argmax of what prefill returns, found where the logits are. That may be an id that the
  /// tokenizer does not have, where a Sampler with SamplerOptions::never chooses another. Throws as
  /// prefill does, and for logits that argmax refuses; the state has then taken in the tokens.
  std::int32_t greedy(State& state, std::span<const std::int32_t> ids, const StopCheck& stop = {});

  /// Takes in some tokens and returns every token's logits [S, V]. Throws as prefill does.
  LogitsRows forward(State& state, std::span<const std::int32_t> ids,
                     StageObserver<Scalar>* observer = nullptr, const StopCheck& stop = {}) {
    const Sequence sequence{&state, ids};
    return forward({&sequence, 1}, LogitsOf::all, observer, stop);
  }

  ///@{
  /// Several sequences with states of their own in one pass, or in several if they are longer than
  /// a long prompt's. Gives the logits of all tokens, sequence after sequence, or of each
  /// sequence's last token: rows [V], returned or written to `logits`, which has room for just
  /// these. The observer, if any, sees every stage, and all of it in one pass. Throws as prefill
  /// does, and for a batch without sequences, a sequence without a state, and a state that is
  /// another sequence's of the batch as well.
  LogitsRows forward(std::span<const Sequence> batch, LogitsOf which,
                     StageObserver<Scalar>* observer = nullptr, const StopCheck& stop = {});
  void forward(std::span<const Sequence> batch, LogitsOf which, std::span<Scalar> logits,
               StageObserver<Scalar>* observer = nullptr, const StopCheck& stop = {});
  ///@}

  /// The drafter that the checkpoint has, as far as the configuration has compiled it.
  DrafterKind drafter() const { return weights_->drafter; }
  /// The most tokens that a draft can have; 0 without a drafter.
  std::size_t longest_draft() const {
    return drafter() == DrafterKind::none     ? 0
           : drafter() == DrafterKind::dspark ? C::dspark_block_size
                                              : kLongestChain;
  }

  /// One sequence of a batch of drafts: the state that the draft continues, `next`, the token that
  /// was chosen to follow what the state has taken in, and how many tokens to draft at most.
  struct DraftRequest {
    ///@{
    /// See above.
    State* state;
    std::int32_t next;
    std::size_t count;
    ///@}
  };

  /// Drafts the tokens that may follow the `next` of each sequence: choose(i, logits [V]) gives
  /// each token of sequence i. Fewer than count where the context ends or the drafter cannot see
  /// further, and none if the state does not keep drafts for long enough (see State::keep_drafts).
  /// Where the drafter has an opinion (DSpark's confidence, a logit), wanted(i, confidence) is
  /// asked before each token whether to draft it; the answer may depend on the tokens before, not
  /// on that one. What the states have taken in stays as it is, also if something throws. Throws
  /// ds4::Error if the model has no drafter, for an id outside the vocabulary, or for a lost state.
  /// Source: model.md 9.2 and 19.3.
  template <class Choose, class Wanted>
  std::vector<std::vector<std::int32_t>> draft(std::span<const DraftRequest> batch, Choose&& choose,
                                               Wanted&& wanted);

  /// The draft of one sequence; choose(logits [V]) gives each token.
  template <class Choose>
  std::vector<std::int32_t> draft(State& state, std::int32_t next, std::size_t count,
                                  Choose&& choose) {
    const DraftRequest request{&state, next, count};
    return draft(
        std::span(&request, 1),
        [&](std::size_t, std::span<const Scalar> logits) { return choose(logits); },
        [](std::size_t, float) { return true; })[0];
  }

  /// The logits [n, V] of the multi-token-prediction layer at the last n positions before the
  /// state's last: those that no draft and no call like this has reached yet, as far as the state
  /// keeps drafts. Position t's predict token t + 2. Throws ds4::Error if the model has no such
  /// layer. The observer, if any, sees the stages of a layer num_hidden_layers.
  LogitsRows mtp_logits(State& state, StageObserver<Scalar>* observer = nullptr);

  /// The observer of the drafts' passes from now on, or null: it sees the drafter's layers as those
  /// behind the last main layer.
  void observe_drafts(StageObserver<Scalar>* observer) { draft_observer_ = observer; }

  /// The checkpoint that was loaded, its files mapped.
  const Checkpoint& checkpoint() const { return weights_->checkpoint; }
  /// Tells its weights from others: what a session is saved and loaded with. See
  /// Checkpoint::fingerprint().
  std::uint64_t fingerprint() const { return checkpoint().fingerprint(); }

  ///@{
  /// Tokens of a pass over a long prompt, and how to have it otherwise; nothing else changes by it
  /// than time and scratch memory. Unless told, 512 at most, and more where the backend says that
  /// weights are larger than memory (see prefill_chunk() and Simd::pass_memory). Throws ds4::Error
  /// for 0.
  std::size_t prefill_chunk() const { return prefill_chunk_; }
  void set_prefill_chunk(std::size_t tokens) {
    if (tokens == 0) throw Error("prefill chunk", "found 0 tokens, expected at least 1");
    prefill_chunk_ = tokens;
  }
  ///@}

  /// A copy for another thread, with the same weights, and with a team and scratch memory of its
  /// own; see Simd::with_team.
  template <class Threaded = B, class Options = typename Threaded::TeamOptions>
  Model with_team(const Options& options) const {
    Model copy(backend_.with_team(options), weights_);
    copy.prefill_chunk_ = prefill_chunk_;
    return copy;
  }

  /// Bytes of scratch memory that the backend keeps from pass to pass.
  std::size_t scratch_bytes() const { return backend_.scratch_bytes(); }
  /// Gives it back, as after a pass that was much larger than what follows.
  void release_scratch() { backend_.release_scratch(); }

  /// What the model runs on, for its settings and counts.
  const B& backend() const { return backend_; }

  /// The configuration as the checkpoint's config.json states it.
  const ConfigValues& config() const { return weights_->config; }

 private:
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t kPairs = C::qk_rope_head_dim / 2;
  /// Of a multi-token-prediction layer, which goes on from its own output.
  static constexpr std::size_t kLongestChain = 16;

  struct Weights : ModelWeights<C, B> {
    ConfigValues config;
    Checkpoint checkpoint;  // keeps the files mapped
    DrafterKind drafter = DrafterKind::none;
    // Of each layer, and last of the head: what every token reads, as stored.
    std::vector<std::vector<std::span<const std::byte>>> dense;

    explicit Weights(Checkpoint opened) : checkpoint(std::move(opened)) {}

    void find_dense() {
      constexpr std::string_view kLayers = "layers.";
      dense.resize(C::num_hidden_layers + 1);
      for (const StoredTensor& tensor : checkpoint.tensors()) {
        const std::string_view name = tensor.name;
        if (name == "head.weight") dense.back().push_back(tensor.data);
        if (!name.starts_with(kLayers) || name.find(".ffn.experts.") != name.npos) continue;
        std::size_t layer = 0;
        std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
        dense[layer].push_back(tensor.data);
      }
    }
  };

  Model(B backend, std::shared_ptr<const Weights> weights)
      : backend_(std::move(backend)), weights_(std::move(weights)) {
    if constexpr (requires { backend_.pass_memory(); }) {
      if (const std::size_t bytes = backend_.pass_memory()) {
        prefill_chunk_ = ds4::prefill_chunk(C{}, sizeof(Scalar), bytes, kLargestPrefillChunk);
      }
    }
  }

  void check_input(const State& state, std::span<const std::int32_t> ids) const;
  /// The same for all of a batch, or of a batch of drafts: there is a state for each, and another.
  template <class Of>
  static void check_states(std::span<const Of> batch);
  void check_batch(std::span<const Sequence> batch) const;
  static void check_id(const std::string& where, std::int32_t id);
  /// The type of new states' rows that may be rounded.
  DType row_type() const {
    if constexpr (requires { backend_.row_type(); }) return backend_.row_type();
    return DType::f32;  // the backend has one for all
  }
  /// Throws ds4::Error if there is none.
  void check_drafter() const;
  /// How many of the tokens wanted can be drafted.
  std::size_t draftable(const DraftRequest& request) const;

  /// Calls f(). If that throws and there is a `stop`, the states of the batch are as before.
  template <class F>
  static void restoring(std::span<const Sequence> batch, const StopCheck& stop, F&& f);

  /// Calls f(pass, first) for the passes of at most `most` tokens that take in a batch, which is
  /// checked here: each pass is of consecutive sequences from number `first` on. Restores the
  /// states.
  template <class F>
  void in_passes(std::span<const Sequence> batch, std::size_t most, const StopCheck& stop, F&& f);
  /// How many tokens a pass of a long prompt has: fewer if it can be stopped and passes are slow.
  std::size_t chunk([[maybe_unused]] const StopCheck& stop) const {
    if constexpr (requires { B::kStoppablePass; }) {
      if (stop) return std::min<std::size_t>(prefill_chunk_, B::kStoppablePass);
    }
    return prefill_chunk_;
  }

  /// One pass over a batch whose input is checked; writes its logits.
  void run_logits(std::span<const Sequence> batch, LogitsOf which, RowsView<Scalar, V> logits,
                  StageObserver<Scalar>* observer, const StopCheck& stop);

  /// One pass over a batch whose input is checked. finish(lane, scratch, y) makes what is wanted of
  /// y, the final norm's output [rows, D] of the tokens that get logits. Where it throws the states
  /// are lost once the pass has begun to write to them.
  template <class Finish>
  void run(std::span<const Sequence> batch, LogitsOf which, StageObserver<Scalar>* observer,
           const StopCheck& stop, Finish&& finish);

  /// The pass itself, run by every lane of the backend, for the rows `wanted`.
  template <class Finish>
  void run_pass(B& backend, std::span<const std::int32_t> ids, std::span<const Segment> segments,
                std::span<typename State::Layers* const> layers, std::span<State* const> states,
                std::span<const std::int32_t> wanted, StageObserver<Scalar>* observer,
                const StopCheck* stop, Finish&& finish) const;

  ///@{
  /// The drafters' passes; see state/mtp_pass.hpp and state/dspark_pass.hpp.
  LogitsRows run_mtp(std::span<const MtpRows<C, B>> batch, bool chain,
                     StageObserver<Scalar>* observer)
    requires(DraftState<C, B>::kHasMtp);
  DsparkBlocks<C, B> run_blocks(std::span<State* const> states,
                                std::span<const std::int32_t> anchors)
    requires(DraftState<C, B>::kHasDspark);
  Rows<Scalar, C::dspark_markov_rank> run_markov_rows(std::span<const std::int32_t> tokens)
    requires(DraftState<C, B>::kHasDspark);
  LogitsRows run_markov_logits(std::span<const std::int32_t> tokens)
    requires(DraftState<C, B>::kHasDspark);
  ///@}

  ///@{
  /// draft() for either kind: drafted[i] receives the tokens of batch[i], counts[i] at most.
  using Drafted = std::vector<std::vector<std::int32_t>>;
  template <class Choose>
  void draft_chains(std::span<const DraftRequest> batch, std::span<const std::size_t> counts,
                    Drafted& drafted, Choose& choose);
  template <class Choose, class Wanted>
  void draft_blocks(std::span<const DraftRequest> batch, std::span<const std::size_t> counts,
                    Drafted& drafted, Choose& choose, Wanted& wanted);
  ///@}

  B backend_;
  std::shared_ptr<const Weights> weights_;
  std::size_t prefill_chunk_ = ds4::prefill_chunk(C{}, sizeof(Scalar));
  StageObserver<Scalar>* draft_observer_ = nullptr;
};

template <ModelConfig C, Backend B>
Model<C, B> Model<C, B>::load(const std::filesystem::path& dir, B backend) {
  ConfigValues config = read_config_of<C>(dir);
  auto weights = std::make_shared<Weights>(Checkpoint::open(dir));
  const Checkpoint& checkpoint = weights->checkpoint;
  weights->drafter = complete_drafter_of<C>(config, checkpoint);
  weights->config = std::move(config);
  if constexpr (requires { backend.expect_model(weights->config, std::uint64_t{}); }) {
    backend.expect_model(weights->config, checkpoint.fingerprint());
  }
  std::size_t bytes = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) bytes += tensor.data.size();
  backend.expect_weights(bytes, checkpoint.tells_residency());
  WeightLoader<B> loader(checkpoint, backend);
  set_aside_unread(loader, weights->config, weights->drafter);
  if (weights->drafter == DrafterKind::mtp) weights->mtp.emplace();
  if constexpr (C::dspark_stages > 0) {
    if (weights->drafter == DrafterKind::dspark) {
      weights->dspark.emplace(weights->config.dspark_stages);
    }
  }
  weights->visit(loader);
  loader.finish();
  weights->find_dense();
  checkpoint.check();
  return Model(std::move(backend), std::move(weights));
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_input(const State& state, std::span<const std::int32_t> ids) const {
  if (ids.empty()) throw Error("tokens", "found none, expected at least one");
  for (std::size_t i = 0; i < ids.size(); ++i) check_id("token " + std::to_string(i), ids[i]);
  const std::size_t most = config().max_position_embeddings;
  if (ids.size() > most - std::min(most, state.position())) {
    throw Error(ErrorKind::context, "context",
                "found " + std::to_string(state.position() + ids.size()) +
                    " tokens, expected at most max_position_embeddings " + std::to_string(most));
  }
}

template <ModelConfig C, Backend B>
template <class Of>
void Model<C, B>::check_states(std::span<const Of> batch) {
  std::vector<std::pair<const State*, std::size_t>> states;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].state == nullptr) {
      throw Error("sequence " + std::to_string(i), "found no state, expected one");
    }
    batch[i].state->check();
    states.emplace_back(batch[i].state, i);
  }
  std::ranges::sort(states);
  for (std::size_t i = 1; i < states.size(); ++i) {
    if (states[i].first != states[i - 1].first) continue;
    throw Error("sequence " + std::to_string(states[i].second),
                "found the state of sequence " + std::to_string(states[i - 1].second) +
                    ", expected one of its own");
  }
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_batch(std::span<const Sequence> batch) const {
  if (batch.empty()) throw Error("batch", "found no sequence, expected at least one");
  check_states(batch);
  for (const Sequence& sequence : batch) check_input(*sequence.state, sequence.ids);
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_id(const std::string& where, std::int32_t id) {
  if (id < 0 || static_cast<std::size_t>(id) >= V) {
    throw Error(where,
                "found id " + std::to_string(id) + ", expected 0 to " + std::to_string(V - 1));
  }
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_drafter() const {
  if (drafter() != DrafterKind::none) return;
  throw Error("draft", "expected a checkpoint with a drafter, mtp.*, found " +
                           std::string(config().has_dspark && C::dspark_stages == 0
                                           ? "DSpark, which this configuration does not compile"
                                           : "none"));
}

template <ModelConfig C, Backend B>
template <class F>
void Model<C, B>::restoring(std::span<const Sequence> batch, const StopCheck& stop, F&& f) {
  std::vector<State> before;
  const auto restore = [&] {
    for (std::size_t i = 0; i < before.size(); ++i) *batch[i].state = std::move(before[i]);
  };
  try {
    for (const Sequence& sequence : batch) {
      if (stop) before.push_back(*sequence.state);
    }
    f();
  } catch (const std::bad_alloc&) {
    restore();
    throw Error(ErrorKind::memory, "pass", "expected memory for it, found none");
  } catch (...) {
    restore();
    throw;
  }
}

template <ModelConfig C, Backend B>
template <class F>
void Model<C, B>::in_passes(std::span<const Sequence> batch, std::size_t most,
                            const StopCheck& stop, F&& f) {
  check_batch(batch);
  restoring(batch, stop, [&] {
    std::vector<Sequence> pass;
    std::size_t tokens = 0;  // of the pass
    std::size_t first = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      for (auto ids = batch[i].ids; !ids.empty();) {
        if (pass.empty()) first = i;
        const auto next = ids.first(std::min(ids.size(), most - tokens));
        pass.push_back({batch[i].state, next});
        tokens += next.size();
        ids = ids.subspan(next.size());
        if (tokens < most && (!ids.empty() || i + 1 < batch.size())) continue;
        f(std::span<const Sequence>(pass), first);
        pass.clear();
        tokens = 0;
      }
    }
  });
}

template <ModelConfig C, Backend B>
auto Model<C, B>::prefill(State& state, std::span<const std::int32_t> ids,
                          StageObserver<Scalar>* observer, const StopCheck& stop) -> Logits {
  Logits last;
  const Sequence prompt{&state, ids};
  in_passes({&prompt, 1}, chunk(stop), stop, [&](std::span<const Sequence> pass, std::size_t) {
    run_logits(pass, LogitsOf::last, {last.data(), 1}, observer, stop);
  });
  return last;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::forward(std::span<const Sequence> batch, LogitsOf which,
                          StageObserver<Scalar>* observer, const StopCheck& stop) -> LogitsRows {
  check_batch(batch);
  std::size_t tokens = 0;
  for (const Sequence& sequence : batch) tokens += sequence.ids.size();
  LogitsRows logits(which == LogitsOf::all ? tokens : batch.size());
  forward(batch, which, logits.flat(), observer, stop);
  return logits;
}

template <ModelConfig C, Backend B>
void Model<C, B>::forward(std::span<const Sequence> batch, LogitsOf which, std::span<Scalar> logits,
                          StageObserver<Scalar>* observer, const StopCheck& stop) {
  std::size_t tokens = 0;
  for (const Sequence& sequence : batch) tokens += sequence.ids.size();
  const std::size_t rows = which == LogitsOf::all ? tokens : batch.size();
  if (logits.size() != rows * V) {
    throw Error("logits", "found room for " + std::to_string(logits.size()) +
                              " values, expected it for " + std::to_string(rows) + " rows of " +
                              std::to_string(V));
  }
  std::size_t done = 0;  // tokens
  const std::size_t most = observer == nullptr ? chunk(stop) : tokens;
  in_passes(batch, most, stop, [&](std::span<const Sequence> pass, std::size_t first) {
    std::size_t count = 0;
    for (const Sequence& sequence : pass) count += sequence.ids.size();
    // A sequence that goes on in the next pass has its row written again there.
    const bool all = which == LogitsOf::all;
    run_logits(pass, which, {logits.data() + (all ? done : first) * V, all ? count : pass.size()},
               observer, stop);
    done += count;
  });
}

template <ModelConfig C, Backend B>
void Model<C, B>::run_logits(std::span<const Sequence> batch, LogitsOf which,
                             RowsView<Scalar, V> logits, StageObserver<Scalar>* observer,
                             const StopCheck& stop) {
  run(batch, which, observer, stop, [&](B& lane, auto& scratch, RowsView<const Element, D> y) {
    auto rows = scratch.template result<V>(logits);
    ops::linear(lane, rows, y, weights_->head);
    lane.deliver(logits.flat(), rows.as_const().flat());
  });
}

template <ModelConfig C, Backend B>
std::int32_t Model<C, B>::greedy(State& state, std::span<const std::int32_t> ids,
                                 const StopCheck& stop) {
  std::int32_t next = 0;
  const Sequence prompt{&state, ids};
  in_passes({&prompt, 1}, chunk(stop), stop, [&](std::span<const Sequence> pass, std::size_t) {
    run(pass, LogitsOf::last, nullptr, stop,
        [&](B& lane, auto& scratch, RowsView<const Element, D> y) {
          auto logits = scratch.template rows<V>(1);
          auto best = scratch.template indices<1>(1);
          ops::linear(lane, logits, y, weights_->head);
          ops::argmax(lane, best, logits);
          lane.deliver(std::span(&next, 1), best.as_const().flat());
        });
  });
  if (next < 0) {
    throw Error("logits", "expected finite values or -inf, at least one finite, found others");
  }
  return next;
}

template <ModelConfig C, Backend B>
template <class Finish>
void Model<C, B>::run(std::span<const Sequence> batch, LogitsOf which,
                      StageObserver<Scalar>* observer, const StopCheck& stop, Finish&& finish) {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> wanted;  // rows that get logits
  std::vector<Segment> segments;
  std::vector<typename State::Layers*> layers;
  std::vector<State*> states;
  for (const Sequence& sequence : batch) {
    segments.push_back({ids.size(), sequence.ids.size(), sequence.state->position(),
                        sequence.state->rollback_limit()});
    layers.push_back(&detail::StateParts::layers(*sequence.state));
    states.push_back(sequence.state);
    detail::StateParts::expect(*sequence.state, drafter(), row_type());
    for (const std::int32_t id : sequence.ids) {
      if (which == LogitsOf::all) wanted.push_back(static_cast<std::int32_t>(ids.size()));
      ids.push_back(id);
    }
    if (which == LogitsOf::last) wanted.push_back(static_cast<std::int32_t>(ids.size() - 1));
  }
  backend_.run([&](B& lane) {
    run_pass(lane, ids, segments, layers, states, wanted, observer, stop ? &stop : nullptr, finish);
  });
  weights_->checkpoint.check();
  for (const Sequence& sequence : batch) {
    detail::StateParts::advance(*sequence.state, sequence.ids);
  }
}

template <ModelConfig C, Backend B>
template <class Finish>
void Model<C, B>::run_pass(B& backend, std::span<const std::int32_t> host_ids,
                           std::span<const Segment> segments,
                           std::span<typename State::Layers* const> layers,
                           std::span<State* const> states, std::span<const std::int32_t> wanted,
                           StageObserver<Scalar>* observer, const StopCheck* stop,
                           Finish&& finish) const {
  const std::size_t S = host_ids.size();
  const Weights& w = *weights_;
  const PassRegion<B> whole(backend, observer, segments, wanted.size());
  auto scratch = backend.scratch();
  const auto ids = scratch.upload(host_ids);
  const auto rows = scratch.upload(wanted);
  Pass<C, B> pass{backend,
                  ids,
                  segments,
                  rotary_of<C>(backend, scratch, segments, AttentionKind::sliding),
                  rotary_of<C>(backend, scratch, segments, AttentionKind::csa),
                  observer,
                  0,
                  stop};

  backend.read_ahead(w.dense[0]);
  auto X = scratch.template rows<N, D>(S);  // the residual streams
  {
    const auto region = pass.region("embed");
    ops::embed(backend, X, ids, w.embed);
  }
  constexpr std::size_t M = C::dspark_target_layer_ids.size();
  const bool wants_targets = std::ranges::any_of(
      states, [](const State* state) { return state->drafts().kind() == DrafterKind::dspark; });
  auto targets = scratch.template rows<(M > 0 ? M : 1) * D>(wants_targets ? S : 0);
  if (backend.is_leader()) {  // the one that writes to them
    for (State* state : states) detail::StateParts::begin_pass(*state);
  }
  w.layers.for_each_with(backend, layers,
                         [&](std::size_t number, const auto& layer, auto layer_states) {
                           pass.layer = number;
                           backend.read_ahead(w.dense[number + 1]);
                           layer.forward(pass, X, layer_states);
                           if constexpr (M > 0) {
                             const std::size_t slot = DsparkDrafter<C, B>::slot_of(number);
                             if (wants_targets && slot < M) {
                               ops::mean_streams(backend, targets.template as<M, D>(), slot, X);
                             }
                           }
                         });

  // What the drafter needs of this pass goes to the states that keep it.
  const auto keep = [&](std::size_t i, auto& log, auto all, std::size_t first) {
    ops::append(backend, log, all.rows(segments[i].first, segments[i].count));
    ops::forget_before(backend, log, first);
  };
  for (std::size_t i = 0; i < states.size(); ++i) {
    [[maybe_unused]] const std::size_t earliest = segments[i].earliest();
    [[maybe_unused]] auto& kept = detail::StateParts::drafts(*states[i]);
    if constexpr (DraftState<C, B>::kHasMtp) {
      if (kept.kind() == DrafterKind::mtp) {
        keep(i, kept.mtp.streams, X.template as<N * D>(), MtpLayer<C, B>::first_needed(earliest));
      }
    }
    if constexpr (DraftState<C, B>::kHasDspark) {
      if (kept.kind() == DrafterKind::dspark) {
        keep(i, kept.dspark.targets, targets, DsparkDrafter<C, B>::first_needed(earliest));
      }
    }
  }

  const auto region = pass.region("head");
  auto last = scratch.template rows<N, D>(wanted.size());
  ops::take_rows(backend, last, X, rows);
  auto y = scratch.template rows<D>(wanted.size());
  final_norm<C, B>(pass, y, w.hc_head, w.norm, last);
  finish(backend, scratch, y.as_const());
}

template <ModelConfig C, Backend B>
std::size_t Model<C, B>::draftable(const DraftRequest& request) const {
  const State& state = *request.state;
  const std::size_t position = state.position();
  if (!state.keeps_drafts() || state.drafts().kind() != drafter() ||
      !state.drafts().reaches(position)) {
    return 0;
  }
  const std::size_t most = config().max_position_embeddings;
  if constexpr (DraftState<C, B>::kHasDspark) {
    const bool dspark = drafter() == DrafterKind::dspark;
    if (dspark && position + C::dspark_block_size > most) return 0;
  }
  // The pass that takes in `next` and the drafts has to fit.
  return std::min({request.count, most - std::min(most, position + 1), longest_draft()});
}

template <ModelConfig C, Backend B>
template <class Choose, class Wanted>
std::vector<std::vector<std::int32_t>> Model<C, B>::draft(std::span<const DraftRequest> batch,
                                                          Choose&& choose, Wanted&& wanted) {
  check_drafter();
  std::vector<std::size_t> counts;
  check_states(batch);
  for (const DraftRequest& request : batch) {
    check_id("token", request.next);
    counts.push_back(draftable(request));
  }
  Drafted drafted(batch.size());
  const auto restore = [&] {
    for (const DraftRequest& request : batch) {
      detail::StateParts::drafts(*request.state).truncate(request.state->position());
    }
  };
  const auto checked = [&](std::size_t i, std::span<const Scalar> logits) {
    drafted[i].push_back(choose(i, logits));
    check_id("draft " + std::to_string(drafted[i].size()), drafted[i].back());
  };
  try {
    if constexpr (DraftState<C, B>::kHasMtp) {
      if (drafter() == DrafterKind::mtp) draft_chains(batch, counts, drafted, checked);
    }
    if constexpr (DraftState<C, B>::kHasDspark) {
      if (drafter() == DrafterKind::dspark) draft_blocks(batch, counts, drafted, checked, wanted);
    }
  } catch (...) {
    for (const DraftRequest& request : batch)
      detail::StateParts::drafts(*request.state).forget_derived();
    restore();
    throw;
  }
  restore();
  return drafted;
}

template <ModelConfig C, Backend B>
template <class Choose>
void Model<C, B>::draft_chains(std::span<const DraftRequest> batch,
                               std::span<const std::size_t> counts, Drafted& drafted,
                               Choose& choose) {
  std::vector<std::size_t> at(batch.size());  // the row that each sequence goes on with
  for (std::size_t round = 0;; ++round) {
    std::vector<std::size_t> active;
    std::vector<MtpRows<C, B>> rows;
    bool more = false;  // a sequence goes on from this round's output
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (drafted[i].size() >= counts[i]) continue;
      State& state = *batch[i].state;
      MtpRows<C, B> of{&state, at[i], {}, 1};
      if (round == 0) {
        of.first = detail::StateParts::drafts(state).mtp.next_row(state.position());
        of.next = detail::StateParts::drafts(state).mtp.next_ids(of.first);
        of.next.push_back(batch[i].next);
      } else {
        of.next = {drafted[i].back()};
      }
      at[i] = of.first + of.next.size();
      more = more || drafted[i].size() + 1 < counts[i];
      active.push_back(i);
      rows.push_back(std::move(of));
    }
    if (active.empty()) return;
    const LogitsRows logits = run_mtp(rows, more, draft_observer_);
    for (std::size_t j = 0; j < active.size(); ++j) choose(active[j], logits[j].flat());
  }
}

template <ModelConfig C, Backend B>
template <class Choose, class Wanted>
void Model<C, B>::draft_blocks(std::span<const DraftRequest> batch,
                               std::span<const std::size_t> counts, Drafted& drafted,
                               Choose& choose, Wanted& wanted) {
  constexpr std::size_t kBlock = C::dspark_block_size;
  std::vector<std::size_t> active;
  std::vector<State*> states;
  std::vector<std::int32_t> before;  // the token before each active sequence's next draft
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (counts[i] == 0) continue;
    active.push_back(i);
    states.push_back(batch[i].state);
    before.push_back(batch[i].next);
  }
  if (active.empty()) return;
  const DsparkBlocks<C, B> blocks = run_blocks(states, before);
  std::vector<std::size_t> block(active.size());  // of each active sequence
  for (std::size_t j = 0; j < block.size(); ++j) block[j] = j;
  std::vector<Scalar> logits(V);
  for (std::size_t row = 0; row < kBlock; ++row) {
    const auto w1 = run_markov_rows(before);
    std::size_t kept = 0;
    for (std::size_t j = 0; j < active.size(); ++j) {
      const std::size_t i = active[j];
      const float confidence =
          weights_->dspark->confidence(blocks.hidden[block[j] * kBlock + row].flat(), w1[j].flat());
      if (row >= counts[i] || !wanted(i, confidence)) continue;
      active[kept] = i;
      block[kept] = block[j];
      before[kept++] = before[j];
    }
    active.resize(kept);
    before.resize(kept);
    if (kept == 0) return;
    const LogitsRows bias = run_markov_logits(before);
    for (std::size_t j = 0; j < kept; ++j) {
      const auto base = blocks.logits[block[j] * kBlock + row].flat();
      std::ranges::transform(base, bias[j].flat(), logits.begin(), std::plus());
      choose(active[j], std::span<const Scalar>(logits));
      before[j] = drafted[active[j]].back();
    }
  }
}

template <ModelConfig C, Backend B>
auto Model<C, B>::run_mtp(std::span<const MtpRows<C, B>> batch, bool chain,
                          StageObserver<Scalar>* observer) -> LogitsRows
  requires(DraftState<C, B>::kHasMtp)
{
  LogitsRows logits = mtp_pass<C, B>(backend_, *weights_, batch, chain, observer);
  weights_->checkpoint.check();
  return logits;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::run_blocks(std::span<State* const> states, std::span<const std::int32_t> anchors)
    -> DsparkBlocks<C, B>
  requires(DraftState<C, B>::kHasDspark)
{
  auto blocks = dspark_blocks<C, B>(backend_, *weights_, states, anchors, draft_observer_);
  weights_->checkpoint.check();
  return blocks;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::run_markov_rows(std::span<const std::int32_t> tokens)
    -> Rows<Scalar, C::dspark_markov_rank>
  requires(DraftState<C, B>::kHasDspark)
{
  const auto& dspark = weights_->dspark;
  assert(dspark);
  return markov_rows<C, B>(backend_, *dspark, tokens);
}

template <ModelConfig C, Backend B>
auto Model<C, B>::run_markov_logits(std::span<const std::int32_t> tokens) -> LogitsRows
  requires(DraftState<C, B>::kHasDspark)
{
  const auto& dspark = weights_->dspark;
  assert(dspark);
  LogitsRows logits = markov_logits<C, B>(backend_, *dspark, tokens);
  weights_->checkpoint.check();
  return logits;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::mtp_logits(State& state, StageObserver<Scalar>* observer) -> LogitsRows {
  if (drafter() != DrafterKind::mtp) {
    throw Error("draft", "expected a checkpoint with a multi-token-prediction layer, found " +
                             std::string(name_of(drafter())));
  }
  state.check();
  LogitsRows logits;
  if constexpr (DraftState<C, B>::kHasMtp) {
    const std::size_t position = state.position();
    auto& mtp = detail::StateParts::drafts(state).mtp;
    if (state.drafts().kind() != DrafterKind::mtp || position == 0) return logits;
    const std::size_t first = mtp.next_row(position);
    if (first + 1 >= position) return logits;
    // A row that the window does not reach back from gets no logits.
    const std::size_t blind = mtp.layer.window.first() == 0 ? 0 : C::sliding_window - 1;
    const std::size_t begin = std::max(first, mtp.layer.window.first() + blind);
    if (begin + 1 < position) {
      const MtpRows<C, B> rows{&state, first, mtp.next_ids(first), position - 1 - begin};
      try {
        logits = run_mtp({&rows, 1}, false, observer);
      } catch (...) {
        detail::StateParts::drafts(state).forget_derived();
        throw;
      }
    }
  }
  return logits;
}

}  // namespace ds4::inline v0_1
