// What NEON has instructions of its own for: products of BF16 pairs, codes as BF16 by byte lookups,
// and words of rows side by side.
#pragma once

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/words.hpp>

#ifdef DS4_HAVE_NEON
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/core/dtype.hpp>

namespace ds4::inline v0_1::simd {

/// 16 bytes at p; any address is allowed.
template <class A>
inline uint8x16_t load_bytes(const std::byte* p) {
  return vld1q_u8(reinterpret_cast<const std::uint8_t*>(p));
}

#ifdef DS4_HAVE_NEON_BF16
/// See words.hpp. The instructions round sums to odd and take subnormal values for 0, unless the
/// process has switched to their extended mode (FPCR.EBF).
template <>
struct Bf16DotWords<NeonBf16> {
  static constexpr std::size_t kSteps = 1;
  static constexpr std::size_t kTokenBytes = 4;
  using A = NeonBf16;
  using Rows = bfloat16x8_t;
  using Word = Rows;

  static Word load(const std::byte* p) { return of_bits(load_bytes<A>(p)); }
  static Word of_bits(uint8x16_t pairs) { return vreinterpretq_bf16_u8(pairs); }
  template <std::size_t step>
  static Rows rows(const Word& word) {
    return word;
  }
  static Batch<A> dot(const Batch<A>& acc, const Rows& a, const Rows& b) {
    return vbfdotq_f32(acc, a, b);
  }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    std::uint32_t pair;
    std::memcpy(&pair, token, sizeof pair);
    return dot(acc, rows, vreinterpretq_bf16_u32(vdupq_n_u32(pair)));
  }

  /// acc[t][v] = the sums over `count` words of the rows of `Vectors` vectors, for the token t of
  /// two: by products of two rows with two tokens, each of which is two of the other instruction,
  /// one word after the other. Tokens are zero behind their last word.
  template <std::size_t Vectors>
  static void multiply_two(Batch<A> (&acc)[2][Vectors], const std::byte* words, std::size_t stride,
                           std::size_t count, const std::byte* tokens, std::size_t token_stride) {
    float32x4_t upper[Vectors];  // (row 0, token 0), (0, 1), (1, 0), (1, 1) of a vector's four rows
    float32x4_t lower[Vectors];  // the same for the rows 2 and 3
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) upper[v] = lower[v] = vdupq_n_f32(0.0f);
    const auto add = [&](const std::byte* second_words, bool both) {
      std::uint64_t channels[2];
      std::memcpy(&channels[0], tokens, 8);
      std::memcpy(&channels[1], tokens + token_stride, 8);
      const auto two = vreinterpretq_bf16_u64(vld1q_u64(channels));
      DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
        const uint32x4_t first = vreinterpretq_u32_u8(load_bytes<A>(words + v * 16));
        const uint32x4_t second =
            both ? vreinterpretq_u32_u8(load_bytes<A>(second_words + v * 16)) : vdupq_n_u32(0);
        const auto rows01 = vreinterpretq_bf16_u32(vzip1q_u32(first, second));
        const auto rows23 = vreinterpretq_bf16_u32(vzip2q_u32(first, second));
        upper[v] = vbfmmlaq_f32(upper[v], rows01, two);
        lower[v] = vbfmmlaq_f32(lower[v], rows23, two);
      }
    };
    for (; count >= 2; count -= 2, words += 2 * stride, tokens += 2 * kTokenBytes) {
      add(words + stride, true);
    }
    if (count > 0) add(words, false);
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
      acc[0][v] = vuzp1q_f32(upper[v], lower[v]);
      acc[1][v] = vuzp2q_f32(upper[v], lower[v]);
    }
  }
};
#endif

/// The bytes of the BF16 values of FP8's codes below 16.
struct LeastFp8Bytes {
  std::array<std::uint8_t, 16> low;
  std::array<std::uint8_t, 16> high;
};
inline constexpr LeastFp8Bytes kLeastFp8Bytes = [] {
  LeastFp8Bytes bytes{};
  for (std::uint8_t code = 0; code < 16; ++code) {
    const auto bits = std::bit_cast<std::uint32_t>(f8_e4m3_to_float(code));
    bytes.low[code] = static_cast<std::uint8_t>(bits >> 16);
    bytes.high[code] = static_cast<std::uint8_t>(bits >> 24);
  }
  return bytes;
}();

/// Two words of BF16 for each of 4 words of FP8. A code's bits but the sign are those of BF16, 4
/// places to the right and with another bias; the subnormal ones are looked up.
template <class A>
struct NeonFp8 {
  static constexpr std::size_t kSteps = 2;
  using Word = std::array<uint8x16_t, kSteps>;

