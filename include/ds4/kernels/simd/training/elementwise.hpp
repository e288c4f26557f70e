// Kernels for training that take values one by one, or rows one by one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// y += x for n values.
template <class A>
inline void add(float* y, const float* x, std::size_t n) {
  for_vectors<A>(n,
                 [&](std::size_t i, auto lanes) { add_to<A>(y + i, get<A>(x + i, lanes), lanes); });
}

/// y = x for n values.
template <class A>
inline void copy(float* y, const float* x, std::size_t n) {
  std::memcpy(y, x, n * sizeof(float));
}

/// y = 0 for n values.
template <class A>
inline void zero(float* y, std::size_t n) {
  std::memset(y, 0, n * sizeof(float));
}

/// y[begin, end) += the sum over c < count of parts[c * stride + ...], in the order of c.
template <class A>
inline void add_parts(float* y, const float* parts, std::size_t count, std::size_t stride,
                      std::size_t begin, std::size_t end) {
  for_vectors<A>(end - begin, [&](std::size_t i, auto lanes) {
    Batch<A> sum = splat<A>(0.0f);
    for (std::size_t c = 0; c < count; ++c) sum += get<A>(parts + c * stride + begin + i, lanes);
    add_to<A>(y + begin + i, sum, lanes);
  });
}

/// y = silu(min(gate, limit)) * clamp(up, -limit, limit) for n values.
template <class A>
inline void swiglu(float* y, const float* gate, const float* up, std::size_t n, float limit) {
  const Batch<A> top = splat<A>(limit);
  for_vectors<A>(n, [&](std::size_t i, auto lanes) {
    const Batch<A> g = xsimd::min(get<A>(gate + i, lanes), top);
    const Batch<A> u = xsimd::max(xsimd::min(get<A>(up + i, lanes), top), -top);
    put<A>(y + i, g * sigmoid<A>(g) * u, lanes);
  });
}

/// Its gradients: dgate, dup += from dy. `Set`: they are replaced.
template <class A, bool Set = false>
inline void swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate,
                            const float* up, std::size_t n, float limit) {
  const Batch<A> top = splat<A>(limit);
  const Batch<A> one = splat<A>(1.0f);
  const Batch<A> none = splat<A>(0.0f);
  for_vectors<A>(n, [&](std::size_t i, auto lanes) {
    const Batch<A> gate_in = get<A>(gate + i, lanes);
    const Batch<A> up_in = get<A>(up + i, lanes);
    const Batch<A> d = get<A>(dy + i, lanes);
    const Batch<A> g = xsimd::min(gate_in, top);
    const Batch<A> u = xsimd::max(xsimd::min(up_in, top), -top);
    const Batch<A> s = sigmoid<A>(g);
    const Batch<A> silu = g * s;
    const Batch<A> slope = xsimd::fma(silu, one - s, s);
    const Batch<A> of_gate = xsimd::select(gate_in <= top, d * slope * u, none);
    const Batch<A> of_up = xsimd::select(u == up_in, d * silu, none);  // within its limits
    if constexpr (Set) {
      put<A>(dgate + i, of_gate, lanes);
      put<A>(dup + i, of_up, lanes);
    } else {
      add_to<A>(dgate + i, of_gate, lanes);
      add_to<A>(dup + i, of_up, lanes);
    }
  });
}

/// x = (x0, x1, x2, x3, ...) as (x1, x0, x3, x2, ...).
template <class A>
inline Batch<A> swap_neighbours(const Batch<A>& x) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) return _mm512_permute_ps(x, 0xb1);
#endif
#ifdef DS4_HAVE_AVX2
  if constexpr (kLanes<A> == 8) return _mm256_permute_ps(x, 0xb1);
#endif
#ifdef DS4_HAVE_NEON
  return vrev64q_f32(x);
#endif
  float lanes[kLanes<A>];
  x.store_unaligned(lanes);
  for (std::size_t i = 0; i < kLanes<A>; i += 2) {
    const float even = lanes[i];
    lanes[i] = lanes[i + 1];
    lanes[i + 1] = even;
  }
  return load<A>(lanes);
}

