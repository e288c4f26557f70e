// What passes that train are asked for, and what they have seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <ds4/config/config.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1 {

/// Which activations a pass keeps until it goes back. The gradients are the same, bit for bit.
/// Source: model.md 17.
enum class Recompute : std::uint8_t {
  none,   ///< all of them
  layer,  ///< the streams before each layer; a layer runs a second time before it goes back
  pair,   ///< the streams before each pair of the schedule, and before each other layer
};

/// What a pass over sequences is to add to the gradients. The mean over a batch is a weight of one
/// by the number of what is counted in the whole batch. Source: model.md 15.
struct PassOptions {
  double prediction_weight = 1.0;         ///< of the cross-entropy of a prediction
  double mtp_weight = 0.0;                ///< of one of the multi-token-prediction layer; 0: none
  double balance_weight = 0.0;            ///< of the balance loss of a sequence
  double indexer_weight = 0.0;            ///< of the indexer's divergence of a query
  Recompute recompute = Recompute::none;  ///< see above
  DraftLossWeights drafts = {};           ///< of a drafter in training, all times prediction_weight
};

/// What a drafter's rows lose beside the cross-entropy. Source: model.md 19.5.
struct DraftLosses {
  double total = 0.0;       ///< as it counts: what gradients are of
  double distance = 0.0;    ///< of the distributions, over the rows
  double confidence = 0.0;  ///< nats, over the rows
  double accepted = 0.0;    ///< drafts that a sampler is expected to accept, over the blocks
  std::size_t blocks = 0;   ///< how many

  /// Adds those of further blocks.
  DraftLosses& operator+=(const DraftLosses& other) {
    total += other.total;
    distance += other.distance;
    confidence += other.confidence;
    accepted += other.accepted;
    blocks += other.blocks;
    return *this;
  }
};

/// Sums of losses over sequences, before any weight.
struct PassLosses {
  double cross_entropy = 0.0;       ///< nats, over the predictions
  std::size_t predictions = 0;      ///< how many
  double mtp = 0.0;                 ///< nats, over those of the multi-token-prediction layer
  std::size_t mtp_predictions = 0;  ///< how many
  double balance = 0.0;             ///< over the sequences and the learned-routed layers
  double indexer = 0.0;             ///< over the queries and the CSA layers
  DraftLosses drafts;               ///< of a drafter in training, whose rows are the predictions

  /// The mean cross-entropy of a prediction, nats.
  double loss() const { return cross_entropy / static_cast<double>(predictions); }
  /// Adds those of further sequences.
  PassLosses& operator+=(const PassLosses& other) {
    cross_entropy += other.cross_entropy;
    predictions += other.predictions;
    mtp += other.mtp;
    mtp_predictions += other.mtp_predictions;
    balance += other.balance;
    indexer += other.indexer;
    drafts += other.drafts;
    return *this;
  }
};

/// A sequence to learn from: n tokens, of which each but the last predicts the next.
using TrainingSequence = std::span<const std::int32_t>;

namespace detail {

/// Throws ds4::Error for a sequence of less than `least` tokens, an id outside the vocabulary or
/// one token more than the context holds.
template <ModelConfig C>
void check_sequences(std::span<const TrainingSequence> sequences, std::size_t least) {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto where = [&] { return "sequence " + std::to_string(i); };
    const TrainingSequence tokens = sequences[i];
    if (tokens.size() < least) {
      throw Error(where(), "found " + std::to_string(tokens.size()) +
                               " tokens, expected at least " + std::to_string(least));
    }
    if (tokens.size() - 1 > C::max_position_embeddings) {
      throw Error(where(), "found " + std::to_string(tokens.size()) +
                               " tokens, expected at most max_position_embeddings + 1 = " +
                               std::to_string(C::max_position_embeddings + 1));
    }
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if (tokens[t] < 0 || static_cast<std::size_t>(tokens[t]) >= C::vocab_size) {
        throw Error(where() + ", token " + std::to_string(t),
                    "found id " + std::to_string(tokens[t]) + ", expected 0 to " +
                        std::to_string(C::vocab_size - 1));
      }
    }
  }
}

}  // namespace detail

}  // namespace ds4::inline v0_1
