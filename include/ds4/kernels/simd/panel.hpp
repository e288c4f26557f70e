// Weights in panels, and their product with tokens: the inner loop of every linear layer.
//
// A panel holds up to kPanelRows rows of a matrix by words of four bytes: the first word of each
// row, then the second words, and so on. A vector then holds the same word of neighbouring rows, so
// each row has a lane of its own, the token's word is a broadcast, and nothing is summed across
// lanes. A panel is read from front to back, so memory delivers at its full rate.
//
// A (row, token) pair has kChains accumulators that are filled in the order of K, and emptied into
// y after every kBlockWords words, which keeps rounding errors small; FP8 and FP4 become BF16 block
// by block, see expand.hpp. The result does not depend on which other rows and tokens are
// multiplied beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/neon.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/words.hpp>

namespace ds4::inline v0_1::simd {

/// Tokens that are multiplied with a panel at once: what the registers hold.
template <class A>
inline constexpr std::size_t kPanelTokens = kLanes<A> == 16       ? 6
                                            : kLanes<A> == 8      ? 3
                                            : A::kRegisters == 32 ? 2
                                                                  : 1;

/// Accumulators of a (row, token) pair, which take its words in turns: expanding rows leaves no
/// time to wait for one sum before the next.
template <class A, bool Scaled>
inline constexpr std::size_t kChains = Scaled && kLanes<A> == 16 ? 2 : 1;

/// Words of a row of `bytes` bytes, the last one filled up with zeros.
template <class A>
constexpr std::size_t words_of(std::size_t bytes) {
  return (bytes + kWord - 1) / kWord;
}

/// Some words of each row of a panel, and which of the rows are wanted.
struct Block {
  const std::byte* words;  ///< [count][rows of the panel]
  std::size_t stride;      ///< bytes from one word to the next
  std::size_t count;       ///< words of a row
  std::size_t height;      ///< rows
  std::size_t skip;        ///< rows before the first that is wanted
  std::size_t wanted;      ///< rows that are wanted
  const float* scales;  ///< [groups][kPanelRows], by which a group's sums are multiplied; or null
  std::size_t group;    ///< words of a group; all of them without scales
};

/// y[t * y_stride + i] (+)= block row (skip + i) . token t, for T tokens and rows of `Vectors`
/// vectors. Adds to y unless `first`.
template <class A, class Words, bool Scaled, std::size_t Vectors, std::size_t T>
inline void multiply_block(float* y, std::size_t y_stride, const Block& block,
                           const std::byte* tokens, std::size_t token_stride, bool first) {
  Batch<A> sum[T][Vectors];
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) sum[t][v] = splat<A>(0.0f);
  }
  const std::byte* p = block.words;
  const float* scale = block.scales;
  for (std::size_t begin = 0; begin < block.count; begin += block.group) {
    const std::size_t words = std::min(block.group, block.count - begin);
    constexpr std::size_t kC = kChains<A, Scaled>;
    Batch<A> acc[kC][T][Vectors];
    DS4_UNROLL for (std::size_t c = 0; c < kC; ++c) {
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) acc[c][t][v] = splat<A>(0.0f);
      }
    }
    const auto add_words = [&](auto count) {
      for_each_step<A, decltype(count)::value>([&](auto w) {
        for_each_step<A, Vectors>([&](auto v) {
          const typename Words::Word word = Words::load(p + v * kLanes<A> * kWord);
          for_each_step<A, Words::kSteps>([&](auto step) {
            const typename Words::Rows rows = Words::template rows<step>(word);
            const std::byte* x = tokens + step * Words::kTokenBytes;
            Batch<A>(&chain)[T][Vectors] = acc[(w * Words::kSteps + step) % kC];
            DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
              chain[t][v] = Words::multiply_add(chain[t][v], rows, x + t * token_stride);
            }
          });
        });
        p += block.stride;
        tokens += Words::kSteps * Words::kTokenBytes;
      });
    };
    constexpr std::size_t kTurn = Words::kSteps > 1 ? 1 : kLanes<A> == 8 ? 2 : kC;
    if constexpr (T == 2 && Words::kSteps == 1 &&
                  requires { &Words::template multiply_two<Vectors>; }) {
      Words::multiply_two(acc[0], p, block.stride, words, tokens, token_stride);
      p += words * block.stride;
      tokens += words * Words::kTokenBytes;
    } else {
      for (std::size_t w = kTurn; w <= words; w += kTurn) {
        add_words(std::integral_constant<std::size_t, kTurn>{});
      }
      if constexpr (kTurn > 1) {
        if (words % kTurn > 0) add_words(std::integral_constant<std::size_t, 1>{});
      }
    }
    if constexpr (kC == 2) {
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) acc[0][t][v] += acc[1][t][v];
      }
    }
    if constexpr (Scaled) {
      DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
        const Batch<A> factor = load<A>(scale + v * kLanes<A>);
        DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
          sum[t][v] = xsimd::fma(acc[0][t][v], factor, sum[t][v]);
        }
      }
      scale += kPanelRows;
    } else {  // one group
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) sum[t][v] = acc[0][t][v];
      }
    }
  }
  if (block.wanted == Vectors * kLanes<A>) {
    DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
      DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
        float* out = y + t * y_stride + v * kLanes<A>;
        (first ? sum[t][v] : load<A>(out) + sum[t][v]).store_unaligned(out);
      }
    }
    return;
  }
  for (std::size_t t = 0; t < T; ++t) {
    float sums[Vectors * kLanes<A>];
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
      sum[t][v].store_unaligned(sums + v * kLanes<A>);
    }
    float* out = y + t * y_stride;
    for (std::size_t i = 0; i < block.wanted; ++i) {
      out[i] = first ? sums[block.skip + i] : out[i] + sums[block.skip + i];
    }
  }
}

