// Training by the reference path: attention.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/kernels/reference/attention.hpp>
#include <ds4/kernels/reference/backward/attention.hpp>
#include <ds4/kernels/reference/training/rows.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference::training {

/// Attention; see ReferenceTraining.
template <class T>
class AttentionOperations {
 public:
  ///@{
  /// out, q [S, H, d]; sink [H]; window [S, d]; entries [keys, d] and picks [S, top_k] where the
  /// kind of layer has them; within a block window [W, d] and entries [keys, d]. received
  /// [S, top_k] (null: not wanted) is given the attention of each pick, summed over the heads.
  static void attend(T* out, T* received, const T* q, const T* sink, const T* window,
                     const T* entries, const std::int32_t* picks, const AttentionShape& shape) {
    std::vector<const T*> keys;
    const std::size_t row_size = shape.H * shape.d;
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::size_t seen = find_keys(keys, t, window, entries, picks, shape);
      reference::attend(out + t * row_size, q + t * row_size, sink, keys, shape.H, shape.d);
      if (received == nullptr) continue;
      T* own = received + t * shape.top_k;
      std::fill_n(own, shape.top_k, T(0));
      std::vector<T> p(keys.size());
      for (std::size_t h = 0; h < shape.H; ++h) {
        const T sum =
            reference::sink_softmax(p, q + t * row_size + h * shape.d, sink[h], keys, shape.d).sum;
        for (std::size_t i = seen; i < keys.size(); ++i) own[i - seen] += p[i] / sum;
      }
    }
  }
  static void attend_backward(T* dq, T* dsink, T* dwindow, T* dentries, const T* dout, const T* q,
                              const T* sink, const T* window, const T* entries,
                              const std::int32_t* picks, const AttentionShape& shape) {
    std::vector<const T*> keys;
    std::vector<T*> dkeys;
    const std::size_t row_size = shape.H * shape.d;
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::size_t seen = find_keys(keys, t, window, entries, picks, shape);
      dkeys.clear();
      for (std::size_t i = 0; i < keys.size(); ++i) {
        dkeys.push_back(i < seen ? dwindow + (keys[i] - window) : dentries + (keys[i] - entries));
      }
      reference::attend_backward(dq + t * row_size, dsink, dkeys, dout + t * row_size,
                                 q + t * row_size, sink, keys, shape.H, shape.d);
    }
  }
  ///@}

 private:
  // The keys of query t; how many of them are of the window, which come first.
  static std::size_t find_keys(std::vector<const T*>& keys, std::size_t t, const T* window,
                               const T* entries, const std::int32_t* picks,
                               const AttentionShape& shape) {
    keys.clear();
    const std::size_t end = shape.whole ? shape.W : t + 1;
    for (std::size_t p = end - std::min(end, shape.W); p < end; ++p) {
      keys.push_back(window + p * shape.d);
    }
    const std::size_t seen = keys.size();
    if (shape.whole) {
      for (std::size_t w = 0; w < shape.keys; ++w) keys.push_back(entries + w * shape.d);
    } else if (shape.kind == AttentionKind::hca) {
      for (std::size_t w = 0; w < (t + 1) / shape.ratio; ++w) keys.push_back(entries + w * shape.d);
    } else if (shape.kind == AttentionKind::csa) {
      for (std::size_t i = 0; i < shape.top_k; ++i) {
        const std::int32_t w = picks[t * shape.top_k + i];
        if (w >= 0) keys.push_back(row(entries, w, shape.d));
      }
    }
    return seen;
  }
};

}  // namespace ds4::inline v0_1::reference::training
