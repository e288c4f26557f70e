// Kernels for training: cross-entropy of logits, and the losses of drafts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Values whose exponentials are summed in float32.
inline constexpr std::size_t kSumBlock = 1024;

/// e = exp(row - its largest value) for V values, e maybe the row.
struct Exponentials {
  float top;   ///< the largest
  double sum;  ///< of e
};
template <class A>
inline Exponentials exponentials(float* e, const float* row, std::size_t V) {
  constexpr std::size_t kSums = 4;
  constexpr std::size_t kL = kLanes<A>;
  Batch<A> tops[kSums] = {splat<A>(row[0]), splat<A>(row[0]), splat<A>(row[0]), splat<A>(row[0])};
  std::size_t i = 0;
  for (; i + kSums * kL <= V; i += kSums * kL) {
    DS4_UNROLL for (std::size_t j = 0; j < kSums; ++j) {
      tops[j] = xsimd::max(tops[j], load<A>(row + i + j * kL));
    }
  }
  float top = max_lane<A>(xsimd::max(xsimd::max(tops[0], tops[1]), xsimd::max(tops[2], tops[3])));
  for (; i < V; ++i) top = std::max(top, row[i]);
  double sum = 0.0;
  for (std::size_t first = 0; first < V; first += kSumBlock) {
    const std::size_t n = std::min(kSumBlock, V - first);
    Batch<A> sums[2] = {splat<A>(0.0f), splat<A>(0.0f)};
    const auto exponential = [&](std::size_t at) {
      const Batch<A> of = xsimd::exp(load<A>(row + at) - splat<A>(top));
      of.store_unaligned(e + at);
      return of;
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
      put<A>(e + first + c, xsimd::exp(get<A>(row + first + c, lanes) - splat<A>(top)), lanes);
      for (std::size_t j = 0; j < count; ++j) rest += e[first + c + j];
    }
    sum += static_cast<double>(sum_lanes<A>(sums[0] + sums[1])) + static_cast<double>(rest);
  }
  return {top, sum};
}

/// losses[s] = -log softmax(logits[s])[targets[s]], or 0 without a target, for the rows [begin,
/// end); dlogits = weight * its gradient, which may be written over the logits.
template <class A>
inline void cross_entropy(float* dlogits, double* losses, const float* logits,
                          const std::int32_t* targets, std::size_t V, float weight,
                          std::size_t begin, std::size_t end) {
  for (std::size_t s = begin; s < end; ++s) {
    const float* const row = logits + s * V;
    float* const d = dlogits + s * V;
    losses[s] = 0.0;
    if (targets[s] < 0) {
      zero<A>(d, V);
      continue;
    }
    const float target = row[targets[s]];  // d may be the row
    const auto [top, sum] = exponentials<A>(d, row, V);
    losses[s] = std::log(sum) - static_cast<double>(target - top);
    const Batch<A> scale = splat<A>(static_cast<float>(static_cast<double>(weight) / sum));
    for_vectors<A>(
        V, [&](std::size_t c, auto lanes) { put<A>(d + c, get<A>(d + c, lanes) * scale, lanes); });
    d[targets[s]] -= weight;
  }
}

/// losses[s] and the gradients of the rows [begin, end); see ReferenceTraining::draft_loss.
/// `memory` has V values.
template <class A>
inline void draft_loss(float* dlogits, float* dconfidence, DraftRowLoss* losses,
                       const DraftRows<float>& rows, std::size_t V, const DraftLossWeights& weights,
                       std::size_t begin, std::size_t end, float* memory) {
  for (std::size_t s = begin; s < end; ++s) {
    const float* const row = rows.logits + s * V;
    float* const d = dlogits + s * V;
    const float target = row[rows.targets[s]];  // d may be the row
    const auto [top, sum] = exponentials<A>(d, row, V);
    const double model_sum = exponentials<A>(memory, rows.model_logits + s * V, V).sum;
    DraftRowLoss& loss = losses[s];
    loss.cross_entropy = std::log(sum) - static_cast<double>(target - top);
    const Batch<A> scale = splat<A>(static_cast<float>(1.0 / sum));
    const Batch<A> model_scale = splat<A>(static_cast<float>(1.0 / model_sum));
    loss.distance = 0.0;
    double mean_sign = 0.0;  // by the draft's distribution
    for (std::size_t first = 0; first < V; first += kSumBlock) {
      Batch<A> distances = splat<A>(0.0f);
      Batch<A> signs = splat<A>(0.0f);
      for_vectors<A>(std::min(kSumBlock, V - first), [&](std::size_t c, auto lanes) {
        float* const at = d + first + c;
        const Batch<A> p = get<A>(at, lanes) * scale;  // 0 beside a part's lanes
        const Batch<A> off = p - get<A>(memory + first + c, lanes) * model_scale;
        const auto above = off > splat<A>(0.0f);
        distances += xsimd::abs(off);
        signs += xsimd::select(above, p, -p);
        put<A>(memory + first + c, xsimd::select(above, splat<A>(1.0f), splat<A>(-1.0f)), lanes);
        put<A>(at, p, lanes);
      });
      loss.distance += static_cast<double>(sum_lanes<A>(distances));
      mean_sign += static_cast<double>(sum_lanes<A>(signs));
    }
    const auto weight = static_cast<double>(rows.weights[s]);
    const auto of_p =
        static_cast<float>(weight * (weights.cross_entropy - weights.distance * mean_sign));
    const auto of_sign = static_cast<float>(weight * weights.distance);
    for_vectors<A>(V, [&](std::size_t c, auto lanes) {
      const Batch<A> factor =
          xsimd::fma(get<A>(memory + c, lanes), splat<A>(of_sign), splat<A>(of_p));
      put<A>(d + c, get<A>(d + c, lanes) * factor, lanes);
    });
    d[rows.targets[s]] -= static_cast<float>(weight * weights.cross_entropy);
    const auto c = static_cast<double>(rows.confidence[s]);
    const double accepted = 1.0 - 0.5 * loss.distance;
    loss.confidence = std::max(c, 0.0) - accepted * c + std::log1p(std::exp(-std::abs(c)));
    dconfidence[s] =
        static_cast<float>(weight * weights.confidence * (1.0 / (1.0 + std::exp(-c)) - accepted));
  }
}

}  // namespace ds4::inline v0_1::simd::training
