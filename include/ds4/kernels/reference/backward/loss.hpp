// Reference kernel: cross-entropy of logits, and its gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/core/version.hpp>

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

}  // namespace ds4::inline v0_1::reference
