// FP8 and packed FP4 rows as BF16 words: every code is exact in BF16, and the block scales stay
// factors of sums. A panel's block is expanded into the first-level cache and multiplied from
// there, so memory delivers the packed form and nothing else.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/neon.hpp>
#include <ds4/kernels/simd/panel.hpp>

namespace ds4::inline v0_1::simd {

/// The BF16 code of each F8_E4M3 code.
inline constexpr std::array<std::uint16_t, 256> kBf16OfFp8 = [] {
  std::array<std::uint16_t, 256> table{};
  for (std::size_t code = 0; code < 256; ++code) {
    table[code] = static_cast<std::uint16_t>(
        std::bit_cast<std::uint32_t>(f8_e4m3_to_float(static_cast<std::uint8_t>(code))) >> 16);
  }
  return table;
}();

/// The BF16 code of each FP4 code.
inline constexpr std::array<std::uint16_t, 16> kBf16OfFp4 = [] {
  std::array<std::uint16_t, 16> table{};
  for (unsigned code = 0; code < 16; ++code) {
    table[code] =
        static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(fp4_to_float(code)) >> 16);
  }
  return table;
}();

/// The two bytes of each of these codes apart, and which bytes (of the lower halves, then of the
/// upper ones) make up the first and the last two of each four codes: operands of byte lookups.
struct ExpandTables {
  alignas(64) std::uint8_t fp8_low[128];
  alignas(64) std::uint8_t fp8_high[128];
  alignas(64) std::uint8_t first_pair[64];
  alignas(64) std::uint8_t second_pair[64];
  alignas(64) std::uint16_t fp4[32];     ///< BF16 codes, twice over
  alignas(64) std::uint8_t fp4_low[32];  ///< their bytes, likewise
  alignas(64) std::uint8_t fp4_high[32];
};
inline constexpr ExpandTables kExpandTables = [] {
  ExpandTables tables{};
  for (std::size_t code = 0; code < 128; ++code) {
    tables.fp8_low[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] & 0xff);
    tables.fp8_high[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] >> 8);
  }
  for (std::size_t code = 0; code < 32; ++code) {
    tables.fp4[code] = kBf16OfFp4[code % 16];
    tables.fp4_low[code] = static_cast<std::uint8_t>(kBf16OfFp4[code % 16] & 0xff);
    tables.fp4_high[code] = static_cast<std::uint8_t>(kBf16OfFp4[code % 16] >> 8);
  }
  for (std::size_t byte = 0; byte < 64; ++byte) {
    const std::size_t from = byte / 4 * 4 + byte % 4 / 2 + byte % 2 * 64;
    tables.first_pair[byte] = static_cast<std::uint8_t>(from);
    tables.second_pair[byte] = static_cast<std::uint8_t>(from + 2);
  }
  return tables;
}();

#ifdef DS4_HAVE_AVX512
/// Two words of BF16 for each of 16 words of FP8: by tables, the sign apart.
template <class A>
struct Fp8Codes {
  static constexpr std::size_t kSteps = 2;
  static constexpr std::size_t kGroup = StoredFp8::kScaleCols / 4;  // words of one scale

  static void expand(__m512i (&pairs)[kSteps], __m512i codes) {
    const auto table = [](const std::uint8_t* at) { return _mm512_load_si512(at); };
    const __m512i low = _mm512_permutex2var_epi8(table(kExpandTables.fp8_low), codes,
                                                 table(kExpandTables.fp8_low + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(table(kExpandTables.fp8_high), codes,
                                                       table(kExpandTables.fp8_high + 64));
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    const __m512i high = _mm512_ternarylogic_epi64(
        magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), kOrAnd);
    pairs[0] = _mm512_permutex2var_epi8(low, table(kExpandTables.first_pair), high);
    pairs[1] = _mm512_permutex2var_epi8(low, table(kExpandTables.second_pair), high);
  }
};

/// Four words of BF16 for each of 16 words of FP4: each half of a word has a code in its lowest
/// bits after a shift, so step s has the channels s and s + 4 of 8; tokens are laid out in that
/// order. The bits above a code do not count, as the table repeats itself.
template <class A>
struct Fp4Codes {
  static constexpr std::size_t kSteps = 4;
  static constexpr std::size_t kGroup = StoredFp4::kScaleCols / 8;

  static void expand(__m512i (&pairs)[kSteps], __m512i codes) {
    const __m512i table = _mm512_load_si512(kExpandTables.fp4);
    DS4_UNROLL for (std::size_t step = 0; step < kSteps; ++step) {
      pairs[step] = _mm512_permutexvar_epi16(
          _mm512_srli_epi16(codes, static_cast<unsigned>(4 * step)), table);
    }
  }
};

/// Rows of these codes, expanded in registers: for a few tokens, which would not make up for a trip
/// of the expanded rows through the cache. `Words` multiplies BF16.
template <class Codes, class Words>
struct PackedWords : Words {
  static constexpr std::size_t kSteps = Codes::kSteps;
  static constexpr std::size_t kGroup = Codes::kGroup;
  using typename Words::Rows;

