// A DSpark drafter in training, for a model that stays as it is.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <ds4/checkpoint/load.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/layers/dspark.hpp>
#include <ds4/layers/model_weights.hpp>
#include <ds4/layers/pass.hpp>
#include <ds4/state/state.hpp>
#include <ds4/train/tape_backend.hpp>
#include <ds4/train/trained_weights.hpp>
#include <ds4/train/training_pass.hpp>

namespace ds4::inline v0_1 {

/// The drafter of a model of configuration C, whose weights and gradients are values of K::Scalar;
/// see TrainableModel, whose members it has as far as Trainer needs them. It learns from sequences
/// by blocks behind 1, 1 + B, 1 + 2 B, ... of their tokens, every row given the tokens that really
/// come before it, and from what the model itself says of the rows. Not copyable; may be moved.
/// Source: model.md 19.5.
template <ModelConfig C, class K>
  requires(C::dspark_stages > 0)
class TrainableDrafter {
 public:
  ///@{
  /// What it is made of.
  using Config = C;
  using Scalar = typename K::Scalar;
  ///@}

  /// Loads a model from a checkpoint folder of any storage, and its drafter if it has one; without,
  /// the drafter has `stages` stages of zeros, 1 to C::dspark_stages. Throws ds4::Error as
  /// Model::load does.
  static TrainableDrafter load(const std::filesystem::path& dir, K kernels = K(),
                               std::size_t stages = C::dspark_stages) {
    ConfigValues config = read_config_of<C>(dir);
    const Checkpoint checkpoint = Checkpoint::open(dir);
    const bool is_there = complete_drafter_of<C>(config, checkpoint) == DrafterKind::dspark;
    if (!is_there) config.dspark_stages = stages;
    TrainableDrafter made(std::move(kernels), config.dspark_stages);
    TensorReader reader(checkpoint);
    made.parts_->model.read(reader);
    if (is_there) {
      made.parts_->drafter.read(reader);
    } else {
      reader.set_aside("mtp.");
    }
    reader.set_aside(
        list_vision_tensors(config, is_there ? DrafterKind::dspark : DrafterKind::none));
    reader.finish();
    checkpoint.check();
    made.parts_->loaded = is_there;
    return made;
  }

  ///@{
  /// The drafter's weights with their gradients, and the model's, which have none.
  TrainedWeights<Scalar>& weights() { return parts_->drafter; }
  const TrainedWeights<Scalar>& weights() const { return parts_->drafter; }
  const TrainedWeights<Scalar>& model_weights() const { return parts_->model; }
  ///@}
  /// Whether the drafter's weights are those of the checkpoint.
  bool is_loaded() const { return parts_->loaded; }
  /// The multi-token-prediction layer is another drafter.
  static constexpr bool has_mtp() { return false; }
  /// The kernels.
  K& kernels() { return parts_->backend.kernels(); }

  /// Sets all gradients to zero.
  void zero_gradients() { parts_->drafter.zero_gradients(kernels()); }

  /// Adds the gradients of the weighted losses of the sequences' blocks. The predictions that it
  /// counts are rows. Throws ds4::Error for a sequence of less than B + 2 tokens, which has no
  /// block, an id outside the vocabulary or one token more than the context holds.
  PassLosses add_gradients(std::span<const TrainingSequence> sequences,
                           const PassOptions& options) {
    detail::check_sequences<C>(sequences, kBlock + 2);
    return run(sequences, options, true);
  }
  /// The losses alone; a sequence without a block adds nothing. Throws as add_gradients does.
  PassLosses losses(std::span<const TrainingSequence> sequences, const PassOptions& options) {
    detail::check_sequences<C>(sequences, 1);
    return run(sequences, options, false);
  }

