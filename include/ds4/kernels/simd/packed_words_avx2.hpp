// F16, FP8 and packed FP4 on AVX2: words of eight rows as float32 in registers. Every code is
// exact; a power of two by which all elements of a storage are off is taken into its scales.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/words.hpp>

#ifdef DS4_HAVE_AVX2
namespace ds4::inline v0_1::simd {

/// Float32 of the 8 F16 in the lower or in the upper half.
template <bool upper>
inline Batch<Avx2> floats_of_halves(__m256i halves) {
  return _mm256_cvtph_ps(upper ? _mm256_extracti128_si256(halves, 1)
                               : _mm256_castsi256_si128(halves));
}

/// F16 rows.
template <>
struct F16Words<Avx2> : FloatSteps<Avx2, 2> {
  using Word = __m256i;  ///< first elements of the rows, then second ones

  static Word load(const std::byte* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    constexpr int kMiddleSwapped = 0xd8;
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(words, apart), kMiddleSwapped);
  }
  template <std::size_t step>
  static Batch<Avx2> rows(const Word& word) {
    return floats_of_halves < step == 1 > (word);
  }
};

/// FP8 rows: a code's exponent and mantissa are those of an F16 that is 2^-8 of its value, numbers
/// below the normal ones as well.
template <>
struct Fp8Words<Avx2> : FloatSteps<Avx2, 4> {
  static constexpr float kUnit = 0x1p8f;
  struct Word {
    __m256i even;  ///< F16 of the rows' elements 0, then 2
    __m256i odd;   ///< 1, then 3
  };

  static Word load(const std::byte* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i apart = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                           0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // Codes of element 0 of all rows, of 1, of 2, of 3.
    const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(words, apart),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i zero = _mm256_setzero_si256();
    return {halves(_mm256_unpacklo_epi8(zero, codes)), halves(_mm256_unpackhi_epi8(zero, codes))};
  }
  template <std::size_t step>
  static Batch<Avx2> rows(const Word& word) {
    return floats_of_halves < step / 2 == 1 > (step % 2 == 0 ? word.even : word.odd);
  }

 private:
  /// From codes in the upper bytes.
  static __m256i halves(__m256i codes) {
    const __m256i half = _mm256_and_si256(_mm256_srai_epi16(codes, 1),
                                          _mm256_set1_epi16(static_cast<short>(0xbf80)));
    // One more than NaN's magnitude, and only that, reaches the highest bit of the exponent.
    const __m256i nan = _mm256_and_si256(_mm256_add_epi16(half, _mm256_set1_epi16(0x80)),
                                         _mm256_set1_epi16(0x4000));
    return _mm256_or_si256(half, nan);
  }
};

/// FP4 rows: the two bytes of a code's BF16 are looked up apart.
template <>
struct Fp4Words<Avx2> : FloatSteps<Avx2, 8> {
  struct Word {       ///< BF16 of the rows' elements
    __m256i even[2];  ///< 0 and 2; 4 and 6
    __m256i odd[2];   ///< 1 and 3; 5 and 7
  };

  static Word load(const std::byte* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    // The first halves of four rows, then the second ones.
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i codes = _mm256_shuffle_epi8(words, apart);
    const __m256i nibble = _mm256_set1_epi8(15);
    Word word;
    look_up(word.even, _mm256_and_si256(codes, nibble));
    look_up(word.odd, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
    return word;
  }
  template <std::size_t step>
  static Batch<Avx2> rows(const Word& word) {
    const __m256i pairs = (step % 2 == 0 ? word.even : word.odd)[step / 4];
    return _mm256_castsi256_ps(
        step / 2 % 2 == 0
            ? _mm256_slli_epi32(pairs, 16)
            : _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

 private:
  static void look_up(__m256i (&pairs)[2], __m256i codes) {
    const auto table = [](const std::uint8_t* at) {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
    };
    const __m256i low = _mm256_shuffle_epi8(table(kFp4Bytes.low), codes);
    const __m256i high = _mm256_shuffle_epi8(table(kFp4Bytes.high), codes);
    pairs[0] = _mm256_unpacklo_epi8(low, high);
    pairs[1] = _mm256_unpackhi_epi8(low, high);
  }
};

}  // namespace ds4::inline v0_1::simd
#endif
