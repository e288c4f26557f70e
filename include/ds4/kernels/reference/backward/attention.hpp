// Reference kernel: gradients of shared-KV attention with a sink.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include <ds4/kernels/reference/attention.hpp>

namespace ds4::inline v0_1::reference {

/// Of one query's `attend`: from dout [H, d] to dq [H, d] +=, dsink [H] +=, and dkeys[i] [d] +=,
/// each key's gradient as a key and as a value. Source: model.md 14.4.
template <class T>
void attend_backward(T* dq, T* dsink, const std::vector<T*>& dkeys, const T* dout, const T* q,
                     const T* sink, const std::vector<const T*>& keys, std::size_t H,
                     std::size_t d) {
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  std::vector<T> p(keys.size());
  std::vector<T> dp(keys.size());
  for (std::size_t h = 0; h < H; ++h, q += d, dq += d, dout += d) {
    const SinkSoftmax<T> softmax = sink_softmax(p, q, sink[h], keys, d);
    T mean = 0;  // of dp, the sink's being 0
    for (std::size_t i = 0; i < keys.size(); ++i) {
      p[i] /= softmax.sum;
      dp[i] = 0;
      for (std::size_t c = 0; c < d; ++c) dp[i] += dout[c] * keys[i][c];
      mean += p[i] * dp[i];
    }
    dsink[h] -= softmax.sink / softmax.sum * mean;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const T dlogit = p[i] * (dp[i] - mean) * scale;
      for (std::size_t c = 0; c < d; ++c) {
        dq[c] += dlogit * keys[i][c];
        dkeys[i][c] += dlogit * q[c] + p[i] * dout[c];
      }
    }
  }
}

}  // namespace ds4::inline v0_1::reference
