// Kernels for training: the RMS norm.
#pragma once

#include <cmath>
#include <cstddef>

#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// y = weight * x / sqrt(mean(x^2) + eps) for `rows` rows of n values; a null weight is 1. y may be
/// x.
template <class A>
inline void rms_norm(float* y, const float* x, const float* weight, std::size_t rows, std::size_t n,
                     float eps) {
  for (std::size_t row = 0; row < rows; ++row, x += n, y += n) {
    const Batch<A> scale =
        splat<A>(1.0f / std::sqrt(dot<A>(x, x, n) / static_cast<float>(n) + eps));
    for_vectors<A>(n, [&](std::size_t i, auto lanes) {
      Batch<A> v = get<A>(x + i, lanes) * scale;
      if (weight != nullptr) v *= get<A>(weight + i, lanes);
      put<A>(y + i, v, lanes);
    });
  }
}

/// Its gradients: dx += and, unless it is null, dweight +=.
template <class A>
inline void rms_norm_backward(float* dx, float* dweight, const float* dy, const float* x,
                              const float* weight, std::size_t rows, std::size_t n, float eps) {
  const auto factor = [&](std::size_t i, auto lanes) {
    return weight == nullptr ? splat<A>(1.0f) : get<A>(weight + i, lanes);
  };
  for (std::size_t row = 0; row < rows; ++row, x += n, dx += n, dy += n) {
    const float mean = dot<A>(x, x, n) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(mean + eps);
    const float along = sum_vectors<A>(n, [&](const Batch<A>& sum, std::size_t i, auto lanes) {
      return xsimd::fma(get<A>(dy + i, lanes) * factor(i, lanes), get<A>(x + i, lanes), sum);
    });
    const Batch<A> s = splat<A>(scale);
    const Batch<A> back = splat<A>(along * scale * scale * scale / static_cast<float>(n));
    for_vectors<A>(n, [&](std::size_t i, auto lanes) {
      const Batch<A> value = get<A>(x + i, lanes);
      const Batch<A> d = get<A>(dy + i, lanes) * s;
      add_to<A>(dx + i, d * factor(i, lanes) - back * value, lanes);
      if (dweight != nullptr) add_to<A>(dweight + i, d * value, lanes);
    });
  }
}

}  // namespace ds4::inline v0_1::simd::training
