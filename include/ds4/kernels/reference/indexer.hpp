// Reference kernel: the lightning indexer's scores and its choice of entries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace ds4::inline v0_1::reference {

/// score(w) = sum_h weight[h] / sqrt(nI) * relu(q[h] . key(w)) / sqrt(dI) for entries w < n.
/// q [nI, dI], weight [nI] as projected. Source: model.md 5.2; paper eqs. 14 to 16.
template <class T, class Key>
void index_scores(T* score, const T* q, const T* weight, std::size_t n, std::size_t nI,
                  std::size_t dI, Key&& key) {
  const T scale = T(1) / std::sqrt(static_cast<T>(nI)) / std::sqrt(static_cast<T>(dI));
  for (std::size_t w = 0; w < n; ++w) {
    const T* k = key(w);
    T sum = 0;
    for (std::size_t h = 0; h < nI; ++h) {
      T dot = 0;
      for (std::size_t c = 0; c < dI; ++c) dot += q[h * dI + c] * k[c];
      sum += weight[h] * std::max(dot, T(0));
    }
    score[w] = sum * scale;
  }
}

/// The `topk` entries of the largest score, best first, a tie to the lower entry; -1 fills the
/// rest. Source: model.md 5.2.
template <class T>
void top_entries(std::int32_t* picks, const std::vector<T>& score, std::size_t topk) {
  std::vector<std::int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  const std::size_t count = std::min(topk, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const T sa = score[static_cast<std::size_t>(a)];
                      const T sb = score[static_cast<std::size_t>(b)];
                      return sa != sb ? sa > sb : a < b;
                    });
  std::copy_n(order.begin(), count, picks);
  std::fill(picks + count, picks + topk, -1);
}

}  // namespace ds4::inline v0_1::reference
