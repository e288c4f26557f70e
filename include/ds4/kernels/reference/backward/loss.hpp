// Reference kernels: losses of logits, and their gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference {

/// -log softmax(logits)[target] of one row of V logits; dlogits = weight * its gradient, which may
/// be written over the logits. Sums are in double. Source: model.md 15.1.
template <class T>
double cross_entropy(T* dlogits, const T* logits, std::int32_t target, std::size_t V, T weight) {
  const T top = *std::max_element(logits, logits + V);
  double sum = 0.0;
  for (std::size_t i = 0; i < V; ++i) sum += std::exp(static_cast<double>(logits[i] - top));
  const double loss = std::log(sum) - static_cast<double>(logits[target] - top);
  for (std::size_t i = 0; i < V; ++i) {
    const double p = std::exp(static_cast<double>(logits[i] - top)) / sum;
    const double one = i == static_cast<std::size_t>(target) ? 1.0 : 0.0;
    dlogits[i] = weight * static_cast<T>(p - one);
  }
  return loss;
}

/// What row s of drafts loses. dlogits [V] = weight * the gradient of its cross-entropy and
/// distance, which may be written over the row's logits, dconfidence that of the confidence, whose
/// target is how likely a sampler accepts the draft. Sums are in double. Source: model.md 19.5.
template <class T>
DraftRowLoss draft_loss(T* dlogits, T& dconfidence, const DraftRows<T>& rows, std::size_t s,
                        std::size_t V, const DraftLossWeights& weights) {
  const auto softmax = [V](const T* logits) {
    const double top = static_cast<double>(*std::max_element(logits, logits + V));
    std::vector<double> p(V);
    double sum = 0.0;
    for (std::size_t i = 0; i < V; ++i) {
      sum += p[i] = std::exp(static_cast<double>(logits[i]) - top);
    }
    for (double& value : p) value /= sum;
    return p;
  };
  const T* const logits = rows.logits + s * V;
  const auto target = static_cast<std::size_t>(rows.targets[s]);
  const double weight = static_cast<double>(rows.weights[s]);
  const std::vector<double> p = softmax(logits);
  const std::vector<double> m = softmax(rows.model_logits + s * V);
  const auto sign = [&](std::size_t i) { return p[i] > m[i] ? 1.0 : -1.0; };
  DraftRowLoss loss{-std::log(p[target]), 0.0, 0.0};
  double mean_sign = 0.0;  // by the draft's distribution
  for (std::size_t i = 0; i < V; ++i) {
    loss.distance += std::abs(p[i] - m[i]);
    mean_sign += p[i] * sign(i);
  }
  for (std::size_t i = 0; i < V; ++i) {
    const double one = i == target ? 1.0 : 0.0;
    dlogits[i] = static_cast<T>(weight * (weights.cross_entropy * (p[i] - one) +
                                          weights.distance * p[i] * (sign(i) - mean_sign)));
  }
  const double c = static_cast<double>(rows.confidence[s]);
  const double accepted = 1.0 - 0.5 * loss.distance;
  // -a log sigmoid(c) - (1 - a) log(1 - sigmoid(c)), without overflow.
  loss.confidence = std::max(c, 0.0) - accepted * c + std::log1p(std::exp(-std::abs(c)));
  dconfidence =
      static_cast<T>(weight * weights.confidence * (1.0 / (1.0 + std::exp(-c)) - accepted));
  return loss;
}

}  // namespace ds4::inline v0_1::reference
