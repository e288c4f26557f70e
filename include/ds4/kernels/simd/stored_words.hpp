// How each storage of weights is multiplied by each instruction set.
#pragma once

#include <cstddef>
#include <type_traits>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/neon.hpp>
#include <ds4/kernels/simd/packed_words_avx2.hpp>
#include <ds4/kernels/simd/packed_words_avx512.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/words.hpp>

namespace ds4::inline v0_1::simd {

// StoredWords<A, Storage, bf16>: how words of a storage are multiplied, with activations that are
// rounded to BF16 or not; kMayRound says whether both are there, kFp4Order whether tokens are laid
// out in the order in which words of FP4 come apart. Few multiplies them in registers, for a few
// tokens. For more, blocks are expanded by Expander to kSteps times as many words, which Many
// multiplies. Elements have to be multiplied by kUnit, which is taken into the scales.

/// In general, as float32.
template <class A, template <class> class Words>
struct WordsOfFloats {
  static constexpr bool kMayRound = false;
  static constexpr bool kFp4Order = false;
  using Few = Words<A>;
  using Expander = Few;
  using Many = F32Words<A>;
  static constexpr std::size_t kSteps = Few::kSteps;
  static constexpr float kUnit = Few::kUnit;
};
template <class A, class Storage, bool bf16>
struct StoredWords;
template <class A, bool bf16>
struct StoredWords<A, StoredF32, bf16> : WordsOfFloats<A, F32Words> {};
template <class A, bool bf16>
struct StoredWords<A, StoredBf16, bf16> : WordsOfFloats<A, Bf16Words> {};
template <class A, bool bf16>
struct StoredWords<A, StoredF16, bf16> : WordsOfFloats<A, F16Words> {};
template <class A, bool bf16>
struct StoredWords<A, StoredFp8, bf16> : WordsOfFloats<A, Fp8Words> {};
template <class A, bool bf16>
struct StoredWords<A, StoredFp4, bf16> : WordsOfFloats<A, Fp4Words> {};

/// BF16, and what becomes it, where there is an instruction for two of its products.
template <class A, bool bf16>
struct WordsOfBf16 {
  static constexpr bool kMayRound = true;
  static constexpr bool kFp4Order = false;
  using Many = std::conditional_t<bf16, Bf16DotWords<A>, Bf16PairWords<A>>;
  using Few = Many;
  using Expander = Many;
  static constexpr std::size_t kSteps = 1;
  static constexpr float kUnit = 1.0f;
};
template <class A, template <class> class Codes, bool bf16>
struct WordsOfCodes : WordsOfBf16<A, bf16> {
  using Few = PackedWords<Codes<A>, typename WordsOfBf16<A, bf16>::Many>;
  using Expander = PackedWords<Codes<A>, Bf16DotWords<A>>;
  static constexpr std::size_t kSteps = Codes<A>::kSteps;
};
#ifdef DS4_HAVE_AVX512
template <bool bf16>
struct StoredWords<Avx512, StoredBf16, bf16> : WordsOfBf16<Avx512, bf16> {};
template <bool bf16>
struct StoredWords<Avx512, StoredFp8, bf16> : WordsOfCodes<Avx512, Fp8Codes, bf16> {};
template <bool bf16>
struct StoredWords<Avx512, StoredFp4, bf16> : WordsOfCodes<Avx512, Fp4Codes, bf16> {
  static constexpr bool kFp4Order = true;
};
#endif
#ifdef DS4_HAVE_NEON_BF16
template <bool bf16>
struct StoredWords<NeonBf16, StoredBf16, bf16> : WordsOfBf16<NeonBf16, bf16> {};
template <bool bf16>
struct StoredWords<NeonBf16, StoredFp8, bf16> : WordsOfCodes<NeonBf16, NeonFp8, bf16> {};
template <bool bf16>
struct StoredWords<NeonBf16, StoredFp4, bf16> : WordsOfCodes<NeonBf16, NeonFp4, bf16> {
  static constexpr bool kFp4Order = true;
};
#endif

/// Words to multiply of a stored one.
template <class A, class Storage>
inline constexpr std::size_t kSteps = StoredWords<A, Storage, false>::kSteps;

/// Values of a stored word; and stored words with one scale.
template <class Storage>
inline constexpr std::size_t kPerWord = kWord * 8 / Storage::kBits;
template <class Storage>
inline constexpr std::size_t kScaleGroup = Storage::kScaleCols / kPerWord<Storage>;

/// The most scales that a row has in a block of kBlockWords words to multiply, two values to each.
inline constexpr std::size_t kBlockScales = [] {
  std::size_t least = 2 * kBlockWords;
  Storages::for_each([&]([[maybe_unused]] auto storage) {
    using S = decltype(storage);
    if constexpr (S::kScaleCols > 0) least = least < S::kScaleCols ? least : S::kScaleCols;
  });
  return 2 * kBlockWords / least;
}();

}  // namespace ds4::inline v0_1::simd
