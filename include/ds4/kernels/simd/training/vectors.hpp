// What the kernels for training share: loops over values by vectors, whose last one may be a part
// of a vector, sums of such loops, and dot products of a few rows at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::inline v0_1::simd::training {

/// All lanes of a vector.
struct Whole {};
/// Its first `count` lanes; the others are zeros, and are not stored.
struct Part {
  std::size_t count;  ///< less than a vector's lanes, at least 1
};

///@{
/// Vectors from and to memory, whole or in part.
template <class A>
inline Batch<A> get(const float* p, Whole) {
  return load<A>(p);
}
template <class A>
inline Batch<A> get(const float* p, Part part) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.count) - 1u), p);
  }
#endif
  float lanes[kLanes<A>] = {};
  for (std::size_t i = 0; i < part.count; ++i) lanes[i] = p[i];
  return load<A>(lanes);
}
template <class A>
inline void put(float* p, const Batch<A>& v, Whole) {
  v.store_unaligned(p);
}
template <class A>
inline void put(float* p, const Batch<A>& v, Part part) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << part.count) - 1u), v);
  }
#endif
  float lanes[kLanes<A>];
  v.store_unaligned(lanes);
  for (std::size_t i = 0; i < part.count; ++i) p[i] = lanes[i];
}
///@}

/// p += v.
template <class A, class Lanes>
inline void add_to(float* p, const Batch<A>& v, Lanes lanes) {
  put<A>(p, get<A>(p, lanes) + v, lanes);
}

/// Calls f(i, lanes) for the vectors of n values, i being the place of a vector's first value.
template <class A, class F>
inline void for_vectors(std::size_t n, F&& f) {
  std::size_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) f(i, Whole{});
  if (i < n) f(i, Part{n - i});
}

