// Training by the reference path: the lightning indexer and its own loss.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/kernels/reference/backward/indexer.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/training/rows.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference::training {

/// The indexer; see ReferenceTraining.
template <class T>
class IndexerOperations {
 public:
  /// picks [S, top_k] for q [S, nI, dI], weights [S, nI] and keys [entries, dI]; -1 for none.
  static void pick_entries(std::int32_t* picks, const T* q, const T* weights, const T* keys,
                           const IndexShape& shape) {
    std::vector<T> score;
    for (std::size_t t = 0; t < shape.S; ++t) {
      score.resize((t + 1) / shape.ratio);
      reference::index_scores(score.data(), q + t * shape.nI * shape.dI, weights + t * shape.nI,
                              score.size(), shape.nI, shape.dI,
                              [&](std::size_t w) { return keys + w * shape.dI; });
      reference::top_entries(picks + t * shape.top_k, score, shape.top_k);
    }
  }
  /// The indexer's own loss: over all queries with picks, the sum of the divergence
  /// KL(received / sum(received) || softmax of the scores) over the query's picks, where received
  /// [S, top_k] is the attention that they were given. Gradients are those of weight * the sum;
  /// received is a constant.
  static double index_loss(T* dq, T* dweights, T* dkeys, const T* received,
                           const std::int32_t* picks, const T* q, const T* weights, const T* keys,
                           const IndexShape& shape, double weight) {
    double loss = 0.0;
    std::vector<T> score(shape.top_k);
    std::vector<T> dscore(shape.top_k);
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::int32_t* own = picks + t * shape.top_k;
      const std::size_t n = std::min((t + 1) / shape.ratio, shape.top_k);
      if (n == 0) continue;
      const T* query = q + t * shape.nI * shape.dI;
      const auto key = [&](std::size_t i) { return row(keys, own[i], shape.dI); };
      reference::index_scores(score.data(), query, weights + t * shape.nI, n, shape.nI, shape.dI,
                              key);
      loss += reference::divergence(dscore.data(), score.data(), received + t * shape.top_k, n,
                                    T(weight));
      reference::index_scores_backward(
          dq + t * shape.nI * shape.dI, dweights + t * shape.nI,
          [&](std::size_t i) { return row(dkeys, own[i], shape.dI); }, dscore.data(), query,
          weights + t * shape.nI, n, shape.nI, shape.dI, key);
    }
    return loss;
  }
};

}  // namespace ds4::inline v0_1::reference::training
