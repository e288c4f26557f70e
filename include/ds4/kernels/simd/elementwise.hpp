// Norms, activations, rotation and the streams' mixing: one pass over values in cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::inline v0_1::simd {

/// Sum of squares of n values.
template <class A>
inline float sum_of_squares(const float* x, std::size_t n) {
  Batch<A> sum[4] = {splat<A>(0.0f), splat<A>(0.0f), splat<A>(0.0f), splat<A>(0.0f)};
  std::size_t i = 0;
  for (; i + 4 * kLanes<A> <= n; i += 4 * kLanes<A>) {
    for (std::size_t j = 0; j < 4; ++j) {
      const Batch<A> v = load<A>(x + i + j * kLanes<A>);
      sum[j] = xsimd::fma(v, v, sum[j]);
    }
  }
  float total = sum_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; ++i) total += x[i] * x[i];
  return total;
}

/// y = weight * x / sqrt(mean(x^2) + eps) for one row; a null weight is 1. y may be x.
template <class A>
inline void rms_norm(float* y, const float* x, const float* weight, std::size_t n, float eps) {
  const float scale = 1.0f / std::sqrt(sum_of_squares<A>(x, n) / static_cast<float>(n) + eps);
  std::size_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) {
    Batch<A> v = load<A>(x + i) * splat<A>(scale);
    if (weight != nullptr) v *= load<A>(weight + i);
    v.store_unaligned(y + i);
  }
  for (; i < n; ++i) y[i] = x[i] * scale * (weight != nullptr ? weight[i] : 1.0f);
}

/// gate <- silu(min(gate, limit)) * clamp(up, -limit, limit) for n values.
template <class A>
inline void swiglu(float* gate, const float* up, std::size_t n, float limit) {
  std::size_t i = 0;
  const Batch<A> top = splat<A>(limit);
  for (; i + kLanes<A> <= n; i += kLanes<A>) {
    const Batch<A> g = xsimd::min(load<A>(gate + i), top);
    const Batch<A> u = xsimd::max(xsimd::min(load<A>(up + i), top), -top);
    (g / (splat<A>(1.0f) + xsimd::exp(-g)) * u).store_unaligned(gate + i);
  }
  if (i < n) {  // the same operations on a padded copy: a value does not depend on its place
    float g[kLanes<A>] = {};
    float u[kLanes<A>] = {};
    std::copy(gate + i, gate + n, g);
    std::copy(up + i, up + n, u);
    swiglu<A>(g, u, kLanes<A>, limit);
    std::copy(g, g + (n - i), gate + i);
  }
}

/// Rotates `pairs` interleaved pairs in place by the given cosines and sines.
template <class A>
inline void rotate_pairs(float* x, const float* cos, const float* sin, std::size_t pairs,
                         bool inverse) {
  const float sign = inverse ? -1.0f : 1.0f;
  for (std::size_t i = 0; i < pairs; ++i) {
    const float even = x[2 * i];
    const float odd = x[2 * i + 1];
    const float s = sign * sin[i];
    x[2 * i] = even * cos[i] - odd * s;
    x[2 * i + 1] = odd * cos[i] + even * s;
  }
}

/// comb [N, N] by Sinkhorn's rounds, in place; see reference/hyper_connection.hpp.
template <class A>
inline void sinkhorn(float* comb, std::size_t N, std::size_t iters, float eps) {
  for (std::size_t j = 0; j < N; ++j) {
    float* row = comb + j * N;
    const float top = *std::max_element(row, row + N);
    float sum = 0.0f;
    for (std::size_t n = 0; n < N; ++n) sum += row[n] = std::exp(row[n] - top);
    for (std::size_t n = 0; n < N; ++n) row[n] = row[n] / sum + eps;
  }
  const auto columns = [&] {
    for (std::size_t n = 0; n < N; ++n) {
      float sum = eps;
      for (std::size_t j = 0; j < N; ++j) sum += comb[j * N + n];
      const float scale = 1.0f / sum;
      for (std::size_t j = 0; j < N; ++j) comb[j * N + n] *= scale;
    }
  };
  columns();
  for (std::size_t i = 1; i < iters; ++i) {
    for (std::size_t j = 0; j < N; ++j) {
      float sum = eps;
      for (std::size_t n = 0; n < N; ++n) sum += comb[j * N + n];
      const float scale = 1.0f / sum;
      for (std::size_t n = 0; n < N; ++n) comb[j * N + n] *= scale;
    }
    columns();
  }
}

