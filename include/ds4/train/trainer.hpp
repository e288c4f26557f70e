// A training run: batches of windows, losses, steps of the optimizer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/train/learning_rate.hpp>
#include <ds4/train/optimizer.hpp>
#include <ds4/train/token_windows.hpp>
#include <ds4/train/training_pass.hpp>

namespace ds4::inline v0_1 {

/// Settings of a run. The losses' weights are those of arXiv 2606.19348. Source: model.md 15.
struct TrainerOptions {
  std::size_t batch = 6;               ///< sequences to a step
  std::size_t context = 512;           ///< predictions to a sequence
  std::size_t sequences_per_pass = 0;  ///< gradients are accumulated over passes; 0: as is fastest
  Recompute recompute = Recompute::none;  ///< what a pass keeps
  LearningRate learning_rate;             ///< of each step
  OptimizerOptions optimizer;             ///< how weights are stepped
  double mtp_weight = 0.3;       ///< of the multi-token-prediction loss in the first two thirds
  double late_mtp_weight = 0.1;  ///< and in the last third
  double balance_weight = 1e-4;  ///< of the balance loss
  double indexer_weight = 1.0;   ///< of the indexer's own loss, which moves nothing else; 0: none
  DraftLossWeights drafts = {};  ///< of a drafter's losses
  std::uint64_t seed = 1;        ///< of the windows' order
};

/// What a step has seen: means over its batch before it moved the weights. A drafter's predictions
/// are the rows of its blocks.
struct StepReport {
  std::size_t step = 0;        ///< from 1 on
  std::size_t tokens = 0;      ///< predictions
  double loss = 0.0;           ///< nats per prediction
  double mtp_loss = 0.0;       ///< the same of the multi-token-prediction layer
  double balance = 0.0;        ///< per sequence and learned-routed layer; 1 is even
  double indexer = 0.0;        ///< nats per query and CSA layer
  double accepted = 0.0;       ///< drafts of a block that a sampler is expected to accept
  double gradient_norm = 0.0;  ///< before clipping
  double learning_rate = 0.0;  ///< of the step
};

/// Trains a model in place; Model is a TrainableModel, a TrainableDrafter, or has their members.
/// Not copyable.
template <class Model>
class Trainer {
 public:
  using Scalar = typename Model::Scalar;  ///< of the weights

  /// The model, which has to outlive the trainer, and the tokens to learn from. Throws ds4::Error
  /// for a text that is too short, or a batch or context of nothing.
  Trainer(Model& model, std::vector<std::int32_t> tokens, const TrainerOptions& options)
      : model_(model),
        options_(checked(options)),
        windows_(std::move(tokens), options.context, options.seed),
        optimizer_(model.weights().list(), optimizer_options(options, model.has_mtp())) {}

  /// One step, of a run of which the share `progress`, 0 to 1, is done. Throws ds4::Error if the
  /// loss or a gradient is no longer finite; the weights are then as before.
  StepReport step(double progress);

  /// The losses of the predictions inside windows of `context` tokens, each read from an empty
  /// state: the cross-entropy is what `ds4 perplexity --context` measures. At least two tokens.
  PassLosses validate(std::span<const std::int32_t> tokens);

  ///@{
  /// What a run that goes on needs, see load_training_state.
  Optimizer<Scalar>& optimizer() { return optimizer_; }
  const Optimizer<Scalar>& optimizer() const { return optimizer_; }
  ///@}

 private:
  /// Tokens that a pass holds at least where nothing else is asked for: products of fewer rows are
  /// slower, and more activations than these do not stay in the caches.
  static constexpr std::size_t kPassTokens = 512;

