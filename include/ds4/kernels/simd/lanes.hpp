// Vectors of float32 for one instruction set: what xsimd gives, its version differences, and the
// few instructions that it has no name for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <xsimd/xsimd.hpp>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define DS4_HAVE_AVX512 1
#include <immintrin.h>
#endif
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define DS4_HAVE_AVX2 1
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#define DS4_HAVE_NEON 1
#include <arm_neon.h>
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define DS4_HAVE_NEON_BF16 1
#endif
#endif

/// Before a loop with few rounds, a constant number: its arrays are to be registers.
#if defined(__clang__)
#define DS4_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DS4_UNROLL _Pragma("GCC unroll 32")
#endif

namespace ds4::inline v0_1::simd {

/// The instruction sets that kernels are written for. A kernel is a template over one of them, so
/// translation units with different compiler flags make different symbols. Baseline is what every
/// machine of its family has: SSE2 or NEON. kRegisters is how many vectors a set has room for,
/// kDotsBf16 whether it multiplies pairs of BF16, Integers, if there is such, the type of vectors
/// for which it has transpose_words.
struct Baseline {
  static constexpr const char* kName = "baseline";
  static constexpr bool kDotsBf16 = false;
#ifdef DS4_HAVE_NEON
  static constexpr std::size_t kRegisters = 32;
  using Xsimd = xsimd::neon64;
  using Integers = uint32x4_t;
#else
  static constexpr std::size_t kRegisters = 16;
  using Xsimd = xsimd::sse2;
#endif
};
#ifdef DS4_HAVE_AVX2
struct Avx2 {  ///< with FMA and F16C
  static constexpr const char* kName = "avx2";
  static constexpr bool kDotsBf16 = false;
  static constexpr std::size_t kRegisters = 16;
  using Xsimd = xsimd::fma3<xsimd::avx2>;
  using Integers = __m256i;
};
#endif
#ifdef DS4_HAVE_AVX512
struct Avx512 {  ///< with BW, DQ, VL, BF16, VNNI and VBMI: Zen 4, Sapphire Rapids and later
  static constexpr const char* kName = "avx512";
  static constexpr bool kDotsBf16 = true;
  static constexpr std::size_t kRegisters = 32;
  using Xsimd = xsimd::avx512bw;
  using Integers = __m512i;
};
#endif
#ifdef DS4_HAVE_NEON_BF16
struct NeonBf16 {  ///< with BF16: Neoverse N2 and V1, Cortex-A710, Apple M2 and later
  static constexpr const char* kName = "neon_bf16";
  static constexpr bool kDotsBf16 = true;
  static constexpr std::size_t kRegisters = 32;
  using Xsimd = xsimd::neon64;
  using Integers = uint32x4_t;
};
#endif

/// The best that the compiler's flags allow.
#if defined(DS4_HAVE_AVX512)
using Native = Avx512;
#elif defined(DS4_HAVE_AVX2)
using Native = Avx2;
#elif defined(DS4_HAVE_NEON_BF16)
using Native = NeonBf16;
#else
using Native = Baseline;
#endif

template <class A>
using Batch = xsimd::batch<float, typename A::Xsimd>;
template <class A>
inline constexpr std::size_t kLanes = Batch<A>::size;

template <class A>
inline Batch<A> load(const float* p) {
  return Batch<A>::load_unaligned(p);
}
template <class A>
inline Batch<A> splat(float x) {
  return Batch<A>(x);
}

/// Sum of the lanes, in one fixed order.
template <class A>
inline float sum_lanes(const Batch<A>& x) {
#if XSIMD_VERSION_MAJOR >= 9
  return xsimd::reduce_add(x);
#else
  return xsimd::hadd(x);
#endif
}

/// Largest lane.
template <class A>
inline float max_lane(const Batch<A>& x) {
  float lanes[kLanes<A>];
  x.store_unaligned(lanes);
  float top = lanes[0];
  for (const float lane : lanes) top = lane > top ? lane : top;
  return top;
}

/// out[0..3] = the sums of the lanes of four accumulators. The order of summation is the same for
/// each of the four, whichever place it is in.
template <class A>
inline void sum_lanes_of_4(float* out, const Batch<A>& a, const Batch<A>& b, const Batch<A>& c,
                           const Batch<A>& d) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    const auto fold = [](__m512 x, __m512 y) {
      return _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
    };
    const __m512d ab = _mm512_castps_pd(fold(a, b));
    const __m512d cd = _mm512_castps_pd(fold(c, d));
    const __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                      _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    return;
  }
#endif
#ifdef DS4_HAVE_NEON
  return vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
#endif
  out[0] = sum_lanes<A>(a);
  out[1] = sum_lanes<A>(b);
  out[2] = sum_lanes<A>(c);
  out[3] = sum_lanes<A>(d);
}

/// As many words of 32 bits, and the float32 that have these.
template <class A>
using Bits = xsimd::batch<std::uint32_t, typename A::Xsimd>;
template <class A>
inline Bits<A> load_bits(const void* p) {
  return Bits<A>::load_unaligned(static_cast<const std::uint32_t*>(p));
}
template <class A>
inline Batch<A> floats_of(const Bits<A>& bits) {
#if XSIMD_VERSION_MAJOR >= 10
  return xsimd::bitwise_cast<float>(bits);
#else
  return xsimd::bitwise_cast<Batch<A> >(bits);
#endif
}

/// 2 * kLanes consecutive BF16 as float32: those at even places, and those at odd places.
template <class A>
struct SplitBf16 {
  Batch<A> even;
  Batch<A> odd;
};
template <class A>
inline SplitBf16<A> load_split_bf16(const void* p) {
  const Bits<A> pairs = load_bits<A>(p);
  return {floats_of<A>(pairs << 16), floats_of<A>(pairs & Bits<A>(0xffff0000u))};
}

// Helpers are templates over the instruction set as well: an inline function with one name in
// translation units of different flags would be merged, and run where it must not.

/// BF16 nearest to x, ties to even; NaN stays NaN.
template <class A>
inline std::uint16_t bf16_from_float(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Rounds n float32 to BF16.
template <class A>
inline void store_bf16(std::uint16_t* out, const float* x, std::size_t n) {
  std::size_t i = 0;
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    for (; i + 16 <= n; i += 16) {
      const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
      std::memcpy(out + i, &half, sizeof half);
    }
  }
#endif
#ifdef DS4_HAVE_NEON_BF16
  if constexpr (A::kDotsBf16) {
    for (; i + 8 <= n; i += 8) {
      const bfloat16x8_t low = vcvtq_low_bf16_f32(vld1q_f32(x + i));
      const bfloat16x8_t half = vcvtq_high_bf16_f32(low, vld1q_f32(x + i + 4));
      std::memcpy(out + i, &half, sizeof half);
    }
  }
#endif
  for (; i < n; ++i) out[i] = bf16_from_float<A>(x[i]);
}

/// Asks for the cache line at p; any address is allowed.
template <class A>
inline void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 3);
}

}  // namespace ds4::inline v0_1::simd