  static void load_rows(Rows (&rows)[kSteps], const std::byte* p) {
    of_words(rows, _mm512_loadu_si512(p));
  }
  static void of_words(Rows (&rows)[kSteps], __m512i words) {
    __m512i pairs[kSteps];
    Codes::expand(pairs, words);
    DS4_UNROLL for (std::size_t step = 0; step < kSteps; ++step) {
      rows[step] = Words::of_bits(pairs[step]);
    }
  }
};

/// Words [words][kPanelRows], `in_stride` bytes from one to the next, as Codes::kSteps times as
/// many words of BF16.
template <class Codes>
inline void expand_words(std::byte* out, const std::byte* in, std::size_t in_stride,
                         std::size_t words) {
  constexpr std::size_t kStride = kPanelRows * kWord;
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += Codes::kSteps * kStride) {
    DS4_UNROLL for (std::size_t v = 0; v < kStride; v += 64) {
      __m512i pairs[Codes::kSteps];
      Codes::expand(pairs, _mm512_loadu_si512(in + v));
      DS4_UNROLL for (std::size_t step = 0; step < Codes::kSteps; ++step) {
        _mm512_storeu_si512(out + step * kStride + v, pairs[step]);
      }
    }
  }
}
#endif

#ifdef DS4_HAVE_AVX2
/// The float32 bits of channel `channel` of each of 8 words of FP8.
template <class A, std::size_t channel>
inline __m256i expand_fp8_channel(__m256i codes) {
  const auto all = [](std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); };
  const __m256i code = _mm256_srli_epi32(codes, 8 * channel);
  const __m256i magnitude = _mm256_and_si256(code, all(0x7f));
  const __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 20), all(120u << 23));
  const __m256i denormal =
      _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(0x1p-9f)));
  __m256i value = _mm256_blendv_epi8(normal, denormal, _mm256_cmpgt_epi32(all(8), magnitude));
  value = _mm256_blendv_epi8(value, all(0x7fc00000), _mm256_cmpeq_epi32(magnitude, all(0x7f)));
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, all(0x80)), 24);
  return _mm256_or_si256(value, sign);
}
#endif

/// Words of FP8 [words][kPanelRows], `in_stride` bytes from one to the next, as twice as many words
/// of BF16, kPanelRows * kWord bytes from one to the next. Reads up to kPanelSlack behind the end.
template <class A>
inline void expand_fp8(std::byte* out, const std::byte* in, std::size_t in_stride,
                       std::size_t words) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return expand_words<Fp8Codes<A>>(out, in, in_stride, words);
  }
#endif
#ifdef DS4_HAVE_NEON
  return expand_neon<A, NeonFp8<A>>(out, in, in_stride, words);
#endif
  constexpr std::size_t kStride = kPanelRows * kWord;
#ifdef DS4_HAVE_AVX2
  if constexpr (kLanes<A> == 8) {
    for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 2 * kStride) {
      for (std::size_t v = 0; v < kStride; v += 32) {
        const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + v));
        const auto store = [](std::byte* to, __m256i even, __m256i odd) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                              _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa));
        };
        store(out + v, expand_fp8_channel<A, 0>(codes), expand_fp8_channel<A, 1>(codes));
        store(out + kStride + v, expand_fp8_channel<A, 2>(codes), expand_fp8_channel<A, 3>(codes));
      }
    }
    return;
  }
#endif
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 2 * kStride) {
    for (std::size_t i = 0; i < kStride; ++i) {  // byte i is channel i % 4 of row i / 4
      const std::uint16_t value = kBf16OfFp8[std::to_integer<std::uint8_t>(in[i])];
      std::memcpy(out + i % 4 / 2 * kStride + i / 4 * kWord + i % 2 * 2, &value, 2);
    }
  }
}

/// Words of packed FP4 as four times as many words of BF16, channels s and s + 4 of 8 together; as
/// expand_fp8.
template <class A>
inline void expand_fp4(std::byte* out, const std::byte* in, std::size_t in_stride,
                       std::size_t words) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return expand_words<Fp4Codes<A>>(out, in, in_stride, words);
  }
#endif
#ifdef DS4_HAVE_NEON
  return expand_neon<A, NeonFp4<A>>(out, in, in_stride, words);
#endif
  constexpr std::size_t kStride = kPanelRows * kWord;
#ifdef DS4_HAVE_AVX2
  if constexpr (kLanes<A> == 8) {
    const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpandTables.fp4_low));
    const __m256i high =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpandTables.fp4_high));
    for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 4 * kStride) {
      for (std::size_t v = 0; v < kStride; v += 32) {
        __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + v));
        for (std::size_t step = 0; step < 4; ++step, codes = _mm256_srli_epi16(codes, 4)) {
          // The byte above each code is 0, whose BF16 is 0 in both of its bytes.
          const __m256i code = _mm256_and_si256(codes, _mm256_set1_epi16(15));
          const __m256i pair =
              _mm256_or_si256(_mm256_shuffle_epi8(low, code),
                              _mm256_slli_epi16(_mm256_shuffle_epi8(high, code), 8));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + step * kStride + v), pair);
        }
      }
    }
    return;
  }
#endif
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 4 * kStride) {
    for (std::size_t row = 0; row < kPanelRows; ++row) {
      std::uint32_t codes;
      std::memcpy(&codes, in + row * kWord, kWord);
      for (std::size_t step = 0; step < 4; ++step, codes >>= 4) {
        const std::uint32_t pair =
            kBf16OfFp4[codes & 15u] | std::uint32_t{kBf16OfFp4[codes >> 16 & 15u]} << 16;
        std::memcpy(out + step * kStride + row * kWord, &pair, kWord);
      }
    }
  }
}

}  // namespace ds4::inline v0_1::simd