 private:
  using B = TapeBackend<K>;
  using Drafter = DsparkDrafter<C, B>;
  using Window = typename Drafter::Stage::State;
  using Layers = typename State<C, B>::Layers;
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t V = C::vocab_size;
  static constexpr std::size_t R = C::dspark_markov_rank;
  static constexpr std::size_t M = Drafter::M;
  static constexpr std::size_t kBlock = Drafter::kBlock;
  template <std::size_t... E>
  using Activations = RowsView<Scalar, E...>;

  struct Parts {
    Parts(K kernels, std::size_t stages) : backend(std::move(kernels)) {
      ConfigValues config = config_values<C>();
      config.dspark_stages = stages;
      const auto tensors = list_tensors(config, DrafterKind::dspark);
      model.bind(weights, tensors, K::kDry, true);
      weights.dspark.emplace(stages);
      drafter.bind(*weights.dspark, tensors, K::kDry);
    }
    B backend;
    ModelWeights<C, B> weights;
    TrainedWeights<Scalar> model;
    TrainedWeights<Scalar> drafter;
    bool loaded = false;
  };

  // The rows of all blocks, and the tokens of the sequences that they need.
  struct BlockRows {
    std::vector<std::int32_t> tokens;    // of the sequences, each up to the end of its last block
    std::vector<Segment> sequences;      // of these
    std::vector<std::int32_t> places;    // of each row, among these
    std::vector<std::int32_t> ids;       // an anchor and noise, again and again
    std::vector<std::int32_t> previous;  // the token before what a row guesses
    std::vector<std::int32_t> targets;   // and that one
    std::vector<Segment> blocks;
    std::vector<std::size_t> sequence_of;  // of each block

    explicit BlockRows(std::span<const TrainingSequence> all) {
      for (const TrainingSequence tokens_of : all) {
        if (tokens_of.size() < kBlock + 2) continue;
        const std::size_t count = (tokens_of.size() - 2) / kBlock;
        const std::size_t first = tokens.size();
        for (std::size_t b = 0; b < count; ++b) {
          const std::size_t n = 1 + b * kBlock;
          blocks.push_back({ids.size(), kBlock, n, 0, true});
          sequence_of.push_back(sequences.size());
          for (std::size_t j = 0; j < kBlock; ++j) {
            places.push_back(static_cast<std::int32_t>(first + n + j));
            ids.push_back(j == 0 ? tokens_of[n] : std::int32_t{C::dspark_noise_token_id});
            previous.push_back(tokens_of[n + j]);
            targets.push_back(tokens_of[n + j + 1]);
          }
        }
        const std::size_t used = 1 + count * kBlock;
        tokens.insert(tokens.end(), tokens_of.begin(),
                      tokens_of.begin() + static_cast<std::ptrdiff_t>(used));
        sequences.push_back({first, used, 0});
      }
    }
  };

  explicit TrainableDrafter(K kernels, std::size_t stages)
      : parts_(std::make_unique<Parts>(std::move(kernels), stages)) {}

  PassLosses run(std::span<const TrainingSequence> sequences, const PassOptions& options,
                 bool record);
  /// Runs the model: its target hidden states r [S, M, D] and its logits of the blocks' rows.
  void run_model(const BlockRows& rows, Activations<M, D> r, Activations<V> logits);
  /// Runs the stages: y [rows, D], the collapsed streams.
  void run_stages(const BlockRows& rows, Activations<M, D> r, Activations<D> y);

