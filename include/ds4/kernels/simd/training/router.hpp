// Kernels for training: the routed experts' choice and weights, and the balance loss.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// sqrt(softplus(x)) without overflow, and its slope.
template <class A>
struct SqrtSoftplus {
  Batch<A> value;
  Batch<A> slope;
};
template <class A>
inline SqrtSoftplus<A> sqrt_softplus(const Batch<A>& x) {
  const Batch<A> one = splat<A>(1.0f);
  const Batch<A> e = xsimd::exp(-xsimd::max(x, -x));
  const Batch<A> u = one + e;
  // log(1 + e) where e may be lost in 1 + e: what the sum has of e corrects it.
  const Batch<A> kept = u - one;
  const Batch<A> tiny = splat<A>(1e-30f);
  const Batch<A> log =
      xsimd::select(kept > tiny, natural_log<A>(u) * e / xsimd::max(kept, tiny), e);
  const Batch<A> value = xsimd::sqrt(xsimd::max(x, splat<A>(0.0f)) + log);
  const Batch<A> sigmoid = xsimd::select(x >= splat<A>(0.0f), one, e) / u;
  return {value, sigmoid / (value + value)};
}

/// A token's weights from the scores of its experts; see reference/router.hpp.
template <class A>
inline void expert_weights(float* weights, const std::int32_t* experts, const float* score,
                           std::size_t k, float scale) {
  float sum = 1e-20f;
  for (std::size_t i = 0; i < k; ++i) sum += score[experts[i]];
  for (std::size_t i = 0; i < k; ++i) weights[i] = score[experts[i]] / sum * scale;
}

/// Experts and weights of the tokens [begin, end): by the largest score + bias, or, where there is
/// no bias, as given. scratch has E + k values.
template <class A>
inline void route(std::int32_t* experts, float* weights, const float* logits, const float* bias,
                  std::size_t E, std::size_t k, float scale, std::size_t begin, std::size_t end,
                  float* scratch) {
  float* const score = scratch;
  float* const best = scratch + E;
  for (std::size_t s = begin; s < end; ++s) {
    for_vectors<A>(E, [&](std::size_t e, auto lanes) {
      put<A>(score + e, sqrt_softplus<A>(get<A>(logits + s * E + e, lanes)).value, lanes);
    });
    std::int32_t* const own = experts + s * k;
    if (bias != nullptr) {  // the best so far in order; a later expert wins no tie
      for (std::size_t e = 0; e < E; ++e) {
        const float value = score[e] + bias[e];
        std::size_t i = e < k ? e : k;
        if (i == k && !(value > best[k - 1])) continue;
        if (i == k) --i;
        for (; i > 0 && value > best[i - 1]; --i) {
          best[i] = best[i - 1];
          own[i] = own[i - 1];
        }
        best[i] = value;
        own[i] = static_cast<std::int32_t>(e);
      }
    }
    expert_weights<A>(weights + s * k, own, score, k, scale);
  }
}

/// The gradients of the weights of the tokens [begin, end): dlogits +=. scratch has 3 * k values.
template <class A>
inline void expert_weights_backward(float* dlogits, const float* dweights,
                                    const std::int32_t* experts, const float* logits, std::size_t E,
                                    std::size_t k, float scale, std::size_t begin, std::size_t end,
                                    float* scratch) {
  float* const x = scratch;
  float* const score = x + k;
  float* const slope = score + k;
  for (std::size_t s = begin; s < end; ++s) {
    const std::int32_t* const own = experts + s * k;
    const float* const d = dweights + s * k;
    for (std::size_t i = 0; i < k; ++i) x[i] = logits[s * E + static_cast<std::size_t>(own[i])];
    for_vectors<A>(k, [&](std::size_t i, auto lanes) {
      const SqrtSoftplus<A> of = sqrt_softplus<A>(get<A>(x + i, lanes));
      put<A>(score + i, of.value, lanes);
      put<A>(slope + i, of.slope, lanes);
    });
    float sum = 1e-20f;
    float along = 0.0f;
    for (std::size_t i = 0; i < k; ++i) {
      sum += score[i];
      along += d[i] * score[i];
    }
    along /= sum;
    for (std::size_t i = 0; i < k; ++i) {
      dlogits[s * E + static_cast<std::size_t>(own[i])] += scale * (d[i] - along) / sum * slope[i];
    }
  }
}

/// The balance loss's part of the tokens [begin, end) of S, and its gradients: dlogits +=. f [E] is
/// how often an expert was picked beside the mean. scratch has 2 * E values.
template <class A>
inline double balance_loss(float* dlogits, const float* f, const float* logits, std::size_t S,
                           std::size_t E, float weight, std::size_t begin, std::size_t end,
                           float* scratch) {
  double loss = 0.0;
  const float share = 1.0f / static_cast<float>(S);
  for (std::size_t s = begin; s < end; ++s) {
    for_vectors<A>(E, [&](std::size_t e, auto lanes) {
      const SqrtSoftplus<A> of = sqrt_softplus<A>(get<A>(logits + s * E + e, lanes));
      put<A>(scratch + e, of.value, lanes);
      put<A>(scratch + E + e, of.slope, lanes);
    });
    const float sum =
        1e-20f + sum_vectors<A>(E, [&](const Batch<A>& so_far, std::size_t e, auto lanes) {
          return so_far + get<A>(scratch + e, lanes);
        });
    const float mean = dot<A>(f, scratch, E) / sum;
    loss += static_cast<double>(mean) / static_cast<double>(S);
    const Batch<A> factor = splat<A>(weight * share / sum);
    for_vectors<A>(E, [&](std::size_t e, auto lanes) {
      const Batch<A> d = (get<A>(f + e, lanes) - splat<A>(mean)) * factor;
      add_to<A>(dlogits + s * E + e, d * get<A>(scratch + E + e, lanes), lanes);
    });
  }
  return loss;
}

}  // namespace ds4::inline v0_1::simd::training
