// Kernels for training: softmax-gated pooling of windows of tokens to entries.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/kernels/simd/training/vectors.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Calls f(slot, at, ape_at) for the slots of window w: the places of their first channel in the
/// projections and in the position biases.
template <class A, class F>
inline void for_slots(std::size_t w, const PoolShape& shape, F&& f) {
  const std::size_t m = shape.ratio;
  const std::size_t row = shape.overlapping ? 2 * shape.width : shape.width;
  std::size_t slot = 0;
  if (shape.overlapping && w > 0) {
    for (std::size_t j = 0; j < m; ++j) f(slot++, ((w - 1) * m + j) * row, j * row);
  }
  const std::size_t half = shape.overlapping ? shape.width : 0;
  for (std::size_t j = 0; j < m; ++j) f(slot++, (w * m + j) * row + half, j * row + half);
}

/// p[slot] = exp(gate + ape - their largest) for one vector of channels from c on; returns the
/// inverse of their sum; `values` is given the sum of p kv.
template <class A, class Lanes>
inline Batch<A> pool_weights(float* p, Batch<A>& values, const float* kv, const float* gate,
                             const float* ape, const PoolShape& shape, std::size_t w, std::size_t c,
                             Lanes lanes) {
  constexpr std::size_t kL = kLanes<A>;
  Batch<A> top = splat<A>(-3.4e38f);
  for_slots<A>(w, shape, [&](std::size_t slot, std::size_t at, std::size_t bias) {
    const Batch<A> logit = get<A>(gate + at + c, lanes) + get<A>(ape + bias + c, lanes);
    logit.store_unaligned(p + slot * kL);
    top = xsimd::max(top, logit);
  });
  Batch<A> sum = splat<A>(0.0f);
  values = splat<A>(0.0f);
  for_slots<A>(w, shape, [&](std::size_t slot, std::size_t at, std::size_t) {
    const Batch<A> e = xsimd::exp(load<A>(p + slot * kL) - top);
    e.store_unaligned(p + slot * kL);
    sum += e;
    values = xsimd::fma(e, get<A>(kv + at + c, lanes), values);
  });
  return splat<A>(1.0f) / sum;
}

/// Float32 values of scratch of the two kernels.
template <class A>
inline std::size_t pool_scratch(const PoolShape& shape) {
  return (shape.overlapping ? 2 : 1) * shape.ratio * kLanes<A>;
}

/// The entries [begin, end); see ReferenceTraining::pool_entries.
template <class A>
inline void pool_entries(float* entries, const float* kv, const float* gate, const float* ape,
                         const PoolShape& shape, std::size_t begin, std::size_t end,
                         float* scratch) {
  for (std::size_t w = begin; w < end; ++w) {
    for_vectors<A>(shape.width, [&](std::size_t c, auto lanes) {
      Batch<A> values;
      const Batch<A> scale = pool_weights<A>(scratch, values, kv, gate, ape, shape, w, c, lanes);
      put<A>(entries + w * shape.width + c, values * scale, lanes);
    });
  }
}

/// The gradients by the entries [begin, end), +=: an entry's are its own but for those of the
/// position biases.
template <class A>
inline void pool_entries_backward(float* dkv, float* dgate, float* dape, const float* dentries,
                                  const float* kv, const float* gate, const float* ape,
                                  const PoolShape& shape, std::size_t begin, std::size_t end,
                                  float* scratch) {
  for (std::size_t w = begin; w < end; ++w) {
    for_vectors<A>(shape.width, [&](std::size_t c, auto lanes) {
      Batch<A> values;
      const Batch<A> scale = pool_weights<A>(scratch, values, kv, gate, ape, shape, w, c, lanes);
      const Batch<A> out = values * scale;
      const Batch<A> d = get<A>(dentries + w * shape.width + c, lanes) * scale;
      for_slots<A>(w, shape, [&](std::size_t slot, std::size_t at, std::size_t bias) {
        const Batch<A> of_value = d * load<A>(scratch + slot * kLanes<A>);
        const Batch<A> of_gate = of_value * (get<A>(kv + at + c, lanes) - out);
        add_to<A>(dkv + at + c, of_value, lanes);
        add_to<A>(dgate + at + c, of_gate, lanes);
        add_to<A>(dape + bias + c, of_gate, lanes);
      });
    });
  }
}

}  // namespace ds4::inline v0_1::simd::training