  std::unique_ptr<Parts> parts_;
};

template <ModelConfig C, class K>
  requires(C::dspark_stages > 0)
PassLosses TrainableDrafter<C, K>::run(std::span<const TrainingSequence> sequences,
                                       const PassOptions& options, bool record) {
  PassLosses losses;
  const BlockRows rows(sequences);
  const std::size_t S = rows.ids.size();
  if (S == 0) return losses;
  B& backend = parts_->backend;
  const ModelWeights<C, B>& w = parts_->weights;
  const Drafter& drafter = *w.dspark;
  struct Cleared {  // also if memory runs out
    Tape<Scalar>& tape;
    ~Cleared() { tape.clear(); }
  } const cleared{backend.tape()};
  auto scratch = backend.scratch();
  auto r = Activations<M, D>(backend.tape().allocate(rows.tokens.size() * M * D, false),
                             rows.tokens.size());
  auto model_logits = Activations<V>(backend.tape().allocate(S * V, false), S);
  backend.set_recording(false);
  run_model(rows, r, model_logits);

  backend.set_recording(record);
  auto y = scratch.template rows<D>(S);
  run_stages(rows, r, y);
  auto normed = scratch.template rows<D>(S);
  auto logits = scratch.template rows<V>(S);
  auto bias = scratch.template rows<V>(S);
  auto w1 = scratch.template rows<R>(S);
  ops::rms_norm(backend, normed, y, drafter.norm, C::rms_norm_eps);
  ops::linear(backend, logits, normed, w.head);
  ops::embed(backend, w1.template as<1, R>(), std::span(rows.previous), drafter.markov_w1);
  ops::linear(backend, bias, w1, drafter.markov_w2);
  ops::add(backend, logits, bias);
  // The confidence head's product with concat(y, w1), in its two parts.
  const TrainedMatrix<Scalar, 1, D> of_y{drafter.confidence_head.value,
                                         drafter.confidence_head.gradient};
  const TrainedMatrix<Scalar, 1, R> of_w1{drafter.confidence_head.value + D,
                                          drafter.confidence_head.gradient + D};
  auto confidence = scratch.template rows<1>(S);
  auto markov_confidence = scratch.template rows<1>(S);
  ops::linear(backend, confidence, y, of_y);
  ops::linear(backend, markov_confidence, w1, of_w1);
  ops::add(backend, confidence, markov_confidence);

  // Later rows count less; on average a row counts options.prediction_weight.
  constexpr double kDecay = 4.0;
  std::vector<Scalar> weights(S);
  double sum = 0.0;
  for (std::size_t j = 0; j < kBlock; ++j) sum += std::exp(-static_cast<double>(j) / kDecay);
  for (std::size_t s = 0; s < S; ++s) {
    const double share = std::exp(-static_cast<double>(s % kBlock) / kDecay) / sum;
    weights[s] = static_cast<Scalar>(options.prediction_weight * share * double{kBlock});
  }
  const auto of_rows =
      backend.template draft_loss<V>(logits, confidence, model_logits, std::span(rows.targets),
                                     std::span<const Scalar>(weights), options.drafts);
  double accepted = 1.0;  // all drafts of the block so far
  for (std::size_t s = 0; s < S; ++s) {
    const DraftRowLoss& row = of_rows[s];
    losses.cross_entropy += row.cross_entropy;
    const double row_total = options.drafts.cross_entropy * row.cross_entropy +
                             options.drafts.distance * row.distance +
                             options.drafts.confidence * row.confidence;
    losses.drafts.total += static_cast<double>(weights[s]) * row_total;
    losses.drafts.distance += row.distance;
    losses.drafts.confidence += row.confidence;
    accepted = (s % kBlock == 0 ? 1.0 : accepted) * (1.0 - 0.5 * row.distance);
    losses.drafts.accepted += accepted;
  }
  losses.predictions = S;
  losses.drafts.blocks = rows.blocks.size();
  if (record) backend.tape().go_back();
  return losses;
}

template <ModelConfig C, class K>
  requires(C::dspark_stages > 0)
void TrainableDrafter<C, K>::run_model(const BlockRows& rows, Activations<M, D> r,
                                       Activations<V> logits) {
  B& backend = parts_->backend;
  Tape<Scalar>& tape = backend.tape();
  const ModelWeights<C, B>& w = parts_->weights;
  const std::size_t begin = tape.mark();
  backend.begin_pass(rows.sequences, {});
  auto scratch = backend.scratch();
  Pass<C, B> pass{backend, rows.tokens, rows.sequences,
                  rotary_of<C>(backend, scratch, std::span(rows.sequences), AttentionKind::sliding),
                  rotary_of<C>(backend, scratch, std::span(rows.sequences), AttentionKind::csa)};
  auto X = scratch.template rows<N, D>(rows.tokens.size());
  ops::embed(backend, X, pass.ids, w.embed);
  std::vector<Layers> states(rows.sequences.size());
  std::vector<Layers*> of_sequences;
  for (Layers& state : states) of_sequences.push_back(&state);
  w.layers.for_each_with(backend, std::span<Layers* const>(of_sequences),
                         [&](std::size_t number, const auto& layer, auto layer_states) {
                           const std::size_t mark = tape.mark();
                           pass.layer = number;
                           layer.forward(pass, X, layer_states);
                           tape.release(mark);
                           const std::size_t slot = Drafter::slot_of(number);
                           if (slot < M) ops::mean_streams(backend, r, slot, X);
                         });
  auto own = scratch.template rows<N, D>(rows.places.size());
  auto y = scratch.template rows<D>(rows.places.size());
  ops::take_rows(backend, own, X, std::span(rows.places));
  w.hc_head.read(backend, y, own);
  ops::rms_norm(backend, y, y, w.norm, C::rms_norm_eps);
  ops::linear(backend, logits, y, w.head);
  tape.release(begin);
}

template <ModelConfig C, class K>
  requires(C::dspark_stages > 0)
void TrainableDrafter<C, K>::run_stages(const BlockRows& rows, Activations<M, D> r,
                                        Activations<D> y) {
  B& backend = parts_->backend;
  const ModelWeights<C, B>& w = parts_->weights;
  const Drafter& drafter = *w.dspark;
  const std::size_t stages = drafter.stages.size();
  auto scratch = backend.scratch();
  // One state for each stage and sequence, and for each stage and block.
  const auto spans_of = [stages](std::vector<std::vector<Window>>& states,
                                 std::vector<std::vector<Window*>>& pointers) {
    std::vector<std::span<Window* const>> spans;
    for (std::size_t k = 0; k < stages; ++k) {
      for (Window& state : states[k]) pointers[k].push_back(&state);
      spans.emplace_back(pointers[k]);
    }
    return spans;
  };
  std::vector<std::vector<Window>> windows(stages, std::vector<Window>(rows.sequences.size()));
  std::vector<std::vector<Window*>> of_sequences(stages);
  const auto window_spans = spans_of(windows, of_sequences);
  backend.begin_pass(rows.sequences, {});
  const auto rotary =
      rotary_of<C>(backend, scratch, std::span(rows.sequences), AttentionKind::sliding);
  drafter.append_windows(Pass<C, B>{backend, rows.tokens, rows.sequences, rotary, rotary},
                         r.template as<M * D>(), window_spans);

  std::vector<std::vector<Window>> blocks(stages, std::vector<Window>(rows.blocks.size()));
  for (std::size_t k = 0; k < stages; ++k) {
    for (std::size_t b = 0; b < rows.blocks.size(); ++b) {
      const auto all = windows[k][rows.sequence_of[b]].window.rows();
      blocks[k][b].window.come_behind(all.rows(0, rows.blocks[b].position));
    }
  }
  std::vector<std::vector<Window*>> of_blocks(stages);
  const auto block_spans = spans_of(blocks, of_blocks);
  backend.set_segments(rows.blocks);
  const auto block_rotary =
      rotary_of<C>(backend, scratch, std::span(rows.blocks), AttentionKind::sliding);
  auto X = scratch.template rows<N, D>(rows.ids.size());
  ops::embed(backend, X, std::span(rows.ids), w.embed);
  drafter.run_stages(Pass<C, B>{backend, rows.ids, rows.blocks, block_rotary, block_rotary}, X,
                     block_spans);
  drafter.hc_head.read(backend, y, X);
}

}  // namespace ds4::inline v0_1
