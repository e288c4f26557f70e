// Rows multiplied with a few tokens where they are stored: transposed in registers, word by word in
// the order in which panels have them, so that the results are the same.
#pragma once

#include <cstddef>
#include <type_traits>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/panel.hpp>

#ifdef DS4_HAVE_AVX512
namespace ds4::inline v0_1::simd {

/// Rows that are multiplied together, and words of them that are transposed at once.
inline constexpr std::size_t kRowsAtOnce = 16;

/// Some words of each of kRowsAtOnce rows: a multiple of kRowsAtOnce.
struct StoredRows {
  const std::byte* first;  ///< the first row's
  std::size_t stride;      ///< bytes from one row to the next
  std::size_t count;       ///< words of a row
  const std::byte* ahead;  ///< as many bytes that memory shall have ready soon. In the order of
                           ///< addresses: memory delivers that faster than as many rows at once
  const float* scales;     ///< [groups][kPanelRows], of the groups' sums; or null
};

/// y[t * y_stride + i] (+)= row i . token t, for T tokens. Adds to y unless `first`. A scale
/// belongs to kGroup words; 0: there are none.
template <class A, class Words, std::size_t kGroup, std::size_t T>
inline void multiply_rows(float* y, std::size_t y_stride, const StoredRows& rows,
                          const std::byte* tokens, std::size_t token_stride, bool first) {
  constexpr std::size_t kRows = kRowsAtOnce;
  constexpr bool kScaled = kGroup > 0;
  constexpr std::size_t kC = kChains<A, kScaled>;
  constexpr std::size_t kParts = kScaled && kGroup < kRows ? kRows / kGroup : 1;  // of a piece
  constexpr std::size_t kPart = kRows / kParts;
  Batch<A> sum[T];
  Batch<A> acc[kParts][kC][T];
  const float* scale = rows.scales;
  const auto clear = [&] {
    DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
      DS4_UNROLL for (std::size_t c = 0; c < kC; ++c) {
        DS4_UNROLL for (std::size_t t = 0; t < T; ++t) acc[part][c][t] = splat<A>(0.0f);
      }
    }
  };
  clear();
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) sum[t] = splat<A>(0.0f);
  const std::byte* from[kRows];
  for (std::size_t r = 0; r < kRows; ++r) from[r] = rows.first + r * rows.stride;
  for (std::size_t word = 0; word < rows.count; word += kRows) {
    read_ahead<A, kRows * kRows * kWord / 64>(rows.ahead + word * kRows * kWord);
    __m512i words[kRows];
    transpose_words<A>(words, from, word * kWord);
    // Parts take turns, so that the sums of one need not be waited for.
    for_each_step<A, kPart>([&](auto i) {
      for_each_step<A, kParts>([&](auto part) {
        const std::size_t w = part * kPart + i;
        const typename Words::Word elements = Words::of_bits(words[w]);
        for_each_step<A, Words::kSteps>([&](auto step) {
          const typename Words::Rows row = Words::template rows<step>(elements);
          const std::byte* x = tokens + (w * Words::kSteps + step) * Words::kTokenBytes;
          Batch<A>(&chain)[T] = acc[part][(w * Words::kSteps + step) % kC];
          DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
            chain[t] = Words::multiply_add(chain[t], row, x + t * token_stride);
          }
        });
      });
    });
    tokens += kRows * Words::kSteps * Words::kTokenBytes;
    if constexpr (kScaled) {
      const std::size_t done = word + kRows;
      if (kGroup > kRows && done % kGroup != 0 && done != rows.count) continue;
      DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
        const Batch<A> factor = load<A>(scale);
        DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
          sum[t] = xsimd::fma(acc[part][0][t] + acc[part][kC - 1][t], factor, sum[t]);
        }
        scale += kPanelRows;
      }
      clear();
    }
  }
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    float* out = y + t * y_stride;
    const Batch<A> total = kScaled ? sum[t] : acc[0][0][t];
    (first ? total : load<A>(out) + total).store_unaligned(out);
  }
}

/// The same for 1 <= T <= 4 tokens.
template <class A, class Words, std::size_t kGroup>
inline void multiply_rows(std::size_t T, float* y, std::size_t y_stride, const StoredRows& rows,
                          const std::byte* tokens, std::size_t token_stride, bool first) {
  const auto with = [&](auto count) {
    multiply_rows<A, Words, kGroup, decltype(count)::value>(y, y_stride, rows, tokens, token_stride,
                                                            first);
  };
  if (T == 4) return with(std::integral_constant<std::size_t, 4>{});
  if (T == 3) return with(std::integral_constant<std::size_t, 3>{});
  if (T == 2) return with(std::integral_constant<std::size_t, 2>{});
  with(std::integral_constant<std::size_t, 1>{});
}

}  // namespace ds4::inline v0_1::simd
#endif
