// What the products are to know of each storage of weights, beside what core/storages.hpp says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/kernels/simd/expand.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

// Whether rows of a storage are multiplied as BF16 (kBf16) or as float32; whether tokens are laid
// out for them in the order in which words of FP4 come apart (kFp4Order). Words that hold more than
// one word of BF16 or float32 are expanded: expand<A>(out, in, in_stride, words, height) writes
// words of the multiplied type, kPanelRows * kWord bytes from one to the next. With Codes, a few
// tokens are multiplied with rows that are expanded in registers; what has scales needs it.
template <class Storage>
struct StoredWords;

template <>
struct StoredWords<StoredF32> {
  static constexpr bool kBf16 = false;
  static constexpr bool kFp4Order = false;
};

template <>
struct StoredWords<StoredBf16> {
  static constexpr bool kBf16 = true;
  static constexpr bool kFp4Order = false;
};

template <>
struct StoredWords<StoredF16> {
  static constexpr bool kBf16 = false;
  static constexpr bool kFp4Order = false;

  template <class A>
  static void expand(std::byte* out, const std::byte* in, std::size_t in_stride, std::size_t words,
                     std::size_t height) {
    constexpr std::size_t kStride = kPanelRows * kWord;
    for (std::size_t word = 0; word < words; ++word, in += in_stride, out += 2 * kStride) {
      for (std::size_t row = 0; row < height; ++row) {
        std::uint32_t pair;
        std::memcpy(&pair, in + row * kWord, kWord);
        const float first = f16_to_float(static_cast<std::uint16_t>(pair & 0xffffu));
        const float second = f16_to_float(static_cast<std::uint16_t>(pair >> 16));
        std::memcpy(out + row * kWord, &first, kWord);
        std::memcpy(out + kStride + row * kWord, &second, kWord);
      }
    }
  }
};

template <>
struct StoredWords<StoredFp8> {
  static constexpr bool kBf16 = true;
  static constexpr bool kFp4Order = false;
#ifdef DS4_HAVE_AVX512
  using Codes = Fp8Codes<Avx512>;
#endif

  template <class A>
  static void expand(std::byte* out, const std::byte* in, std::size_t in_stride, std::size_t words,
                     std::size_t) {
    expand_fp8<A>(out, in, in_stride, words);
  }
};

template <>
struct StoredWords<StoredFp4> {
  static constexpr bool kBf16 = true;
  static constexpr bool kFp4Order = true;
#ifdef DS4_HAVE_AVX512
  using Codes = Fp4Codes<Avx512>;
#endif

  template <class A>
  static void expand(std::byte* out, const std::byte* in, std::size_t in_stride, std::size_t words,
                     std::size_t) {
    expand_fp4<A>(out, in, in_stride, words);
  }
};

/// Values of a stored word; words of BF16 or float32 that it takes; and stored words with one
/// scale.
template <class Storage>
inline constexpr std::size_t kPerWord = kWord * 8 / Storage::kBits;
template <class Storage>
inline constexpr std::size_t kSteps = (StoredWords<Storage>::kBf16 ? 16 : 32) / Storage::kBits;
template <class Storage>
inline constexpr std::size_t kScaleGroup = Storage::kScaleCols / kPerWord<Storage>;

/// The most scales that a row has in a block of kBlockWords words to multiply.
inline constexpr std::size_t kBlockScales = [] {
  std::size_t most = 1;
  Storages::for_each([&]([[maybe_unused]] auto storage) {
    using S = decltype(storage);
    if constexpr (S::kScaleCols > 0) {
      most = std::max(most, kBlockWords / kSteps<S> / kScaleGroup<S>);
    }
  });
  return most;
}();

}  // namespace ds4::inline v0_1::simd
