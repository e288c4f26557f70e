// FP8 and packed FP4 on AVX-512: words of sixteen rows as words of BF16 in registers. Every code is
// exact in BF16, and the block scales stay factors of sums.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/words.hpp>

#ifdef DS4_HAVE_AVX512
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
  alignas(64) std::uint16_t fp4[32];  ///< BF16 codes, twice over
};
inline constexpr ExpandTables kExpandTables = [] {
  ExpandTables tables{};
  for (std::size_t code = 0; code < 128; ++code) {
    tables.fp8_low[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] & 0xff);
    tables.fp8_high[code] = static_cast<std::uint8_t>(kBf16OfFp8[code] >> 8);
  }
  for (std::size_t code = 0; code < 32; ++code) {
    tables.fp4[code] = kBf16OfFp4[code % 16];
  }
  for (std::size_t byte = 0; byte < 64; ++byte) {
    const std::size_t from = byte / 4 * 4 + byte % 4 / 2 + byte % 2 * 64;
    tables.first_pair[byte] = static_cast<std::uint8_t>(from);
    tables.second_pair[byte] = static_cast<std::uint8_t>(from + 2);
  }
  return tables;
}();

/// Two words of BF16 for each of 16 words of FP8: by tables, the sign apart.
template <class A>
struct Fp8Codes {
  static constexpr std::size_t kSteps = 2;
  struct Word {  ///< the bytes of their BF16
    __m512i low;
    __m512i high;
  };

  static Word load(const std::byte* p) { return of_bits(_mm512_loadu_si512(p)); }
  static Word of_bits(__m512i codes) {
    const auto table = [](const std::uint8_t* at) { return _mm512_load_si512(at); };
    const __m512i low = _mm512_permutex2var_epi8(table(kExpandTables.fp8_low), codes,
                                                 table(kExpandTables.fp8_low + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(table(kExpandTables.fp8_high), codes,
                                                       table(kExpandTables.fp8_high + 64));
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    const __m512i high = _mm512_ternarylogic_epi64(
        magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), kOrAnd);
    return {low, high};
  }
  template <std::size_t step>
  static __m512i pairs(const Word& word) {
    return _mm512_permutex2var_epi8(
        word.low,
        _mm512_load_si512(step == 0 ? kExpandTables.first_pair : kExpandTables.second_pair),
        word.high);
  }
};

/// Four words of BF16 for each of 16 words of FP4: each half of a word has a code in its lowest
/// bits after a shift, so step s has the channels s and s + 4 of 8; tokens are laid out in that
/// order. The bits above a code do not count, as the table repeats itself.
template <class A>
struct Fp4Codes {
  static constexpr std::size_t kSteps = 4;
  using Word = __m512i;

  static Word load(const std::byte* p) { return of_bits(_mm512_loadu_si512(p)); }
  static Word of_bits(__m512i codes) { return codes; }
  template <std::size_t step>
  static __m512i pairs(const Word& word) {
    return _mm512_permutexvar_epi16(_mm512_srli_epi16(word, static_cast<unsigned>(4 * step)),
                                    _mm512_load_si512(kExpandTables.fp4));
  }
};

}  // namespace ds4::inline v0_1::simd
#endif
