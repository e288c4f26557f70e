// Reference kernel: shared-KV attention with a sink.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace ds4::inline v0_1::reference {

/// What one head of a query gives its keys and the sink, before the division by the sum.
template <class T>
struct SinkSoftmax {
  T sum;   ///< of all exponentials, the sink's included
  T sink;  ///< the sink's
};

/// p[i] = exp(q . keys[i] / sqrt(d) - top), where top is the largest of these logits and the
/// sink's. Source: model.md 5.
template <class T>
SinkSoftmax<T> sink_softmax(std::vector<T>& p, const T* q, T sink,
                            const std::vector<const T*>& keys, std::size_t d) {
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  T top = sink;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    T dot = 0;
    for (std::size_t c = 0; c < d; ++c) dot += q[c] * keys[i][c];
    p[i] = dot * scale;
    top = std::max(top, p[i]);
  }
  SinkSoftmax<T> of{std::exp(sink - top), std::exp(sink - top)};
  for (T& value : p) of.sum += value = std::exp(value - top);
  return of;
}

/// One query's attention: out[h] = sum over keys of p * key, p = softmax over the keys and the sink
/// of q[h] . key / sqrt(d). The sink's logit is sink[h]; it has no value, so its probability is
/// dropped. The one key/value head is shared: value = key. q, out [H, d]; keys point at rows [d].
/// Without a key, out is 0. Source: model.md 5.
template <class T>
void attend(T* out, const T* q, const T* sink, const std::vector<const T*>& keys, std::size_t H,
            std::size_t d) {
  std::vector<T> p(keys.size());
  for (std::size_t h = 0; h < H; ++h, q += d, out += d) {
    const T sum = sink_softmax(p, q, sink[h], keys, d).sum;
    std::fill(out, out + d, T(0));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      for (std::size_t c = 0; c < d; ++c) out[c] += p[i] / sum * keys[i][c];
    }
  }
}

}  // namespace ds4::inline v0_1::reference
