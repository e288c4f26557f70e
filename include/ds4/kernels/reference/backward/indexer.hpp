// Reference kernel: gradients of the lightning indexer's scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <ds4/version.hpp>

namespace ds4::inline v0_1::reference {

/// Of one query's `index_scores`: from dscore [n] to dq [nI, dI] +=, dweight [nI] += and, at
/// dkey(w), the gradients of the keys [dI] +=.
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

}  // namespace ds4::inline v0_1::reference
