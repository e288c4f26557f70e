// Kernels for training: cross-entropy of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// losses[s] = -log softmax(logits[s])[targets[s]], or 0 without a target, for the rows [begin,
/// end); dlogits = weight * its gradient, which may be written over the logits.
template <class A>
inline void cross_entropy(float* dlogits, double* losses, const float* logits,
                          const std::int32_t* targets, std::size_t V, float weight,
                          std::size_t begin, std::size_t end) {
  constexpr std::size_t kBlock = 1024;  // summed in float32
  constexpr std::size_t kSums = 4;
  constexpr std::size_t kL = kLanes<A>;
  for (std::size_t s = begin; s < end; ++s) {
    const float* const row = logits + s * V;
    float* const d = dlogits + s * V;
    losses[s] = 0.0;
    if (targets[s] < 0) {
      zero<A>(d, V);
      continue;
    }
    Batch<A> tops[kSums] = {splat<A>(row[0]), splat<A>(row[0]), splat<A>(row[0]), splat<A>(row[0])};
    std::size_t i = 0;
    for (; i + kSums * kL <= V; i += kSums * kL) {
      DS4_UNROLL for (std::size_t j = 0; j < kSums; ++j) {
        tops[j] = xsimd::max(tops[j], load<A>(row + i + j * kL));
      }
    }
    float top = max_lane<A>(xsimd::max(xsimd::max(tops[0], tops[1]), xsimd::max(tops[2], tops[3])));
    for (; i < V; ++i) top = std::max(top, row[i]);
    const double of_target = static_cast<double>(row[targets[s]] - top);
    double sum = 0.0;
    for (std::size_t first = 0; first < V; first += kBlock) {
      const std::size_t n = std::min(kBlock, V - first);
      Batch<A> sums[2] = {splat<A>(0.0f), splat<A>(0.0f)};
      const auto exponential = [&](std::size_t at) {
        const Batch<A> e = xsimd::exp(load<A>(row + at) - splat<A>(top));
        e.store_unaligned(d + at);
        return e;
      };
      std::size_t c = 0;
      for (; c + 2 * kL <= n; c += 2 * kL) {
        sums[0] += exponential(first + c);
        sums[1] += exponential(first + c + kL);
      }
      float rest = 0.0f;
      for (; c < n; c += kL) {
        const std::size_t count = std::min(kL, n - c);
        if (count == kL) {
          sums[0] += exponential(first + c);
          continue;
        }
        const Part lanes{count};
        put<A>(d + first + c, xsimd::exp(get<A>(row + first + c, lanes) - splat<A>(top)), lanes);
        for (std::size_t j = 0; j < count; ++j) rest += d[first + c + j];
      }
      sum += static_cast<double>(sum_lanes<A>(sums[0] + sums[1])) + static_cast<double>(rest);
    }
    losses[s] = std::log(sum) - of_target;
    const Batch<A> scale = splat<A>(static_cast<float>(static_cast<double>(weight) / sum));
    for_vectors<A>(
        V, [&](std::size_t c, auto lanes) { put<A>(d + c, get<A>(d + c, lanes) * scale, lanes); });
    d[targets[s]] -= weight;
  }
}

}  // namespace ds4::inline v0_1::simd::training
