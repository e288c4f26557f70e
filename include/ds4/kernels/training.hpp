// What kernels for training have in common: the sizes of the operations that need several.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/config/config.hpp>

namespace ds4::inline v0_1 {

/// Attention within one sequence from its first token on, by the symbols of model.md 0: query t
/// sees the rows t - W + 1 .. t of the window, and of the entries those that its kind of layer
/// shows it: none, its picks, or all w < (t + 1) / ratio. `keys` is how many entries there are.
/// Within a block (`whole`) every query sees all W rows, which are those in front of the block, and
/// all entries, which are its own rows.
struct AttentionShape {
  ///@{
  /// See above.
  AttentionKind kind;
  std::size_t S;
  std::size_t H;
  std::size_t d;
  std::size_t W;
  std::size_t ratio;
  std::size_t top_k;
  std::size_t keys;
  bool whole = false;
  ///@}
};

/// Pooling of the first `count` windows of `ratio` tokens of a sequence to entries of `width`
/// values. Projections and position biases are twice as wide where windows overlap: the first
/// halves feed the next window's entry.
struct PoolShape {
  ///@{
  /// See above.
  std::size_t count;
  std::size_t ratio;
  std::size_t width;
  bool overlapping;
  ///@}
};

/// The lightning indexer within one sequence: query t sees the entries w < (t + 1) / ratio.
struct IndexShape {
  ///@{
  /// By the symbols of model.md 0.
  std::size_t S;
  std::size_t nI;
  std::size_t dI;
  std::size_t ratio;
  std::size_t top_k;
  ///@}
};

/// How much each loss of a drafter's row counts; those of the DSpark paper. Source: model.md 19.5.
struct DraftLossWeights {
  double cross_entropy = 0.1;  ///< of the token that follows
  double distance = 0.9;       ///< sum |p - m|, of the draft's distribution and the model's
  double confidence = 1.0;     ///< binary cross-entropy of the confidence
};

/// What rows of drafts are judged by.
template <class T>
struct DraftRows {
  const T* logits;              ///< [S, V] of the drafter
  const T* confidence;          ///< [S], logits
  const T* model_logits;        ///< [S, V] of the model that is to accept the drafts
  const std::int32_t* targets;  ///< [S] the tokens that follow
  const T* weights;             ///< [S] how much each row counts
};

/// What the row of a draft has lost.
struct DraftRowLoss {
  double cross_entropy;  ///< nats
  double distance;       ///< 0 to 2; 1 - distance / 2 is how likely a sampler accepts the draft
  double confidence;     ///< nats
};

/// The routed experts of one pass.
struct ExpertShape {
  ///@{
  /// By the symbols of model.md 0.
  std::size_t S;
  std::size_t k;
  std::size_t E;
  std::size_t D;
  std::size_t F;
  ///@}
};

/// The matrices of one expert, w1 and w3 [F, D], w2 [D, F]; T is const, or the gradients'.
template <class T>
struct ExpertMatrices {
  ///@{
  /// See above.
  T* w1;
  T* w2;
  T* w3;
  ///@}
};

/// What the forward pass of the routed experts leaves to the backward pass.
template <class T>
struct ExpertRecord {
  std::int32_t* places;  ///< [S * k] token * k + choice, sorted by expert, ties by place
  std::int32_t* begin;   ///< [E + 1] where each expert's places begin
  T* gate;               ///< [S * k, F] w1 x in the order of places, before the activation
  T* up;                 ///< [S * k, F] w3 x
};

}  // namespace ds4::inline v0_1
