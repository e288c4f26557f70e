// Reference kernels: which experts a token goes to, and with which weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace ds4::inline v0_1::reference {

/// sqrt(softplus(x)) without overflow: softplus(x) = max(x, 0) + log1p(exp(-|x|)).
/// Source: model.md 6.1.
template <class T>
T sqrt_softplus(T x) {
  return std::sqrt(std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x))));
}

/// The k experts of the largest score + bias, best first, a tie to the lower expert.
/// Source: model.md 6.1.
template <class T>
void select_experts(std::int32_t* experts, const T* score, const T* bias, std::size_t E,
                    std::size_t k) {
  std::vector<std::int32_t> order(E);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const T sa = score[a] + bias[a];
                      const T sb = score[b] + bias[b];
                      return sa != sb ? sa > sb : a < b;
                    });
  std::copy_n(order.begin(), k, experts);
}

/// weights[i] = score[experts[i]] / (sum + 1e-20) * scale: the bias is in the choice alone.
/// Source: model.md 6.1.
template <class T>
void expert_weights(T* weights, const std::int32_t* experts, const T* score, std::size_t k,
                    T scale) {
  T sum = 0;
  for (std::size_t i = 0; i < k; ++i) sum += score[experts[i]];
  for (std::size_t i = 0; i < k; ++i) weights[i] = score[experts[i]] / (sum + T(1e-20)) * scale;
}

}  // namespace ds4::inline v0_1::reference