/// Rotates the last 2 * pairs values of each head of the tokens [begin, end), in place.
template <class A>
inline void rotate(float* x, const float* cos, const float* sin, std::size_t heads, std::size_t d,
                   std::size_t pairs, bool inverse, std::size_t begin, std::size_t end) {
  constexpr std::size_t kPairs = 32;  // whose factors are spread out at once
  for (std::size_t s = begin; s < end; ++s) {
    for (std::size_t first = 0; first < pairs; first += kPairs) {
      const std::size_t count = std::min(kPairs, pairs - first);
      float straight[2 * kPairs];
      float crossed[2 * kPairs];
      for (std::size_t i = 0; i < count; ++i) {
        const float c = cos[s * pairs + first + i];
        const float sn = inverse ? -sin[s * pairs + first + i] : sin[s * pairs + first + i];
        straight[2 * i] = straight[2 * i + 1] = c;
        crossed[2 * i] = -sn;
        crossed[2 * i + 1] = sn;
      }
      for (std::size_t h = 0; h < heads; ++h) {
        float* at = x + (s * heads + h + 1) * d - 2 * pairs + 2 * first;
        for_vectors<A>(2 * count, [&](std::size_t i, auto lanes) {
          const Batch<A> v = get<A>(at + i, lanes);
          const Batch<A> other = swap_neighbours<A>(v) * get<A>(crossed + i, lanes);
          put<A>(at + i, xsimd::fma(v, get<A>(straight + i, lanes), other), lanes);
        });
      }
    }
  }
}

/// y[i, n, :] = x[rows[i], :] for i in [begin, end) and n < copies.
template <class A>
inline void take_rows(float* y, const float* x, const std::int32_t* rows, std::size_t copies,
                      std::size_t width, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) {
    const float* from = x + static_cast<std::size_t>(rows[i]) * width;
    for (std::size_t n = 0; n < copies; ++n) copy<A>(y + (i * copies + n) * width, from, width);
  }
}

/// y[rows[i], c] += the sum over n of x[i, n, c] for i < count and the columns c in [begin, end).
/// Rows of y are `width` wide.
template <class A>
inline void add_rows(float* y, const float* x, const std::int32_t* rows, std::size_t count,
                     std::size_t copies, std::size_t width, std::size_t begin, std::size_t end) {
  for (std::size_t i = 0; i < count; ++i) {
    float* const to = y + static_cast<std::size_t>(rows[i]) * width + begin;
    const float* const from = x + i * copies * width + begin;
    for_vectors<A>(end - begin, [&](std::size_t c, auto lanes) {
      Batch<A> sum = get<A>(from + c, lanes);
      for (std::size_t n = 1; n < copies; ++n) sum += get<A>(from + n * width + c, lanes);
      add_to<A>(to + c, sum, lanes);
    });
  }
}

/// y[i, :] = the sum over n < copies of scale[i, n] x[i, n, :] for the rows [begin, end); a null
/// scale is 1. `Add`: y += it.
template <class A, bool Add = false>
inline void sum_copies(float* y, const float* x, const float* scale, std::size_t copies,
                       std::size_t width, std::size_t begin, std::size_t end) {
  constexpr std::size_t kUsual = 4;  // streams
  with_usual<A, kUsual>(copies, [&](auto count) {
    for (std::size_t i = begin; i < end; ++i) {
      const float* const from = x + i * count * width;
      for_vectors<A>(width, [&](std::size_t c, auto lanes) {
        Batch<A> sum = Add ? get<A>(y + i * width + c, lanes) : splat<A>(0.0f);
        repeat<A>(count, [&](std::size_t n) {
          const Batch<A> factor = splat<A>(scale == nullptr ? 1.0f : scale[i * count + n]);
          sum = xsimd::fma(factor, get<A>(from + n * width + c, lanes), sum);
        });
        put<A>(y + i * width + c, sum, lanes);
      });
    }
  });
}

/// y += what sum_copies gives.
template <class A>
inline void add_copies(float* y, const float* x, const float* scale, std::size_t copies,
                       std::size_t width, std::size_t begin, std::size_t end) {
  sum_copies<A, true>(y, x, scale, copies, width, begin, end);
}

/// X[s, n, :] += y[s, :] for the tokens [begin, end).
template <class A>
inline void add_to_streams(float* X, const float* y, std::size_t N, std::size_t D,
                           std::size_t begin, std::size_t end) {
  for (std::size_t s = begin; s < end; ++s) {
    for (std::size_t n = 0; n < N; ++n) add<A>(X + (s * N + n) * D, y + s * D, D);
  }
}

/// The sum of squares of n values: of blocks in float32, of their sums in double.
template <class A>
inline double sum_of_squares(const float* x, std::size_t n) {
  constexpr std::size_t kBlock = 1024;
  double sum = 0.0;
  for (std::size_t i = 0; i < n; i += kBlock) {
    sum += static_cast<double>(dot<A>(x + i, x + i, std::min(kBlock, n - i)));
  }
  return sum;
}

}  // namespace ds4::inline v0_1::simd::training
