// Reference kernel: gradients of the experts' weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/kernels/reference/router.hpp>

namespace ds4::inline v0_1::reference {

/// The slope of sqrt(softplus(x)): sigmoid(x) / (2 sqrt(softplus(x))), without overflow. Source:
/// model.md 14.6.
template <class T>
T sqrt_softplus_slope(T x) {
  const T e = std::exp(-std::abs(x));
  const T sigmoid = (x >= 0 ? T(1) : e) / (T(1) + e);
  return sigmoid / (T(2) * sqrt_softplus(x));
}

/// Of a token's weights[i] = s[experts[i]] / (sum + 1e-20) * scale with s = sqrt(softplus(logits)):
/// dlogits [E] += from dweights [k]. The choice of the experts has no gradient.
/// Source: model.md 14.6.
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

/// The balance loss of one sequence of S tokens, sum_e f_e P_e: f_e = E / (k S) times how often
/// expert e was picked, P_e the mean over the tokens of its share of a token's scores. dlogits
/// [S, E] += weight * its gradient; the picks [S, k] are constants.
/// Source: model.md 15.3; arXiv 2412.19437, eqs. 17 to 20.
template <class T>
double balance_loss(T* dlogits, const std::int32_t* experts, const T* logits, std::size_t S,
                    std::size_t E, std::size_t k, T weight) {
  std::vector<T> f(E);
  for (std::size_t i = 0; i < S * k; ++i) {
    f[static_cast<std::size_t>(experts[i])] += T(E) / static_cast<T>(k * S);
  }
  double loss = 0.0;
  for (std::size_t s = 0; s < S; ++s, logits += E, dlogits += E) {
    T sum = T(1e-20);
    T dot = 0;
    for (std::size_t e = 0; e < E; ++e) {
      sum += sqrt_softplus(logits[e]);
      dot += f[e] * sqrt_softplus(logits[e]);
    }
    loss += static_cast<double>(dot / sum) / static_cast<double>(S);
    for (std::size_t e = 0; e < E; ++e) {
      const T d = (f[e] - dot / sum) / sum / static_cast<T>(S);
      dlogits[e] += weight * d * sqrt_softplus_slope(logits[e]);
    }
  }
  return loss;
}

}  // namespace ds4::inline v0_1::reference