  static TrainerOptions checked(const TrainerOptions& options) {
    if (options.batch == 0) throw Error("batch", "found 0, expected at least 1");
    if (options.context < 2) {
      throw Error("context", "found " + std::to_string(options.context) + ", expected at least 2");
    }
    return options;
  }
  /// What has no loss stays as it is, without decay. A drafter in training has losses of its own.
  static OptimizerOptions optimizer_options(const TrainerOptions& options, bool has_mtp) {
    OptimizerOptions own = options.optimizer;
    own.trains_indexer = own.trains_indexer && options.indexer_weight > 0.0;
    own.trains_mtp = own.trains_mtp && (!has_mtp || options.mtp_weight > 0.0);
    return own;
  }
  std::size_t pass_size() const {
    if (options_.sequences_per_pass > 0) return options_.sequences_per_pass;
    return std::max<std::size_t>(1, kPassTokens / options_.context);
  }
  /// Calls f with the sequences of one pass after the other and adds up what it returns.
  template <class F>
  PassLosses in_passes(std::span<const TrainingSequence> sequences, F&& f) const {
    PassLosses losses;
    for (std::size_t i = 0; i < sequences.size(); i += pass_size()) {
      losses += f(sequences.subspan(i, std::min(pass_size(), sequences.size() - i)));
    }
    return losses;
  }

  Model& model_;
  TrainerOptions options_;
  TokenWindows windows_;
  Optimizer<Scalar> optimizer_;
};

template <class Model>
StepReport Trainer<Model>::step(double progress) {
  std::vector<TrainingSequence> batch;
  for (std::size_t i = 0; i < options_.batch; ++i) {
    batch.push_back(windows_.window(optimizer_.steps() * options_.batch + i));
  }
  // A window of context + 1 tokens predicts `context`, and one less at two tokens' distance.
  const auto mean_of = [](double weight, std::size_t count) {
    return weight / static_cast<double>(count);
  };
  const std::size_t predictions = options_.batch * options_.context;
  PassOptions pass;
  pass.prediction_weight = mean_of(1.0, predictions);
  pass.balance_weight = mean_of(options_.balance_weight, options_.batch);
  pass.indexer_weight = mean_of(options_.indexer_weight, predictions);
  pass.recompute = options_.recompute;
  pass.drafts = options_.drafts;
  if (model_.has_mtp()) {
    const double weight = 3.0 * progress < 2.0 ? options_.mtp_weight : options_.late_mtp_weight;
    pass.mtp_weight = mean_of(weight, predictions - options_.batch);
  }
  model_.zero_gradients();
  const PassLosses losses = in_passes(batch, [&](std::span<const TrainingSequence> some) {
    return model_.add_gradients(some, pass);
  });

  StepReport report;
  report.step = optimizer_.steps() + 1;
  report.tokens = losses.predictions;
  report.loss = losses.cross_entropy / static_cast<double>(losses.predictions);
  if (losses.mtp_predictions > 0) {
    report.mtp_loss = losses.mtp / static_cast<double>(losses.mtp_predictions);
  }
  report.balance = losses.balance / static_cast<double>(options_.batch);
  report.indexer = losses.indexer / static_cast<double>(losses.predictions);
  if (losses.drafts.blocks > 0) {
    report.accepted = losses.drafts.accepted / static_cast<double>(losses.drafts.blocks);
  }
  report.learning_rate = options_.learning_rate.at(report.step, progress);
  report.gradient_norm =
      optimizer_.step(model_.kernels(), model_.weights().list(), report.learning_rate);
  if (!std::isfinite(report.gradient_norm) || !std::isfinite(report.loss)) {
    throw Error("step " + std::to_string(report.step),
                "found a loss of " + std::to_string(report.loss) + " and a gradient norm of " +
                    std::to_string(report.gradient_norm) +
                    ", expected finite numbers; a lower learning rate may help");
  }
  return report;
}

template <class Model>
PassLosses Trainer<Model>::validate(std::span<const std::int32_t> tokens) {
  std::vector<TrainingSequence> sequences;
  for (std::size_t begin = 0; begin + 1 < tokens.size(); begin += options_.context) {
    sequences.push_back(tokens.subspan(begin, std::min(options_.context, tokens.size() - begin)));
  }
  return in_passes(sequences, [&](std::span<const TrainingSequence> some) {
    return model_.losses(some, PassOptions());
  });
}

}  // namespace ds4::inline v0_1