/// The sum over n values, where add(sum, i, lanes) gives the sum with a vector's values added.
/// Lanes that are not there must add 0.
template <class A, class F>
inline float sum_vectors(std::size_t n, F&& add) {
  constexpr std::size_t kSums = 4;  // one alone would wait for itself
  Batch<A> sum[kSums] = {splat<A>(0.0f), splat<A>(0.0f), splat<A>(0.0f), splat<A>(0.0f)};
  std::size_t i = 0;
  for (; i + kSums * kLanes<A> <= n; i += kSums * kLanes<A>) {
    DS4_UNROLL for (std::size_t j = 0; j < kSums; ++j) {
      sum[j] = add(sum[j], i + j * kLanes<A>, Whole{});
    }
  }
  for (; i + kLanes<A> <= n; i += kLanes<A>) sum[0] = add(sum[0], i, Whole{});
  if (i < n) sum[1] = add(sum[1], i, Part{n - i});
  return sum_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/// The sum of a[i] b[i].
template <class A>
inline float dot(const float* a, const float* b, std::size_t n) {
  return sum_vectors<A>(n, [&](const Batch<A>& sum, std::size_t i, auto lanes) {
    return xsimd::fma(get<A>(a + i, lanes), get<A>(b + i, lanes), sum);
  });
}

/// 1 / (1 + exp(-x)).
template <class A>
inline Batch<A> sigmoid(const Batch<A>& x) {
  return splat<A>(1.0f) / (splat<A>(1.0f) + xsimd::exp(-x));
}

/// log(x) for normal x > 0, to about 2^-23 of it, next to 1 as well. (That of xsimd 8 with AVX-512
/// does not compile without optimisation.) Source: the polynomial of Cephes, logf.
template <class A>
inline Batch<A> natural_log(const Batch<A>& x) {
  using Bits = xsimd::batch<std::uint32_t, typename A::Xsimd>;
  const auto to_float = [](const Bits& bits) {
#if XSIMD_VERSION_MAJOR >= 10
    return xsimd::bitwise_cast<float>(bits);
#else
    return xsimd::bitwise_cast<Batch<A>>(bits);
#endif
  };
#if XSIMD_VERSION_MAJOR >= 10
  const Bits bits = xsimd::bitwise_cast<std::uint32_t>(x);
#else
  const Bits bits = xsimd::bitwise_cast<Bits>(x);
#endif
  // x = m * 2^e with m in [1, 2), then in [sqrt(1/2), sqrt(2)). The biased exponent becomes a
  // number as the low bits of 2^23 + it.
  const Batch<A> m = to_float((bits & Bits(0x7fffffu)) | Bits(0x3f800000u));
  const Batch<A> e = to_float((bits >> 23) | Bits(0x4b000000u)) - splat<A>(8388608.0f + 127.0f);
  const auto high = m > splat<A>(1.41421356f);
  const Batch<A> exponent = xsimd::select(high, e + splat<A>(1.0f), e);
  const Batch<A> f = xsimd::select(high, m * splat<A>(0.5f), m) - splat<A>(1.0f);
  constexpr float kTerms[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  Batch<A> sum = splat<A>(0.0f);
  for (const float term : kTerms) sum = xsimd::fma(sum, f, splat<A>(term));
  const Batch<A> square = f * f;
  sum = sum * f * square;
  sum = xsimd::fma(exponent, splat<A>(-2.12194440e-4f), sum);  // log(2) in two parts
  sum = xsimd::fma(square, splat<A>(-0.5f), sum) + f;
  return xsimd::fma(exponent, splat<A>(0.693359375f), sum);
}

/// Calls f with `count` as a constant if that is `Count`, otherwise as it is: loops over few things
/// are unrolled where there are as many as usual.
template <class A, std::size_t Count, class F>
inline void with_usual(std::size_t count, F&& f) {
  if (count == Count) {
    f(std::integral_constant<std::size_t, Count>{});
  } else {
    f(count);
  }
}

/// Float32 values of scratch in whose place there is a pointer.
inline constexpr std::size_t kPointerValues = sizeof(void*) / sizeof(float);

/// Calls f(0), f(1), ..., f(n - 1); unrolled if n is a constant.
template <class A, class Count, class F>
inline void repeat(Count n, F&& f) {
  if constexpr (std::is_same_v<Count, std::size_t>) {
    for (std::size_t i = 0; i < n; ++i) f(i);
  } else {
    DS4_UNROLL for (std::size_t i = 0; i < Count::value; ++i) f(i);
  }
}

///@{
/// n * n, a constant if n is one.
template <class A>
constexpr std::size_t square(std::size_t n) {
  return n * n;
}
template <class A, std::size_t N>
constexpr std::integral_constant<std::size_t, N * N> square(
    std::integral_constant<std::size_t, N>) {
  return {};
}
///@}

/// Rows on the left and on the right of a tile of dot products: what the registers hold.
template <class A>
inline constexpr std::size_t kDotRows = kLanes<A> == 16 ? 4 : 2;
inline constexpr std::size_t kDotKeys = 4;

/// dots[r][k] = x_r . keys[k] for `Rows` rows x_r, x_stride apart, and kDotKeys keys, of n values.
template <class A, std::size_t Rows>
inline void dot_tile(float (&dots)[Rows][kDotKeys], const float* x, std::size_t x_stride,
                     const float* const (&keys)[kDotKeys], std::size_t n) {
  Batch<A> sum[Rows][kDotKeys];
  DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
    DS4_UNROLL for (std::size_t k = 0; k < kDotKeys; ++k) sum[r][k] = splat<A>(0.0f);
  }
  for_vectors<A>(n, [&](std::size_t i, auto lanes) {
    Batch<A> key[kDotKeys];
    DS4_UNROLL for (std::size_t k = 0; k < kDotKeys; ++k) key[k] = get<A>(keys[k] + i, lanes);
    DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
      const Batch<A> value = get<A>(x + r * x_stride + i, lanes);
      DS4_UNROLL for (std::size_t k = 0; k < kDotKeys; ++k) {
        sum[r][k] = xsimd::fma(value, key[k], sum[r][k]);
      }
    }
  });
  DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
    sum_lanes_of_4<A>(dots[r], sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
  }
}

/// Calls f(first, constant) until `rows` rows are done, constant being how many it is to do next.
template <class A, class F>
inline void for_dot_rows(std::size_t rows, F&& f) {
  std::size_t r = 0;
  for (; r + kDotRows<A> <= rows; r += kDotRows<A>) {
    f(r, std::integral_constant<std::size_t, kDotRows<A>>{});
  }
  for (; r < rows; ++r) f(r, std::integral_constant<std::size_t, 1>{});
}

/// Gives put_dot(r, k, x_r . key(k)) for all r < rows, k < count.
template <class A, class Key, class Put>
inline void all_dots(const float* x, std::size_t x_stride, std::size_t rows, std::size_t count,
                     std::size_t n, Key&& key, Put&& put_dot) {
  for (std::size_t k = 0; k < count; k += kDotKeys) {
    const std::size_t wanted = count - k < kDotKeys ? count - k : kDotKeys;
    const float* keys[kDotKeys];  // a tile that is not full repeats its last key
    for (std::size_t i = 0; i < kDotKeys; ++i) keys[i] = key(k + (i < wanted ? i : wanted - 1));
    for_dot_rows<A>(rows, [&](std::size_t r, auto constant) {
      constexpr std::size_t kRows = decltype(constant)::value;
      float dots[kRows][kDotKeys];
      dot_tile<A, kRows>(dots, x + r * x_stride, x_stride, keys, n);
      for (std::size_t j = 0; j < kRows; ++j) {
        for (std::size_t i = 0; i < wanted; ++i) put_dot(r + j, k + i, dots[j][i]);
      }
    });
  }
}

}  // namespace ds4::inline v0_1::simd::training