/// The same for T <= kPanelTokens tokens and whatever rows the block has.
template <class A, class Words, bool Scaled>
inline void multiply_block(std::size_t T, float* y, std::size_t y_stride, const Block& block,
                           const std::byte* tokens, std::size_t token_stride, bool first) {
  constexpr std::size_t kT = kPanelTokens<A>;
  constexpr std::size_t kVectors = kPanelRows / kLanes<A>;
  const auto with = [&](auto count) {
    constexpr std::size_t kCount = decltype(count)::value;
    if constexpr (!Scaled) {
      if (block.height <= kLanes<A>) {
        return multiply_block<A, Words, Scaled, 1, kCount>(y, y_stride, block, tokens, token_stride,
                                                           first);
      }
    }
    multiply_block<A, Words, Scaled, kVectors, kCount>(y, y_stride, block, tokens, token_stride,
                                                       first);
  };
  for_each_step<A, kT>([&](auto less) {
    constexpr std::size_t kCount = kT - decltype(less)::value;
    if (T == kCount) with(std::integral_constant<std::size_t, kCount>{});
  });
}

/// The same for any number of tokens. While it multiplies many, it asks memory for the
/// `ahead_lines` cache lines at `ahead`.
template <class A, class Words, bool Scaled>
inline void multiply_block(float* y, std::size_t y_stride, const Block& block,
                           const std::byte* tokens, std::size_t token_stride, std::size_t count,
                           bool first, const std::byte* ahead, std::size_t ahead_lines) {
  constexpr std::size_t kT = kPanelTokens<A>;
  constexpr std::size_t kLine = 64;
  const std::size_t steps = (count + kT - 1) / kT;
  const std::size_t lines = steps > 1 ? (ahead_lines + steps - 1) / steps : 0;
  for (std::size_t t = 0; t < count;) {
    for (std::size_t line = 0; line < lines; ++line, ahead += kLine) prefetch<A>(ahead);
    // Two twos take less time than three and one.
    const std::size_t left = count - t;
    const std::size_t T = kT == 3 && left == 4 ? 2 : std::min(kT, left);
    multiply_block<A, Words, Scaled>(T, y + t * y_stride, y_stride, block,
                                     tokens + t * token_stride, token_stride, first);
    t += T;
  }
}

