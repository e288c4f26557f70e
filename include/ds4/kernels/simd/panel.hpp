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

namespace ds4::inline v0_1::simd {

/// Tokens that are multiplied with a panel at once: what the registers hold.
template <class A>
inline constexpr std::size_t kPanelTokens = kLanes<A> == 16                         ? 6
                                            : kLanes<A> == 8 || A::kRegisters == 32 ? 2
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

// How a vector of words, one of each row, is multiplied with a token's elements of that word. A
// stored word may take several steps: load_rows gives the rows' elements of each.

/// Float32 rows, float32 activations.
template <class A>
struct F32Words {
  static constexpr std::size_t kSteps = 1;
  static constexpr std::size_t kGroup = 0;
  static constexpr std::size_t kTokenBytes = 4;  // of a token, per step
  using Rows = Batch<A>;

  static void load_rows(Rows (&rows)[kSteps], const std::byte* p) {
    rows[0] = load<A>(reinterpret_cast<const float*>(p));
  }
#ifdef DS4_HAVE_AVX512
  static void of_words(Rows (&rows)[kSteps], __m512i words) {
    rows[0] = _mm512_castsi512_ps(words);
  }
#endif
  static Batch<A> multiply_add(const Batch<A>& acc, const Rows& rows, const std::byte* token) {
    return xsimd::fma(rows, splat<A>(*reinterpret_cast<const float*>(token)), acc);
  }
};

/// BF16 rows, float32 activations: exact products.
template <class A>
struct Bf16Words {
  static constexpr std::size_t kSteps = 1;
  static constexpr std::size_t kGroup = 0;
  static constexpr std::size_t kTokenBytes = 8;
  using Rows = SplitBf16<A>;

  static void load_rows(Rows (&rows)[kSteps], const std::byte* p) {
    rows[0] = load_split_bf16<A>(p);
  }
#ifdef DS4_HAVE_AVX512
  static Rows of_bits(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static void of_words(Rows (&rows)[kSteps], __m512i words) { rows[0] = of_bits(words); }
#endif
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
  static constexpr std::size_t kGroup = 0;
  static constexpr std::size_t kTokenBytes = 4;
  using Rows = __m512bh;

  static void load_rows(Rows (&rows)[kSteps], const std::byte* p) {
    rows[0] = of_bits(_mm512_loadu_si512(p));
  }
  static Rows of_bits(__m512i pairs) { return reinterpret_cast<__m512bh>(pairs); }
  static void of_words(Rows (&rows)[kSteps], __m512i words) { rows[0] = of_bits(words); }
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
      DS4_UNROLL for (std::size_t w = 0; w < decltype(count)::value; ++w, p += block.stride) {
        DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
          typename Words::Rows rows[Words::kSteps];
          Words::load_rows(rows, p + v * kLanes<A> * kWord);
          DS4_UNROLL for (std::size_t step = 0; step < Words::kSteps; ++step) {
            const std::byte* x = tokens + step * Words::kTokenBytes;
            Batch<A>(&chain)[T][Vectors] = acc[(w * Words::kSteps + step) % kC];
            DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
              chain[t][v] = Words::multiply_add(chain[t][v], rows[step], x + t * token_stride);
            }
          }
        }
        tokens += Words::kSteps * Words::kTokenBytes;
      }
    };
    constexpr std::size_t kTurn = Words::kSteps == 1 ? kC : 1;
    if constexpr (T == 2 && requires { &Words::template multiply_two<Vectors>; }) {
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
  static_assert(kT == 1 || kT == 2 || kT == 6);
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
  if constexpr (kT == 6) {
    if (T == 6) return with(std::integral_constant<std::size_t, 6>{});
    if (T == 5) return with(std::integral_constant<std::size_t, 5>{});
    if (T == 4) return with(std::integral_constant<std::size_t, 4>{});
    if (T == 3) return with(std::integral_constant<std::size_t, 3>{});
  }
  if constexpr (kT >= 2) {
    if (T == 2) return with(std::integral_constant<std::size_t, 2>{});
  }
  with(std::integral_constant<std::size_t, 1>{});
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
  for (std::size_t t = 0; t < count; t += kT) {
    for (std::size_t line = 0; line < lines; ++line, ahead += kLine) prefetch<A>(ahead);
    multiply_block<A, Words, Scaled>(std::min(kT, count - t), y + t * y_stride, y_stride, block,
                                     tokens + t * token_stride, token_stride, first);
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

/// Asks the second-level cache for 16 lines from p on; any address is allowed.
template <class A>
inline void read_ahead(const std::byte* p) {
  DS4_UNROLL for (std::size_t i = 0; i < 16; ++i) __builtin_prefetch(p + i * 64, 0, 2);
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
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    if (height % 16 == 0 || out_stride == kPanelRows * kWord) {
      for (std::size_t r = 0; r < height; r += 16) {
        const std::byte* from[16];
        for (std::size_t i = 0; i < 16; ++i) {
          from[i] = rows + std::min(r + i, height - 1) * row_stride;
        }
        for (word = 0; word + 16 <= whole; word += 16) {
          if (ahead != nullptr) {
            read_ahead<A>(ahead);
            ahead += 16 * 16 * kWord;
          }
          __m512i words[16];
          transpose_words<A>(words, from, word * kWord);
          for (std::size_t i = 0; i < 16; ++i) {
            _mm512_storeu_si512(out + (word + i) * out_stride + r * kWord, words[i]);
          }
        }
      }
    }
  }
#endif
#ifdef DS4_HAVE_NEON
  if (height % 4 == 0 || out_stride == kPanelRows * kWord) {
    word = pack_words_by_4<A>(out, out_stride, rows, row_stride, whole, height);
  }
#endif
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
