// FP8 and packed FP4 rows as BF16 words: every code is exact in BF16, and the block scales stay
// factors of sums. A panel's block is expanded into the first-level cache and multiplied from
// there, so memory delivers the packed form and nothing else.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/dtype.hpp>
#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/panel.hpp>

namespace ds4::simd {

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
  alignas(64) std::uint8_t fp4_low[64];  ///< four times over
  alignas(64) std::uint8_t fp4_high[64];
};
inline constexpr ExpandTables kExpandTables = [] {
  ExpandTables tables{};
  for (std::size_t code = 0; code < 128; ++code) {
    tables.fp8_low[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] & 0xff);
    tables.fp8_high[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] >> 8);
  }
  for (std::size_t code = 0; code < 64; ++code) {
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
struct Fp8Codes {
  static constexpr std::size_t kSteps = 2;

  static void expand(__m512i (&pairs)[kSteps], const std::byte* p) {
    const auto table = [](const std::uint8_t* at) { return _mm512_load_si512(at); };
    const __m512i codes = _mm512_loadu_si512(p);
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

/// Four words of BF16 for each of 16 words of FP4. A byte holds two channels, the low nibble first:
/// together one word of BF16, each of whose bytes is a lookup by its nibble; the bits above the
/// nibble do not count, as the tables repeat themselves.
struct Fp4Codes {
  static constexpr std::size_t kSteps = 4;

  static void expand(__m512i (&pairs)[kSteps], const std::byte* p) {
    const __m512i codes = _mm512_loadu_si512(p);
    const __m512i low = _mm512_load_si512(kExpandTables.fp4_low);
    const __m512i high = _mm512_load_si512(kExpandTables.fp4_high);
    constexpr std::int64_t kNibbles = 0x2424'2020'0404'0000;  // bit offsets for two rows' words
    DS4_UNROLL for (std::size_t step = 0; step < kSteps; ++step) {
      const __m512i nibbles = _mm512_multishift_epi64_epi8(
          _mm512_set1_epi64(kNibbles + static_cast<std::int64_t>(step) * 0x0808'0808'0808'0808),
          codes);
      pairs[step] = _mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(nibbles, low),
                                                 0xaaaa'aaaa'aaaa'aaaau, nibbles, high);
    }
  }
};

/// Rows of these codes, expanded in registers: for a few tokens, which would not make up for a trip
/// of the expanded rows through the cache. `Words` multiplies BF16.
template <class Codes, class Words>
struct PackedWords : Words {
  static constexpr std::size_t kSteps = Codes::kSteps;
  using typename Words::Rows;

  static void load_rows(Rows (&rows)[kSteps], const std::byte* p) {
    __m512i pairs[kSteps];
    Codes::expand(pairs, p);
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
      Codes::expand(pairs, in + v);
      DS4_UNROLL for (std::size_t step = 0; step < Codes::kSteps; ++step) {
        _mm512_storeu_si512(out + step * kStride + v, pairs[step]);
      }
    }
  }
}
#endif

/// Words of FP8 [words][kPanelRows], `in_stride` bytes from one to the next, as twice as many words
/// of BF16, kPanelRows * kWord bytes from one to the next. Reads up to kPanelSlack behind the end.
template <class A>
inline void expand_fp8(std::byte* out, const std::byte* in, std::size_t in_stride,
                       std::size_t words) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return expand_words<Fp8Codes>(out, in, in_stride, words);
  }
#endif
  constexpr std::size_t kStride = kPanelRows * kWord;
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 2 * kStride) {
    for (std::size_t i = 0; i < kStride; ++i) {  // byte i is channel i % 4 of row i / 4
      const std::uint16_t value = kBf16OfFp8[std::to_integer<std::uint8_t>(in[i])];
      std::memcpy(out + i % 4 / 2 * kStride + i / 4 * kWord + i % 2 * 2, &value, 2);
    }
  }
}

/// Words of packed FP4 as four times as many words of BF16; as expand_fp8.
template <class A>
inline void expand_fp4(std::byte* out, const std::byte* in, std::size_t in_stride,
                       std::size_t words) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    return expand_words<Fp4Codes>(out, in, in_stride, words);
  }
#endif
  constexpr std::size_t kStride = kPanelRows * kWord;
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += 4 * kStride) {
    for (std::size_t i = 0; i < kStride; ++i) {  // byte i % 4 of row i / 4
      const auto byte = std::to_integer<unsigned>(in[i]);
      const std::uint16_t pair[2] = {kBf16OfFp4[byte & 15u], kBf16OfFp4[byte >> 4]};
      std::memcpy(out + i % 4 * kStride + i / 4 * kWord, pair, kWord);
    }
  }
}

}  // namespace ds4::simd