#ifdef DS4_HAVE_AVX512
/// words[w] = word w of each of 16 rows, which start `offset` bytes behind these.
template <class A>
inline void transpose_words(__m512i (&words)[16], const std::byte* const (&rows)[16],
                            std::size_t offset) {
  __m512i a[16];
  __m512i b[16];
  DS4_UNROLL for (std::size_t i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + offset);
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
    words[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    words[4 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    words[8 + j] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    words[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}
#endif

#ifdef DS4_HAVE_AVX2
/// words[w] = word w of each of 8 rows, which start `offset` bytes behind these.
template <class A>
inline void transpose_words(__m256i (&words)[8], const std::byte* const (&rows)[8],
                            std::size_t offset) {
  DS4_UNROLL for (std::size_t half = 0; half < 2; ++half) {
    __m256i a[4];  // four words of row i, and of row i + 4
    DS4_UNROLL for (std::size_t i = 0; i < 4; ++i) {
      const auto load = [&](const std::byte* row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + offset + half * 16));
      };
      a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load(rows[i])), load(rows[i + 4]), 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    words[4 * half] = _mm256_unpacklo_epi64(low01, low23);
    words[4 * half + 1] = _mm256_unpackhi_epi64(low01, low23);
    words[4 * half + 2] = _mm256_unpacklo_epi64(high01, high23);
    words[4 * half + 3] = _mm256_unpackhi_epi64(high01, high23);
  }
}
#endif

/// Asks the second-level cache for as many lines from p on; any address is allowed.
template <class A, std::size_t lines>
inline void read_ahead(const std::byte* p) {
  DS4_UNROLL for (std::size_t i = 0; i < lines; ++i) __builtin_prefetch(p + i * 64, 0, 2);
}

/// Writes `bytes` bytes of each of `height` rows as words, the last one filled up with zeros: word
/// w of row r at out + w * out_stride + r * kWord. Where out_stride has room for kPanelRows rows,
/// what is behind the last row is not specified. Asks memory for as many bytes from
/// `ahead` on, if that is not null.
template <class A>
inline void pack_words(std::byte* out, std::size_t out_stride, const std::byte* rows,
                       std::size_t row_stride, std::size_t bytes, std::size_t height,
                       [[maybe_unused]] const std::byte* ahead = nullptr) {
  const std::size_t whole = bytes / kWord;
  std::size_t word = 0;
  if constexpr (requires { typename A::Integers; }) {
    constexpr std::size_t kRows = kLanes<A>;
    if (height % kRows == 0 || out_stride == kPanelRows * kWord) {
      for (std::size_t r = 0; r < height; r += kRows) {
        const std::byte* from[kRows];
        for (std::size_t i = 0; i < kRows; ++i) {
          from[i] = rows + std::min(r + i, height - 1) * row_stride;
        }
        for (word = 0; word + kRows <= whole; word += kRows) {
          if (ahead != nullptr) {
            constexpr std::size_t kBytes = kRows * kRows * kWord;
            read_ahead<A, kBytes / 64>(ahead);
            ahead += kBytes;
          }
          typename A::Integers words[kRows];
          transpose_words<A>(words, from, word * kWord);
          for (std::size_t i = 0; i < kRows; ++i) {
            std::memcpy(out + (word + i) * out_stride + r * kWord, &words[i], sizeof words[i]);
          }
        }
      }
    }
  }
  for (; word < whole; ++word) {
    for (std::size_t r = 0; r < height; ++r) {
      std::memcpy(out + word * out_stride + r * kWord, rows + r * row_stride + word * kWord, kWord);
    }
  }
  if (bytes % kWord > 0) {
    for (std::size_t r = 0; r < height; ++r) {
      std::byte* to = out + whole * out_stride + r * kWord;
      std::memset(to, 0, kWord);
      std::memcpy(to, rows + r * row_stride + whole * kWord, bytes % kWord);
    }
  }
}

}  // namespace ds4::inline v0_1::simd
