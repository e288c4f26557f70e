// How words of weights are multiplied with tokens: a vector holds one word of each of its rows.
//
// A type of this kind says in which steps a vector of words is multiplied: `load` reads it,
// `rows<step>` are its rows' elements of a step, and `multiply_add` multiplies them with
// kTokenBytes of a token.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::inline v0_1::simd {

/// Calls f with the integral constants 0 .. count - 1.
template <class A, std::size_t count, class F>
[[gnu::always_inline]] inline void for_each_step(F&& f) {
  [&]<std::size_t... step>(std::index_sequence<step...>) __attribute__((always_inline)) {
    (f(std::integral_constant<std::size_t, step>{}), ...);
  }(std::make_index_sequence<count>{});
}

/// What is multiplied as float32: each step adds an element of a row to its sum.
template <class A, std::size_t steps>
struct FloatSteps {
  static constexpr std::size_t kSteps = steps;
  static constexpr std::size_t kTokenBytes = 4;  // of a token, per step
  static constexpr float kUnit = 1.0f;           // by which elements have to be multiplied
  using Rows = Batch<A>;

  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    return xsimd::fma(rows, splat<A>(*reinterpret_cast<const float*>(token)), acc);
  }
};

/// Float32 rows.
template <class A>
struct F32Words : FloatSteps<A, 1> {
  using Word = Batch<A>;

  static Word load(const std::byte* p) { return simd::load<A>(reinterpret_cast<const float*>(p)); }
#ifdef DS4_HAVE_AVX512
  static Word of_bits(__m512i words) { return _mm512_castsi512_ps(words); }
#endif
  template <std::size_t step>
  static Batch<A> rows(const Word& word) {
    return word;
  }
};

/// BF16 rows, float32 activations: exact products.
template <class A>
struct Bf16Words : FloatSteps<A, 2> {
  using Word = SplitBf16<A>;

  static Word load(const std::byte* p) { return load_split_bf16<A>(p); }
  template <std::size_t step>
  static Batch<A> rows(const Word& word) {
    return step == 0 ? word.even : word.odd;
  }
};

/// What codes without a sign, their exponents with this bias above so many bits of mantissa, stand
/// for; infinities and NaN are the caller's.
template <class A, unsigned mantissa_bits, unsigned bias>
inline Batch<A> floats_of_codes(const Bits<A>& codes) {
  // A denormal is a number of the least normal exponent without its leading one.
  constexpr std::uint32_t kLeast = 128 - bias;
  const auto denormal = codes < Bits<A>(1u << mantissa_bits);
  const Bits<A> exponent =
      xsimd::select(denormal, Bits<A>(kLeast << 23), Bits<A>((kLeast - 1) << 23));
  const Bits<A> leading = xsimd::select(denormal, Bits<A>(kLeast << 23), Bits<A>(0u));
  return floats_of<A>((codes << static_cast<int>(23 - mantissa_bits)) + exponent) -
         floats_of<A>(leading);
}

/// Rows of small floats of so many bits, the sign the highest one; see floats_of_codes. Codes from
/// `first_special` on have the bits `special` as well: infinities and NaN.
template <class A, unsigned bits, unsigned mantissa_bits, unsigned bias,
          std::uint32_t first_special, std::uint32_t special>
struct CodeWords : FloatSteps<A, 32 / bits> {
  using Word = Bits<A>;

  static Word load(const std::byte* p) { return load_bits<A>(p); }
  template <std::size_t step>
  static Batch<A> rows(const Word& word) {
    const Bits<A> code = (word >> static_cast<int>(step * bits)) & Bits<A>((1u << (bits - 1)) - 1);
    Bits<A> others = (word << static_cast<int>(32 - (step + 1) * bits)) & Bits<A>(0x80000000u);
    if constexpr (special != 0) {
      others = others | xsimd::select(code < Bits<A>(first_special), Bits<A>(0u), Bits<A>(special));
    }
    return floats_of_codes<A, mantissa_bits, bias>(code) | floats_of<A>(others);
  }
};

