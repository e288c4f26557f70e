// The model: embedding, the typed sequence of layers, head; prefill and decode.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
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
#include <ds4/core/error.hpp>
#include <ds4/core/version.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/mtp.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/state/state.hpp>

namespace ds4::inline v0_1 {

/// Which of a pass's tokens get logits.
enum class LogitsOf : std::uint8_t { all, last };

/// A DeepSeek-V4 model of configuration C on backend B. Weights are shared between copies; scratch
/// memory is not, so each thread may run its own copy. Source: model.md 2.
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

  /// One sequence of a batch: the tokens to take in, and the state they continue.
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
  /// Throws ds4::Error for an empty prompt, ids outside the vocabulary, or a context overflow; the
  /// state is then as before. Throws as well if a file of the checkpoint can no longer be read
  /// whole (see FaultGuard); the state is then lost. The observer, if any, sees every part and
  /// stage of the passes, of which a long prompt takes several.
  Logits prefill(State& state, std::span<const std::int32_t> ids,
                 StageObserver<Scalar>* observer = nullptr);

  /// Takes in one token and returns its logits [V]. Throws as prefill does.
  Logits decode(State& state, std::int32_t id, StageObserver<Scalar>* observer = nullptr) {
    return prefill(state, {&id, 1}, observer);
  }

  /// Takes in some tokens, at least one, and returns the likeliest next one, a tie to the lower id:
  /// the argmax of what prefill returns, found where the logits are. Throws as prefill does.
  std::int32_t greedy(State& state, std::span<const std::int32_t> ids);

  /// Takes in some tokens and returns every token's logits [S, V]. Throws as prefill does.
  LogitsRows forward(State& state, std::span<const std::int32_t> ids,
                     StageObserver<Scalar>* observer = nullptr) {
    const Sequence sequence{&state, ids};
    return forward({&sequence, 1}, LogitsOf::all, observer);
  }

  /// One pass over several sequences with states of their own. Returns the logits of all tokens,
  /// sequence after sequence, or of each sequence's last token. The observer, if any, sees every
  /// stage. Throws as prefill does.
  LogitsRows forward(std::span<const Sequence> batch, LogitsOf which,
                     StageObserver<Scalar>* observer = nullptr);

  /// Whether the checkpoint has a multi-token-prediction layer.
  bool has_mtp() const { return weights_->mtp.has_value(); }

  /// Drafts the tokens that may follow `next`, itself the token that was chosen to follow what the
  /// state has taken in: up to `count` of them, each chosen by choose(logits [V] of the
  /// multi-token-prediction layer) and the first made from the state, the others from the layer's
  /// own output. Fewer where the context ends, and none if the state does not keep drafts for long
  /// enough (see State::keep_drafts). What the state has taken in stays as it is. Throws ds4::Error
  /// if the model has no such layer, or for an id outside the vocabulary. Source: model.md 9.2.
  template <class Choose>
  std::vector<std::int32_t> draft(State& state, std::int32_t next, std::size_t count,
                                  Choose&& choose);

  /// The logits [n, V] of the multi-token-prediction layer at the last n positions before the
  /// state's last: those that no draft and no call like this has reached yet, as far as the state
  /// keeps drafts. Position t's predict token t + 2. Throws ds4::Error if the model has no such
  /// layer. The observer, if any, sees the stages of a layer num_hidden_layers.
  LogitsRows mtp_logits(State& state, StageObserver<Scalar>* observer = nullptr);

  /// The checkpoint that was loaded, its files mapped.
  const Checkpoint& checkpoint() const { return weights_->checkpoint; }

  /// Bytes of scratch memory that the backend keeps from pass to pass.
  std::size_t scratch_bytes() const { return backend_.scratch_bytes(); }

  /// What the model runs on, for its settings and counts.
  const B& backend() const { return backend_; }

  /// The configuration as the checkpoint's config.json states it.
  const ConfigValues& config() const { return weights_->config; }

 private:
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t kPairs = C::qk_rope_head_dim / 2;
  static constexpr std::size_t kPrefillChunk = prefill_chunk(C{}, sizeof(Scalar));

  struct Weights : ModelWeights<C, B> {
    ConfigValues config;
    Checkpoint checkpoint;  // keeps the files mapped
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
      : backend_(std::move(backend)), weights_(std::move(weights)) {}

  static void check_input(const State& state, std::span<const std::int32_t> ids);
  static void check_id(const std::string& where, std::int32_t id);
  /// Throws ds4::Error if there is none.
  const MtpLayer<C, B>& checked_mtp() const;

  /// One pass over a batch whose input is checked. finish(lane, scratch, y) makes what is wanted of
  /// y, the final norm's output [rows, D] of the tokens that get logits.
  template <class Finish>
  void run(std::span<const Sequence> batch, LogitsOf which, StageObserver<Scalar>* observer,
           Finish&& finish);