/// c[i] = sum_n pre[n] * X[n, i] for one token. X [N, D].
template <class A>
inline void collapse_streams(float* c, const float* X, const float* pre, std::size_t N,
                             std::size_t D) {
  std::size_t i = 0;
  for (; i + kLanes<A> <= D; i += kLanes<A>) {
    Batch<A> sum = splat<A>(pre[0]) * load<A>(X + i);
    for (std::size_t n = 1; n < N; ++n) {
      sum = xsimd::fma(splat<A>(pre[n]), load<A>(X + n * D + i), sum);
    }
    sum.store_unaligned(c + i);
  }
  for (; i < D; ++i) {
    float sum = 0.0f;
    for (std::size_t n = 0; n < N; ++n) sum += pre[n] * X[n * D + i];
    c[i] = sum;
  }
}

/// X[n, i] <- post[n] * y[i] + sum_j comb[j, n] * X[j, i] for the channels [begin, end) of one
/// token, in place. X [N, D]; comb [N, N] is read transposed. `old` has N * kLanes values.
template <class A>
inline void mix_streams(float* X, const float* post, const float* comb, const float* y, float* old,
                        std::size_t N, std::size_t D, std::size_t begin, std::size_t end) {
  std::size_t i = begin;
  for (; i + kLanes<A> <= end; i += kLanes<A>) {
    const Batch<A> out = load<A>(y + i);
    for (std::size_t j = 0; j < N; ++j) load<A>(X + j * D + i).store_unaligned(old + j * kLanes<A>);
    for (std::size_t n = 0; n < N; ++n) {
      Batch<A> sum = splat<A>(post[n]) * out;
      for (std::size_t j = 0; j < N; ++j) {
        sum = xsimd::fma(splat<A>(comb[j * N + n]), load<A>(old + j * kLanes<A>), sum);
      }
      sum.store_unaligned(X + n * D + i);
    }
  }
  for (; i < end; ++i) {
    for (std::size_t j = 0; j < N; ++j) old[j] = X[j * D + i];
    for (std::size_t n = 0; n < N; ++n) {
      float sum = post[n] * y[i];
      for (std::size_t j = 0; j < N; ++j) sum += comb[j * N + n] * old[j];
      X[n * D + i] = sum;
    }
  }
}

/// y += scale * x for n values.
template <class A>
inline void add_scaled(float* y, const float* x, float scale, std::size_t n) {
  std::size_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) {
    xsimd::fma(splat<A>(scale), load<A>(x + i), load<A>(y + i)).store_unaligned(y + i);
  }
  if (i < n) {  // as in swiglu
    float sums[kLanes<A>] = {};
    float values[kLanes<A>] = {};
    std::copy(y + i, y + n, sums);
    std::copy(x + i, x + n, values);
    add_scaled<A>(sums, values, scale, kLanes<A>);
    std::copy(sums, sums + (n - i), y + i);
  }
}

/// Softmax-gated pooling: out[c] = sum_i softmax_i(gate[i][c] + ape[i][c]) * kv[i][c] for c < d.
template <class A>
inline void pool(float* out, const float* const* kv, const float* const* gate,
                 const float* const* ape, std::size_t slots, std::size_t d) {
  std::size_t c = 0;
  for (; c + kLanes<A> <= d; c += kLanes<A>) {
    Batch<A> top = load<A>(gate[0] + c) + load<A>(ape[0] + c);
    for (std::size_t i = 1; i < slots; ++i) {
      top = xsimd::max(top, load<A>(gate[i] + c) + load<A>(ape[i] + c));
    }
    Batch<A> sum = splat<A>(0.0f);
    Batch<A> weighted = splat<A>(0.0f);
    for (std::size_t i = 0; i < slots; ++i) {
      const Batch<A> p = xsimd::exp(load<A>(gate[i] + c) + load<A>(ape[i] + c) - top);
      sum += p;
      weighted = xsimd::fma(p, load<A>(kv[i] + c), weighted);
    }
    (weighted / sum).store_unaligned(out + c);
  }
  for (; c < d; ++c) {
    float top = gate[0][c] + ape[0][c];
    for (std::size_t i = 1; i < slots; ++i) top = std::max(top, gate[i][c] + ape[i][c]);
    float sum = 0.0f;
    float weighted = 0.0f;
    for (std::size_t i = 0; i < slots; ++i) {
      const float p = std::exp(gate[i][c] + ape[i][c] - top);
      sum += p;
      weighted += p * kv[i][c];
    }
    out[c] = weighted / sum;
  }
}

}  // namespace ds4::inline v0_1::simd
