// A model whose weights can be trained: losses of sequences and their gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ds4/checkpoint/load.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/mtp.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/state/state.hpp>
#include <ds4/train/tape_backend.hpp>
#include <ds4/train/trained_weights.hpp>
#include <ds4/train/training_pass.hpp>

namespace ds4::inline v0_1 {

/// A model of configuration C whose weights and gradients are values of K::Scalar; K are its
/// kernels, ReferenceTraining or SimdTraining. The layers are those that the inference backends
/// run: forward passes are written once. Not copyable; may be moved.
template <ModelConfig C, class K>
class TrainableModel {
 public:
  ///@{
  /// What it is made of.
  using Config = C;
  using Scalar = typename K::Scalar;
  ///@}

  /// All weights zero, the hash tables too. `with_mtp`: with the multi-token-prediction layer, if
  /// the configuration has one.
  explicit TrainableModel(K kernels = K(), bool with_mtp = true)
      : parts_(std::make_unique<Parts>(std::move(kernels))) {
    if constexpr (C::num_nextn_predict_layers > 0) {
      if (with_mtp) parts_->weights.mtp.emplace();
    }
    parts_->list.bind(parts_->weights, list_tensors(config_values<C>(), DrafterKind::mtp), K::kDry);
  }

  /// Loads a checkpoint folder of any storage; the multi-token-prediction layer if it is there.
  /// Throws ds4::Error as Model::load does.
  static TrainableModel load(const std::filesystem::path& dir, K kernels = K()) {
    ConfigValues config = read_config_of<C>(dir);
    const Checkpoint checkpoint = Checkpoint::open(dir);
    DrafterKind drafter = complete_drafter_of<C>(config, checkpoint);
    if (drafter == DrafterKind::dspark) drafter = DrafterKind::none;
    TrainableModel model(std::move(kernels), drafter == DrafterKind::mtp);
    TensorReader reader(checkpoint);
    set_aside_unread(reader, config, drafter);
    model.parts_->list.read(reader);
    reader.finish();
    checkpoint.check();
    return model;
  }

  ///@{
  /// Weights and hash tables with their gradients.
  TrainedWeights<Scalar>& weights() { return parts_->list; }
  const TrainedWeights<Scalar>& weights() const { return parts_->list; }
  ///@}
  /// Whether it has the multi-token-prediction layer.
  bool has_mtp() const { return parts_->weights.mtp.has_value(); }
  /// The kernels.
  K& kernels() { return parts_->backend.kernels(); }
  /// The memory of passes.
  const Tape<Scalar>& tape() const { return parts_->backend.tape(); }

  /// Sets all gradients to zero.
  void zero_gradients() { parts_->list.zero_gradients(kernels()); }

  /// Runs the sequences as one pass and adds the gradients of their weighted losses. Throws
  /// ds4::Error for a sequence of less than two tokens, an id outside the vocabulary or one token
  /// more than the context holds.
  PassLosses add_gradients(std::span<const TrainingSequence> sequences,
                           const PassOptions& options) {
    return run(sequences, options, true);
  }
  /// The cross-entropies alone; the other losses are 0. Throws as add_gradients does.
  PassLosses losses(std::span<const TrainingSequence> sequences, const PassOptions& options) {
    return run(sequences, options, false);
  }

 private:
  using B = TapeBackend<K>;
  using Layers = typename State<C, B>::Layers;
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;

  struct Parts {
    explicit Parts(K kernels) : backend(std::move(kernels)) {}
    B backend;
    ModelWeights<C, B> weights;
    TrainedWeights<Scalar> list;
  };

  // The rows of a pass that predicts the token `ahead` of each: the last tokens of a sequence have
  // none. The pass reads the tokens ahead - 1 of each: those of the rows, or the next ones.
  struct RowsOf {
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> targets;
    std::vector<std::int32_t> rows;  // among those of ahead = 1
    std::vector<Segment> segments;

    RowsOf(std::span<const TrainingSequence> sequences, std::size_t ahead) {
      std::size_t first = 0;
      for (const TrainingSequence tokens : sequences) {
        const std::size_t count = tokens.size() - std::min(tokens.size(), ahead);
        if (count > 0) segments.push_back({ids.size(), count, 0});
        for (std::size_t t = 0; t < count; ++t) {
          ids.push_back(tokens[t + ahead - 1]);
          targets.push_back(tokens[t + ahead]);
          rows.push_back(static_cast<std::int32_t>(first + t));
        }
        first += tokens.size() - 1;
      }
    }
  };

  PassLosses run(std::span<const TrainingSequence> sequences, const PassOptions& options,
                 bool record);
  /// Runs all layers on the streams X, in groups of what `recompute` keeps together.
  void run_layers(Pass<C, B>& pass, RowsView<Scalar, N, D> X, std::vector<Layers>& states,
                  Recompute recompute, bool record);
  /// Collapses and norms the streams, and takes the cross-entropy of the targets.
  double run_head(const HyperHead<C, B>& hc_head, const typename B::template Parameter<D>& norm,
                  RowsView<Scalar, N, D> X, std::span<const std::int32_t> targets, double weight);
  double run_mtp(RowsView<Scalar, N, D> X, const RowsOf& next, double weight)
    requires(C::num_nextn_predict_layers > 0);