  /// The pass itself, run by every lane of the backend, for the rows `wanted`.
  template <class Finish>
  void run_pass(B& backend, std::span<const std::int32_t> ids, std::span<const Segment> segments,
                std::span<typename State::Layers* const> layers, std::span<State* const> states,
                std::span<const std::int32_t> wanted, StageObserver<Scalar>* observer,
                Finish&& finish) const;

  /// Collapses the streams [rows, N, D] of tokens that get logits, norms them and calls finish.
  template <class Finish>
  void run_head(const Pass<C, B>& pass, const HyperHead<C, B>& hc_head,
                const typename B::template Parameter<D>& norm, RowsView<const Element, N, D> last,
                Finish&& finish) const;

  /// The multi-token-prediction layer on the rows `first`, ... of a sequence, `next` the tokens
  /// that follow each. Returns the logits [rows, V] of the last `rows` of them; of the others only
  /// what these see is made. `chain`: the last one's streams stand for those of the next position.
  LogitsRows run_mtp(State& state, std::size_t first, std::span<const std::int32_t> next,
                     std::size_t rows, bool chain, StageObserver<Scalar>* observer)
    requires(C::num_nextn_predict_layers > 0);

  B backend_;
  std::shared_ptr<const Weights> weights_;
};

template <ModelConfig C, Backend B>
Model<C, B> Model<C, B>::load(const std::filesystem::path& dir, B backend) {
  const ConfigValues config = read_config_of<C>(dir);
  auto weights = std::make_shared<Weights>(Checkpoint::open(dir));
  weights->config = config;
  const Checkpoint& checkpoint = weights->checkpoint;
  std::size_t bytes = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) bytes += tensor.data.size();
  backend.expect_weights(bytes, checkpoint.tells_residency());
  WeightLoader<B> loader(checkpoint, backend);
  if (weights->config.has_dspark) loader.set_aside("mtp.");
  if (drafter_of(weights->config, checkpoint) == DrafterKind::mtp) weights->mtp.emplace();
  weights->visit(loader);
  loader.finish();
  weights->find_dense();
  checkpoint.check();
  return Model(std::move(backend), std::move(weights));
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_input(const State& state, std::span<const std::int32_t> ids) {
  if (ids.empty()) throw Error("tokens", "found none, expected at least one");
  for (std::size_t i = 0; i < ids.size(); ++i) check_id("token " + std::to_string(i), ids[i]);
  if (ids.size() > C::max_position_embeddings - state.position) {
    throw Error("context", "found " + std::to_string(state.position + ids.size()) +
                               " tokens, expected at most max_position_embeddings " +
                               std::to_string(C::max_position_embeddings));
  }
}

template <ModelConfig C, Backend B>
void Model<C, B>::check_id(const std::string& where, std::int32_t id) {
  if (id < 0 || static_cast<std::size_t>(id) >= V) {
    throw Error(where,
                "found id " + std::to_string(id) + ", expected 0 to " + std::to_string(V - 1));
  }
}

template <ModelConfig C, Backend B>
const MtpLayer<C, B>& Model<C, B>::checked_mtp() const {
  const std::optional<MtpLayer<C, B>>& mtp = weights_->mtp;
  if (!mtp) {
    throw Error("draft",
                "expected a checkpoint with a multi-token-prediction layer, mtp.0.*, " +
                    std::string(config().has_dspark ? "found a dspark drafter" : "found none"));
  }
  return *mtp;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::prefill(State& state, std::span<const std::int32_t> ids,
                          StageObserver<Scalar>* observer) -> Logits {
  check_input(state, ids);
  Logits last;
  while (!ids.empty()) {
    const Sequence chunk{&state, ids.first(std::min(ids.size(), kPrefillChunk))};
    const auto logits = forward({&chunk, 1}, LogitsOf::last, observer);
    std::ranges::copy(logits.flat(), last.data());
    ids = ids.subspan(chunk.ids.size());
  }
  return last;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::forward(std::span<const Sequence> batch, LogitsOf which,
                          StageObserver<Scalar>* observer) -> LogitsRows {
  for (const Sequence& sequence : batch) check_input(*sequence.state, sequence.ids);
  std::size_t tokens = 0;
  for (const Sequence& sequence : batch) tokens += sequence.ids.size();
  LogitsRows logits(which == LogitsOf::all ? tokens : batch.size());
  run(batch, which, observer, [&](B& lane, auto& scratch, RowsView<const Element, D> y) {
    auto rows = scratch.template result<V>(logits.view());
    ops::linear(lane, rows, y, weights_->head);
    lane.deliver(logits.flat(), rows.as_const().flat());
  });
  return logits;
}

template <ModelConfig C, Backend B>
std::int32_t Model<C, B>::greedy(State& state, std::span<const std::int32_t> ids) {
  check_input(state, ids);
  std::int32_t next = 0;
  while (!ids.empty()) {
    const Sequence chunk{&state, ids.first(std::min(ids.size(), kPrefillChunk))};
    run({&chunk, 1}, LogitsOf::last, nullptr,
        [&](B& lane, auto& scratch, RowsView<const Element, D> y) {
          auto logits = scratch.template rows<V>(1);
          auto best = scratch.template indices<1>(1);
          ops::linear(lane, logits, y, weights_->head);
          ops::argmax(lane, best, logits);
          lane.deliver(std::span(&next, 1), best.as_const().flat());
        });
    ids = ids.subspan(chunk.ids.size());
  }
  return next;
}

template <ModelConfig C, Backend B>
template <class Finish>
void Model<C, B>::run(std::span<const Sequence> batch, LogitsOf which,
                      StageObserver<Scalar>* observer, Finish&& finish) {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> wanted;  // rows that get logits
  std::vector<Segment> segments;
  std::vector<typename State::Layers*> layers;
  std::vector<State*> states;
  for (const Sequence& sequence : batch) {
    segments.push_back({ids.size(), sequence.ids.size(), sequence.state->position,
                        sequence.state->rollback_limit()});
    layers.push_back(&sequence.state->layers);
    states.push_back(sequence.state);
    for (const std::int32_t id : sequence.ids) {
      if (which == LogitsOf::all) wanted.push_back(static_cast<std::int32_t>(ids.size()));
      ids.push_back(id);
    }
    if (which == LogitsOf::last) wanted.push_back(static_cast<std::int32_t>(ids.size() - 1));
  }
  backend_.run(
      [&](B& lane) { run_pass(lane, ids, segments, layers, states, wanted, observer, finish); });
  weights_->checkpoint.check();
  for (const Sequence& sequence : batch) sequence.state->advance(sequence.ids);
}

template <ModelConfig C, Backend B>
template <class Finish>
void Model<C, B>::run_pass(B& backend, std::span<const std::int32_t> host_ids,
                           std::span<const Segment> segments,
                           std::span<typename State::Layers* const> layers,
                           std::span<State* const> states, std::span<const std::int32_t> wanted,
                           StageObserver<Scalar>* observer, Finish&& finish) const {
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
                  observer};

  backend.read_ahead(w.dense[0]);
  auto X = scratch.template rows<N, D>(S);  // the residual streams
  {
    const auto region = pass.region("embed");
    ops::embed(backend, X, ids, w.embed);
  }
  w.layers.for_each_with(backend, layers,
                         [&](std::size_t number, const auto& layer, auto layer_states) {
                           pass.layer = number;
                           backend.read_ahead(w.dense[number + 1]);
                           layer.forward(pass, X, layer_states);
                         });

  if constexpr (C::num_nextn_predict_layers > 0) {
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (!states[i]->keeps_drafts()) continue;
      auto& streams = states[i]->mtp.streams;
      const auto all = X.template as<N * D>();
      ops::append(backend, streams, all.rows(segments[i].first, segments[i].count));
      ops::forget_before(backend, streams, MtpLayer<C, B>::first_needed(segments[i].earliest()));
    }
  }

  const auto region = pass.region("head");
  auto last = scratch.template rows<N, D>(wanted.size());
  ops::take_rows(backend, last, X, rows);
  run_head(pass, w.hc_head, w.norm, last, finish);
}

template <ModelConfig C, Backend B>
template <class Finish>
void Model<C, B>::run_head(const Pass<C, B>& pass, const HyperHead<C, B>& hc_head,
                           const typename B::template Parameter<D>& norm,
                           RowsView<const Element, N, D> last, Finish&& finish) const {
  B& backend = pass.backend;
  auto scratch = backend.scratch();
  auto y = scratch.template rows<D>(last.extent(0));
  hc_head.read(backend, y, last);
  pass.observe("hc_head", y);
  ops::rms_norm(backend, y, y, norm, C::rms_norm_eps);
  pass.observe("final_norm", y);
  finish(backend, scratch, y.as_const());
}

template <ModelConfig C, Backend B>
template <class Choose>
std::vector<std::int32_t> Model<C, B>::draft(State& state, std::int32_t next, std::size_t count,
                                             Choose&& choose) {
  checked_mtp();
  check_id("token", next);
  std::vector<std::int32_t> drafted;
  if constexpr (C::num_nextn_predict_layers > 0) {
    const std::size_t position = state.position;
    if (!state.keeps_drafts() || !state.mtp.reaches(position)) return drafted;
    // The pass that takes in `next` and the drafts has to fit.
    count = std::min(
        count, C::max_position_embeddings - std::min(C::max_position_embeddings, position + 1));
    std::size_t first = state.mtp.next_row(position);
    std::vector<std::int32_t> ids = state.mtp.next_ids(first);
    ids.push_back(next);
    struct Restored {  // also if choose throws
      State& state;
      ~Restored() { state.mtp.truncate(state.position); }
    } const restored{state};
    while (drafted.size() < count) {
      const LogitsRows logits = run_mtp(state, first, ids, 1, drafted.size() + 1 < count, nullptr);
      drafted.push_back(choose(logits.flat()));
      check_id("draft " + std::to_string(drafted.size()), drafted.back());
      first += ids.size();
      ids = {drafted.back()};
    }
  }
  return drafted;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::mtp_logits(State& state, StageObserver<Scalar>* observer) -> LogitsRows {
  checked_mtp();
  LogitsRows logits;
  if constexpr (C::num_nextn_predict_layers > 0) {
    const std::size_t position = state.position;
    if (!state.keeps_drafts() || position == 0) return logits;
    const std::size_t first = state.mtp.next_row(position);
    if (first + 1 >= position) return logits;
    const std::vector<std::int32_t> ids = state.mtp.next_ids(first);
    // A row that the window does not reach back from gets no logits.
    const std::size_t blind = state.mtp.layer.window.first() == 0 ? 0 : C::sliding_window - 1;
    const std::size_t begin = std::max(first, state.mtp.layer.window.first() + blind);
    if (begin + 1 < position) {
      logits = run_mtp(state, first, ids, position - 1 - begin, false, observer);
    }
  }
  return logits;
}

template <ModelConfig C, Backend B>
auto Model<C, B>::run_mtp(State& state, std::size_t first, std::span<const std::int32_t> host_next,
                          std::size_t rows, bool chain, StageObserver<Scalar>* observer)
    -> LogitsRows
  requires(C::num_nextn_predict_layers > 0)
{
  using Mtp = MtpLayer<C, B>;
  const Mtp& extra = checked_mtp();
  const std::size_t S = host_next.size();
  const std::size_t seen = S - rows;  // rows that others only see
  // What is forgotten is what a rollback cannot reach: the row of the last token, and a draft's,
  // come again.
  const std::size_t again = state.rollback_limit() + first + S + 1 - state.position;
  const std::array<Segment, 2> segments{Segment{0, seen, first, again},
                                        Segment{0, rows, first + seen, again}};
  LogitsRows logits(rows);
  backend_.run([&](B& backend) {
    const PassRegion<B> whole(backend, observer, std::span(segments).last(1), rows);
    auto scratch = backend.scratch();
    const auto next = scratch.upload(host_next);
    const typename Pass<C, B>::Rotary rotary{scratch.template rows<kPairs>(S),
                                             scratch.template rows<kPairs>(S)};
    ops::rotary_table(backend, rotary, first, 1, rotary_frequencies<C>(AttentionKind::sliding));
    auto input = scratch.template rows<N, D>(S);
    {
      auto streams_memory = backend.scratch();
      auto X = streams_memory.template rows<N, D>(S);
      ops::read_rows(backend, X.template as<N * D>(), state.mtp.streams, first);
      extra.project(backend, input, X, next, weights_->embed);
    }
    const auto part = [&](std::size_t begin, std::size_t count, const Segment& segment) {
      const typename Pass<C, B>::Rotary table{rotary.cos.rows(begin, count),
                                              rotary.sin.rows(begin, count)};
      return Pass<C, B>{backend,  next.subspan(begin, count), {&segment, 1}, table, table,
                        observer, C::num_hidden_layers};
    };
    auto states = scratch.template array<typename Mtp::Layer::State*>(1);
    states[0] = &state.mtp.layer;
    if (seen > 0) {
      extra.layer.append_window(part(0, seen, segments[0]), input.rows(0, seen), states);
    }
    const Pass<C, B> pass = part(seen, rows, segments[1]);
    const auto last = input.rows(seen, rows);
    extra.layer.forward(pass, last, states);
    if (chain) {
      ops::append(backend, state.mtp.streams, last.rows(rows - 1, 1).template as<N * D>());
    }
    run_head(pass, extra.hc_head, extra.norm, last,
             [&](B& lane, auto& memory, RowsView<const Element, D> y) {
               auto result = memory.template result<V>(logits.view());
               ops::linear(lane, result, y, weights_->head);
               lane.deliver(logits.flat(), result.as_const().flat());
             });
  });
  weights_->checkpoint.check();
  return logits;
}

}  // namespace ds4::inline v0_1
