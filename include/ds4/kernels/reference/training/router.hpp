// Training by the reference path: the choice of experts, their load and its balance.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/kernels/reference/backward/router.hpp>
#include <ds4/kernels/reference/router.hpp>
#include <ds4/kernels/reference/training/rows.hpp>

namespace ds4::inline v0_1::reference::training {

/// The routers; see ReferenceTraining.
template <class T>
class RouterOperations {
 public:
  ///@{
  /// experts [S, k] by the largest sqrt(softplus(logits)) + bias, or by a table [V, k]; weights
  /// [S, k].
  static void route_by_score(std::int32_t* experts, T* weights, const T* logits, const T* bias,
                             std::size_t S, std::size_t E, std::size_t k, double scale) {
    std::vector<T> score(E);
    for (std::size_t s = 0; s < S; ++s) {
      std::transform(logits + s * E, logits + (s + 1) * E, score.begin(),
                     reference::sqrt_softplus<T>);
      reference::select_experts(experts + s * k, score.data(), bias, E, k);
      reference::expert_weights(weights + s * k, experts + s * k, score.data(), k, T(scale));
    }
  }
  static void route_by_hash(std::int32_t* experts, T* weights, const T* logits,
                            const std::int32_t* ids, const std::int32_t* table, std::size_t S,
                            std::size_t E, std::size_t k, double scale) {
    std::vector<T> score(E);
    for (std::size_t s = 0; s < S; ++s) {
      std::transform(logits + s * E, logits + (s + 1) * E, score.begin(),
                     reference::sqrt_softplus<T>);
      std::copy_n(row(table, ids[s], k), k, experts + s * k);
      reference::expert_weights(weights + s * k, experts + s * k, score.data(), k, T(scale));
    }
  }
  static void expert_weights_backward(T* dlogits, const T* dweights, const std::int32_t* experts,
                                      const T* logits, std::size_t S, std::size_t E, std::size_t k,
                                      double scale) {
    for (std::size_t s = 0; s < S; ++s) {
      reference::expert_weights_backward(dlogits + s * E, dweights + s * k, experts + s * k,
                                         logits + s * E, k, T(scale));
    }
  }
  /// load[e] += how often expert e is among n picks.
  static void count_load(T* load, const std::int32_t* experts, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) load[experts[i]] += T(1);
  }
  /// The balance loss of one sequence, sum_e f_e P_e: f_e = E / (k S) times how often expert e was
  /// picked, a constant; P_e the mean of its share of a token's scores. Gradients of weight * loss
  /// go to dlogits. Source: model.md 15.3; arXiv 2412.19437, eqs. 17 to 20.
  static double balance_loss(T* dlogits, const std::int32_t* experts, const T* logits,
                             std::size_t S, std::size_t E, std::size_t k, double weight) {
    return reference::balance_loss(dlogits, experts, logits, S, E, k, T(weight));
  }
  ///@}
};

}  // namespace ds4::inline v0_1::reference::training
