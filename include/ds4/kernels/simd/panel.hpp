// Weights in panels, and their product with tokens: the inner loop of every linear layer.
//
// A panel holds up to kPanelRows rows of a matrix by words of four bytes: the first word of each
// row, then the second words, and so on. A vector then holds the same word of neighbouring rows, so
// each row has a lane of its own, the token's word is a broadcast, and nothing is summed across
// lanes. A panel is read from front to back, so memory delivers at its full rate.
//
// A (row, token) pair has one accumulator that is filled in the order of K, and emptied into y
// after every kBlockWords words, which keeps rounding errors small. The result does not depend on
// which other rows and tokens are multiplied beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::simd {

/// Rows of a panel.
inline constexpr std::size_t kPanelRows = 32;
/// Bytes of a word.
inline constexpr std::size_t kWord = 4;
/// Words between two roundings into y; a panel's block of so many stays in the first-level cache.
inline constexpr std::size_t kBlockWords = 256;
/// What a panel's reader may touch behind its end.
inline constexpr std::size_t kPanelSlack = kPanelRows * kWord;
/// Tokens that are multiplied with a panel at once: what the registers hold.
template <class A>
inline constexpr std::size_t kPanelTokens = kLanes<A> == 16  ? 6
                                            : kLanes<A> == 8 ? 2
                                                             : 1;

/// Words of a row of `bytes` bytes, the last one filled up with zeros.
template <class A>
constexpr std::size_t words_of(std::size_t bytes) {
  return (bytes + kWord - 1) / kWord;
}

// How a vector of words, one of each row, is multiplied with a token's elements of that word.

/// Float32 rows, float32 activations.
template <class A>
struct F32Words {
  static constexpr std::size_t kTokenBytes = 4;  // of a token, per word
  using Rows = Batch<A>;

  static Rows load_rows(const std::byte* p) { return load<A>(reinterpret_cast<const float*>(p)); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    return xsimd::fma(rows, splat<A>(*reinterpret_cast<const float*>(token)), acc);
  }
};

/// BF16 rows, float32 activations: exact products.
template <class A>
struct Bf16Words {
  static constexpr std::size_t kTokenBytes = 8;
  using Rows = SplitBf16<A>;

  static Rows load_rows(const std::byte* p) { return load_split_bf16<A>(p); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    const float* x = reinterpret_cast<const float*>(token);
    return xsimd::fma(rows.odd, splat<A>(x[1]), xsimd::fma(rows.even, splat<A>(x[0]), acc));
  }
};

#ifdef DS4_HAVE_AVX512
/// BF16 rows, activations rounded to BF16, float32 accumulation, by the instruction for it.
template <class A>
struct Bf16DotWords {
  static constexpr std::size_t kTokenBytes = 4;
  using Rows = __m512bh;

  static Rows load_rows(const std::byte* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    std::int32_t pair;
    std::memcpy(&pair, token, sizeof pair);
    return _mm512_dpbf16_ps(acc, rows, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
  }
};
#endif

/// Where a panel's rows are and which of them are wanted.
struct Panel {
  const std::byte* words;  ///< [words of a row][height]
  std::size_t height;
  std::size_t skip;   ///< rows before the first that is wanted
  std::size_t count;  ///< rows that are wanted
};

/// y[t * y_stride + i] (+)= panel row (skip + i) . token t over `words` words, for T tokens and
/// rows of `Vectors` vectors. Adds to y unless `first`.
template <class A, class Words, std::size_t Vectors, std::size_t T>
inline void multiply_block(float* y, std::size_t y_stride, const Panel& panel, std::size_t words,
                           const std::byte* tokens, std::size_t token_stride, bool first) {
  Batch<A> acc[T][Vectors];
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) acc[t][v] = splat<A>(0.0f);
  }
  const std::byte* p = panel.words;
  const std::size_t stride = panel.height * kWord;
  for (std::size_t word = 0; word < words; ++word, p += stride, tokens += Words::kTokenBytes) {
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
      const typename Words::Rows rows = Words::load_rows(p + v * kLanes<A> * kWord);
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        acc[t][v] = Words::multiply_add(acc[t][v], rows, tokens + t * token_stride);
      }
    }
  }
  if (panel.count == Vectors * kLanes<A>) {
    DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
      DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
        float* out = y + t * y_stride + v * kLanes<A>;
        (first ? acc[t][v] : load<A>(out) + acc[t][v]).store_unaligned(out);
      }
    }
    return;
  }
  for (std::size_t t = 0; t < T; ++t) {
    float sums[Vectors * kLanes<A>];
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
      acc[t][v].store_unaligned(sums + v * kLanes<A>);
    }
    float* out = y + t * y_stride;
    for (std::size_t i = 0; i < panel.count; ++i) {
      out[i] = first ? sums[panel.skip + i] : out[i] + sums[panel.skip + i];
    }
  }
}