  static Word load(const std::byte* p) {
    const uint8x16_t codes = load_bytes<A>(p);
    constexpr std::uint8_t kBias = (127 - 7) << 3 >> 4;  // in the upper byte
    const uint8x16_t magnitude = vandq_u8(codes, vdupq_n_u8(0x7f));
    // Lookups leave values whose index is not in the table as they are.
    const uint8x16_t low =
        vqtbx1q_u8(vshlq_n_u8(codes, 4), vld1q_u8(kLeastFp8Bytes.low.data()), magnitude);
    uint8x16_t high = vaddq_u8(vshrq_n_u8(magnitude, 4), vdupq_n_u8(kBias));
    high = vqtbx1q_u8(high, vld1q_u8(kLeastFp8Bytes.high.data()), magnitude);
    const uint8x16_t nan = vceqq_u8(magnitude, vdupq_n_u8(0x7f));
    high = vorrq_u8(high, vshrq_n_u8(nan, 1));  // every bit of the exponent
    high = vbslq_u8(vdupq_n_u8(0x80), codes, high);
    // Rows 0 and 1, rows 2 and 3; then the first words of all four, and the second ones.
    const uint32x4_t first = vreinterpretq_u32_u8(vzip1q_u8(low, high));
    const uint32x4_t second = vreinterpretq_u32_u8(vzip2q_u8(low, high));
    return {vreinterpretq_u8_u32(vuzp1q_u32(first, second)),
            vreinterpretq_u8_u32(vuzp2q_u32(first, second))};
  }
  template <std::size_t step>
  static uint8x16_t pairs(const Word& word) {
    return word[step];
  }
};

/// Four words of BF16 for each of 4 words of FP4: step s has the codes s and s + 4 of 8.
template <class A>
struct NeonFp4 {
  static constexpr std::size_t kSteps = 4;
  using Word = std::array<uint8x16_t, kSteps>;

  static Word load(const std::byte* p) {
    const uint8x16_t codes = load_bytes<A>(p);
    const uint8x16_t low = vld1q_u8(kFp4Bytes.low);
    const uint8x16_t high = vld1q_u8(kFp4Bytes.high);
    const uint8x16_t even = vandq_u8(codes, vdupq_n_u8(15));
    const uint8x16_t odd = vshrq_n_u8(codes, 4);
    const uint8x16_t even_low = vqtbl1q_u8(low, even);
    const uint8x16_t even_high = vqtbl1q_u8(high, even);
    const uint8x16_t odd_low = vqtbl1q_u8(low, odd);
    const uint8x16_t odd_high = vqtbl1q_u8(high, odd);
    return {vtrn1q_u8(even_low, even_high),  // of the bytes 0 and 2 of each word
            vtrn1q_u8(odd_low, odd_high), vtrn2q_u8(even_low, even_high),
            vtrn2q_u8(odd_low, odd_high)};
  }
  template <std::size_t step>
  static uint8x16_t pairs(const Word& word) {
    return word[step];
  }
};

/// Half a pair of BF16 as float32.
template <class A, bool second>
inline Batch<A> floats_of_pairs(uint8x16_t pairs) {
  const uint32x4_t bits = vreinterpretq_u32_u8(pairs);
  return vreinterpretq_f32_u32(second ? vandq_u32(bits, vdupq_n_u32(0xffff0000u))
                                      : vshlq_n_u32(bits, 16));
}

///@{
/// See words.hpp.
template <>
struct Fp8Words<Baseline> : FloatSteps<Baseline, 4> {
  using Word = NeonFp8<Baseline>::Word;

  static Word load(const std::byte* p) { return NeonFp8<Baseline>::load(p); }
  template <std::size_t step>
  static Batch<Baseline> rows(const Word& word) {
    return floats_of_pairs<Baseline, (step % 2 == 1)>(word[step / 2]);
  }
};
template <>
struct Fp4Words<Baseline> : FloatSteps<Baseline, 8> {
  using Word = NeonFp4<Baseline>::Word;

  static Word load(const std::byte* p) { return NeonFp4<Baseline>::load(p); }
  template <std::size_t step>
  static Batch<Baseline> rows(const Word& word) {
    return floats_of_pairs<Baseline, (step / 4 == 1)>(word[step % 4]);
  }
};
///@}

/// words[w] = word w of each of 4 rows, which start `offset` bytes behind these.
template <class A>
inline void transpose_words(uint32x4_t (&words)[4], const std::byte* const (&rows)[4],
                            std::size_t offset) {
  const auto load = [&](std::size_t row) {
    return vreinterpretq_u32_u8(load_bytes<A>(rows[row] + offset));
  };
  const uint64x2_t even01 = vreinterpretq_u64_u32(vtrn1q_u32(load(0), load(1)));  // words 0 and 2
  const uint64x2_t odd01 = vreinterpretq_u64_u32(vtrn2q_u32(load(0), load(1)));
  const uint64x2_t even23 = vreinterpretq_u64_u32(vtrn1q_u32(load(2), load(3)));
  const uint64x2_t odd23 = vreinterpretq_u64_u32(vtrn2q_u32(load(2), load(3)));
  words[0] = vreinterpretq_u32_u64(vtrn1q_u64(even01, even23));
  words[1] = vreinterpretq_u32_u64(vtrn1q_u64(odd01, odd23));
  words[2] = vreinterpretq_u32_u64(vtrn2q_u64(even01, even23));
  words[3] = vreinterpretq_u32_u64(vtrn2q_u64(odd01, odd23));
}

}  // namespace ds4::inline v0_1::simd
#endif