  std::unique_ptr<Parts> parts_;
};

template <ModelConfig C, class K>
PassLosses TrainableModel<C, K>::run(std::span<const TrainingSequence> sequences,
                                     const PassOptions& options, bool record) {
  detail::check_sequences<C>(sequences, 2);
  PassLosses losses;
  if (sequences.empty()) return losses;
  B& backend = parts_->backend;
  const ModelWeights<C, B>& w = parts_->weights;
  struct Cleared {  // also if memory runs out
    Tape<Scalar>& tape;
    ~Cleared() { tape.clear(); }
  } const cleared{backend.tape()};

  const RowsOf rows(sequences, 1);
  backend.begin_pass(rows.segments, {options.balance_weight, options.indexer_weight});
  backend.set_recording(record);
  auto scratch = backend.scratch();
  Pass<C, B> pass{backend, rows.ids, rows.segments,
                  rotary_of<C>(backend, scratch, rows.segments, AttentionKind::sliding),
                  rotary_of<C>(backend, scratch, rows.segments, AttentionKind::csa)};
  auto X = scratch.template rows<N, D>(rows.ids.size());  // the residual streams
  ops::embed(backend, X, pass.ids, w.embed);
  std::vector<Layers> states(rows.segments.size());
  run_layers(pass, X, states, options.recompute, record);

  losses.cross_entropy = run_head(w.hc_head, w.norm, X, rows.targets, options.prediction_weight);
  losses.predictions = rows.targets.size();
  const RowsOf next(sequences, 2);
  if constexpr (C::num_nextn_predict_layers > 0) {
    if (w.mtp && options.mtp_weight != 0.0 && !next.segments.empty()) {
      losses.mtp = run_mtp(X, next, options.mtp_weight);
      losses.mtp_predictions = next.targets.size();
    }
  }
  if (record) backend.tape().go_back();
  losses.balance = backend.losses().balance;
  losses.indexer = backend.losses().indexer;
  return losses;
}

template <ModelConfig C, class K>
void TrainableModel<C, K>::run_layers(Pass<C, B>& pass, RowsView<Scalar, N, D> X,
                                      std::vector<Layers>& states, Recompute recompute,
                                      bool record) {
  B& backend = pass.backend;
  Tape<Scalar>& tape = backend.tape();
  std::vector<Layers*> of_sequences;
  for (Layers& state : states) of_sequences.push_back(&state);
  // Each layer as a function that can be run again.
  auto layers = std::make_shared<std::vector<std::function<void()>>>();
  parts_->weights.layers.for_each_with(
      backend, std::span<Layers* const>(of_sequences),
      [&](std::size_t number, const auto& layer, auto layer_states) {
        using LayerState = std::remove_pointer_t<typename decltype(layer_states)::value_type>;
        std::vector<LayerState*> own(layer_states.begin(), layer_states.end());
        layers->push_back([&pass, &layer, X, number, own = std::move(own)] {
          for (LayerState* state : own) *state = LayerState();
          pass.layer = number;
          layer.forward(pass, X, own);
        });
      });
  constexpr Schedule kSchedule = schedule<C>();
  for (std::size_t first = 0, end = 0; first < layers->size(); first = end) {
    end = first + (recompute == Recompute::pair ? kSchedule.together(first) : 1);
    const std::size_t mark = tape.mark();
    const auto run_group = [=, &tape, &backend] {
      backend.record([&tape, mark] { tape.release(mark); });
      for (std::size_t layer = first; layer < end; ++layer) (*layers)[layer]();
    };
    if (record && recompute == Recompute::none) {
      run_group();
      continue;
    }
    Scalar* before = nullptr;
    if (record) {
      before = tape.allocate(X.size(), false);
      backend.copy(before, X.data(), X.size());
    }
    const std::size_t behind = tape.mark();
    backend.set_recording(false);
    run_group();
    tape.release(behind);
    backend.set_recording(record);
    backend.record([=, &backend] {
      backend.copy(X.data(), before, X.size());
      run_group();
    });
  }
}

template <ModelConfig C, class K>
double TrainableModel<C, K>::run_head(const HyperHead<C, B>& hc_head,
                                      const typename B::template Parameter<D>& norm,
                                      RowsView<Scalar, N, D> X,
                                      std::span<const std::int32_t> targets, double weight) {
  B& backend = parts_->backend;
  auto scratch = backend.scratch();
  auto y = scratch.template rows<D>(X.extent(0));
  hc_head.read(backend, y, X);
  ops::rms_norm(backend, y, y, norm, C::rms_norm_eps);
  return backend.cross_entropy(y.as_const(), parts_->weights.head, targets, weight);
}

template <ModelConfig C, class K>
double TrainableModel<C, K>::run_mtp(RowsView<Scalar, N, D> X, const RowsOf& next, double weight)
  requires(C::num_nextn_predict_layers > 0)
{
  B& backend = parts_->backend;
  const MtpLayer<C, B>& mtp = *parts_->weights.mtp;
  const std::size_t S = next.ids.size();
  backend.set_segments(next.segments);
  auto scratch = backend.scratch();
  auto streams = scratch.template rows<N, D>(S);
  auto input = scratch.template rows<N, D>(S);
  ops::take_rows(backend, streams, X, next.rows);
  mtp.project(backend, input, streams, next.ids, parts_->weights.embed);
  const auto rotary = rotary_of<C>(backend, scratch, next.segments, AttentionKind::sliding);
  const Pass<C, B> pass{backend, next.ids, next.segments,       rotary,
                        rotary,  nullptr,  C::num_hidden_layers};
  using LayerState = typename MtpLayer<C, B>::Layer::State;
  std::vector<LayerState> states(next.segments.size());
  std::vector<LayerState*> own;
  for (LayerState& state : states) own.push_back(&state);
  mtp.layer.forward(pass, input, own);
  return run_head(mtp.hc_head, mtp.norm, input, next.targets, weight);
}

}  // namespace ds4::inline v0_1