/// The same for up to kPanelTokens tokens.
template <class A, class Words, std::size_t Vectors>
inline void multiply_block(std::size_t T, float* y, std::size_t y_stride, const Panel& panel,
                           std::size_t words, const std::byte* tokens, std::size_t token_stride,
                           bool first) {
  const auto with = [&](auto count) {
    multiply_block<A, Words, Vectors, decltype(count)::value>(y, y_stride, panel, words, tokens,
                                                              token_stride, first);
  };
  static_assert(kPanelTokens<A> == 1 || kPanelTokens<A> == 2 || kPanelTokens<A> == 6);
  if constexpr (kPanelTokens<A> >= 6) {
    if (T == 6) return with(std::integral_constant<std::size_t, 6>{});
    if (T == 5) return with(std::integral_constant<std::size_t, 5>{});
    if (T == 4) return with(std::integral_constant<std::size_t, 4>{});
    if (T == 3) return with(std::integral_constant<std::size_t, 3>{});
  }
  if constexpr (kPanelTokens<A> >= 2) {
    if (T == 2) return with(std::integral_constant<std::size_t, 2>{});
  }
  with(std::integral_constant<std::size_t, 1>{});
}

/// y[t * y_stride + i] = panel row (skip + i) . token t for any number of tokens. While it
/// multiplies many, it asks memory for `next`, the panel behind this one, if there is one.
template <class A, class Words>
inline void multiply_panel(float* y, std::size_t y_stride, const Panel& panel, std::size_t words,
                           const std::byte* tokens, std::size_t token_stride, std::size_t count,
                           const std::byte* next) {
  constexpr std::size_t kT = kPanelTokens<A>;
  constexpr std::size_t kVectors = kPanelRows / kLanes<A>;
  constexpr std::size_t kLine = 64;
  const std::size_t blocks = (words + kBlockWords - 1) / kBlockWords;
  const std::size_t steps = blocks * ((count + kT - 1) / kT);
  const std::size_t lines = next == nullptr || steps < 2 * blocks
                                ? 0
                                : (words * panel.height * kWord / kLine + steps - 1) / steps;
  for (std::size_t begin = 0; begin < words; begin += kBlockWords) {
    const std::size_t block = std::min(kBlockWords, words - begin);
    Panel part = panel;
    part.words += begin * panel.height * kWord;
    for (std::size_t t = 0; t < count; t += kT) {
      const std::byte* x = tokens + t * token_stride + begin * Words::kTokenBytes;
      float* out = y + t * y_stride;
      const std::size_t T = std::min(kT, count - t);
      for (std::size_t line = 0; line < lines; ++line, next += kLine) prefetch<A>(next);
      if (panel.height <= kLanes<A>) {
        multiply_block<A, Words, 1>(T, out, y_stride, part, block, x, token_stride, begin == 0);
      } else {
        multiply_block<A, Words, kVectors>(T, out, y_stride, part, block, x, token_stride,
                                           begin == 0);
      }
    }
  }
}

#ifdef DS4_HAVE_AVX512
/// 16 words of each of 16 rows, transposed.
inline void transpose_words(std::byte* out, std::size_t out_stride, const std::byte* in,
                            std::size_t in_stride) {
  __m512i a[16];
  __m512i b[16];
  DS4_UNROLL for (std::size_t i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(in + i * in_stride);
  DS4_UNROLL for (std::size_t i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  DS4_UNROLL for (std::size_t i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 g + j] now holds words j, j + 4, j + 8 and j + 12 of the rows 4 g .. 4 g + 3.
  DS4_UNROLL for (std::size_t j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i low23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i high01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i high23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_si512(out + j * out_stride, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_storeu_si512(out + (8 + j) * out_stride, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_storeu_si512(out + (4 + j) * out_stride, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_storeu_si512(out + (12 + j) * out_stride, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}
#endif

/// Writes `height` rows of `bytes` bytes, one after the other in memory, as a panel.
template <class A>
inline void pack_panel(std::byte* out, const std::byte* rows, std::size_t bytes,
                       std::size_t height) {
  const std::size_t whole = bytes / kWord;
  const std::size_t stride = height * kWord;
  std::size_t word = 0;
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    if (height % 16 == 0) {
      for (; word + 16 <= whole; word += 16) {
        for (std::size_t r = 0; r < height; r += 16) {
          transpose_words(out + word * stride + r * kWord, stride, rows + r * bytes + word * kWord,
                          bytes);
        }
      }
    }
  }
#endif
  for (; word < whole; ++word) {
    for (std::size_t r = 0; r < height; ++r) {
      std::memcpy(out + word * stride + r * kWord, rows + r * bytes + word * kWord, kWord);
    }
  }
  if (bytes % kWord > 0) {
    for (std::size_t r = 0; r < height; ++r) {
      std::byte* to = out + whole * stride + r * kWord;
      std::memset(to, 0, kWord);
      std::memcpy(to, rows + r * bytes + whole * kWord, bytes % kWord);
    }
  }
}

}  // namespace ds4::simd
