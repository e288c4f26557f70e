// Reference kernel: gradients of the lightning indexer's scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::reference {

/// Of one query's `index_scores`: from dscore [n] to dq [nI, dI] +=, dweight [nI] += and, at
/// dkey(w), the gradients of the keys [dI] +=. Source: model.md 15.4.
template <class T, class Key, class KeyGradient>
void index_scores_backward(T* dq, T* dweight, KeyGradient&& dkey, const T* dscore, const T* q,
                           const T* weight, std::size_t n, std::size_t nI, std::size_t dI,
                           Key&& key) {
  const T scale = T(1) / std::sqrt(static_cast<T>(nI)) / std::sqrt(static_cast<T>(dI));
  for (std::size_t w = 0; w < n; ++w) {
    const T* k = key(w);
    T* dk = dkey(w);
    for (std::size_t h = 0; h < nI; ++h) {
      T dot = 0;
      for (std::size_t c = 0; c < dI; ++c) dot += q[h * dI + c] * k[c];
      if (!(dot > T(0))) continue;
      dweight[h] += dscore[w] * scale * dot;
      const T d = dscore[w] * scale * weight[h];
      for (std::size_t c = 0; c < dI; ++c) {
        dq[h * dI + c] += d * k[c];
        dk[c] += d * q[h * dI + c];
      }
    }
  }
}

/// KL(received / sum(received) || softmax(score)) over n entries, and dscore = weight * its
/// gradient by the scores. Entries that received nothing add nothing to the divergence; it is 0 if
/// none did. Source: model.md 15.4.
template <class T>
double divergence(T* dscore, const T* score, const T* received, std::size_t n, T weight) {
  const T top = *std::max_element(score, score + n);
  T sum = 0;
  T all = 0;
  for (std::size_t i = 0; i < n; ++i) {
    sum += std::exp(score[i] - top);
    all += received[i];
  }
  double loss = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const T log_p = score[i] - top - std::log(sum);
    const T target = all > T(0) ? received[i] / all : T(0);
    if (target > T(0)) loss += static_cast<double>(target * (std::log(target) - log_p));
    dscore[i] = all > T(0) ? weight * (std::exp(log_p) - target) : T(0);
  }
  return loss;
}

}  // namespace ds4::inline v0_1::reference