///@{
/// F16, FP8 and packed FP4 rows, their values exact. Instruction sets may have a way of their own.
template <class A>
struct F16Words : CodeWords<A, 16, 10, 15, 0x7c00u, 0x7f800000u> {};
template <class A>
struct Fp8Words : CodeWords<A, 8, 3, 7, 0x7fu, 0x7fc00000u> {};
template <class A>
struct Fp4Words : CodeWords<A, 4, 1, 1, 8, 0> {};
///@}

/// The bytes of the BF16 of each FP4 code, twice over: operands of byte lookups.
struct Fp4Bytes {
  alignas(32) std::uint8_t low[32];
  alignas(32) std::uint8_t high[32];
};
inline constexpr Fp4Bytes kFp4Bytes = [] {
  Fp4Bytes bytes{};
  for (unsigned code = 0; code < 32; ++code) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(fp4_to_float(code % 16));
    bytes.low[code] = static_cast<std::uint8_t>(bits >> 16);
    bytes.high[code] = static_cast<std::uint8_t>(bits >> 24);
  }
  return bytes;
}();

/// BF16 rows, float32 activations: exact products, both of a pair in one step.
template <class A>
struct Bf16PairWords {
  static constexpr std::size_t kSteps = 1;
  static constexpr std::size_t kTokenBytes = 8;
  using Rows = SplitBf16<A>;
  using Word = Rows;

  static Word load(const std::byte* p) { return load_split_bf16<A>(p); }
#ifdef DS4_HAVE_AVX512
  static Word of_bits(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
#endif
#ifdef DS4_HAVE_NEON_BF16
  static Word of_bits(uint8x16_t pairs) {
    const uint32x4_t bits = vreinterpretq_u32_u8(pairs);
    return {vreinterpretq_f32_u32(vshlq_n_u32(bits, 16)),
            vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)))};
  }
#endif
  template <std::size_t step>
  static Rows rows(const Word& word) {
    return word;
  }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    const float* x = reinterpret_cast<const float*>(token);
    return xsimd::fma(rows.odd, splat<A>(x[1]), xsimd::fma(rows.even, splat<A>(x[0]), acc));
  }
};

/// BF16 rows, activations rounded to BF16, float32 accumulation, by the instruction for it.
template <class A>
struct Bf16DotWords;
#ifdef DS4_HAVE_AVX512
template <>
struct Bf16DotWords<Avx512> {
  using A = Avx512;
  static constexpr std::size_t kSteps = 1;
  static constexpr std::size_t kTokenBytes = 4;
  using Rows = __m512bh;
  using Word = Rows;

  static Word load(const std::byte* p) { return of_bits(_mm512_loadu_si512(p)); }
  static Word of_bits(__m512i pairs) { return reinterpret_cast<__m512bh>(pairs); }
  template <std::size_t step>
  static Rows rows(const Word& word) {
    return word;
  }
  static Batch<A> dot(const Batch<A>& acc, const Rows& a, const Rows& b) {
    return _mm512_dpbf16_ps(acc, a, b);
  }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    std::int32_t pair;
    std::memcpy(&pair, token, sizeof pair);
    return dot(acc, rows, of_bits(_mm512_set1_epi32(pair)));
  }
};
#endif

/// Rows of codes that become pairs of BF16 in registers: for a few tokens, which would not make up
/// for a trip of the expanded rows through the cache. `Words` multiplies BF16.
template <class Codes, class Words>
struct PackedWords : Words {
  static constexpr std::size_t kSteps = Codes::kSteps;
  static constexpr float kUnit = 1.0f;
  using Word = typename Codes::Word;

  static Word load(const std::byte* p) { return Codes::load(p); }
  template <class Vector>
  static Word of_bits(Vector codes) {
    return Codes::of_bits(codes);
  }
  template <std::size_t step>
  static typename Words::Rows rows(const Word& word) {
    return Words::of_bits(Codes::template pairs<step>(word));
  }
};

}  // namespace ds4::inline v0_1::simd
