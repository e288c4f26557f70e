// Reference kernel: gradients of the experts' weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/reference/router.hpp>

namespace ds4::inline v0_1::reference {

/// The slope of sqrt(softplus(x)): sigmoid(x) / (2 sqrt(softplus(x))), without overflow.
template <class T>
T sqrt_softplus_slope(T x) {
  const T e = std::exp(-std::abs(x));
  const T sigmoid = (x >= 0 ? T(1) : e) / (T(1) + e);
  return sigmoid / (T(2) * sqrt_softplus(x));
}

/// Of a token's weights[i] = s[experts[i]] / (sum + 1e-20) * scale with s = sqrt(softplus(logits)):
/// dlogits [E] += from dweights [k]. The choice of the experts has no gradient.
template <class T>
void expert_weights_backward(T* dlogits, const T* dweights, const std::int32_t* experts,
                             const T* logits, std::size_t k, T scale) {
  T sum = T(1e-20);
  T dot = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const T score = sqrt_softplus(logits[experts[i]]);
    sum += score;
    dot += dweights[i] * score;
  }
  for (std::size_t i = 0; i < k; ++i) {
    const T d = scale * (dweights[i] / sum - dot / (sum * sum));
    dlogits[experts[i]] += d * sqrt_softplus_slope(logits[experts[i]]);
  }
}

}  // namespace ds4::inline v0_1::reference
