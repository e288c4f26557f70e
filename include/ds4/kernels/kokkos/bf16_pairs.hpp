// Products of pairs of BF16, summed in float32 by one instruction, where the host has it.
#pragma once

#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

#if defined(__AVX512BF16__) && !defined(__CUDA_ARCH__) && !defined(__HIP_DEVICE_COMPILE__) && \
    !defined(__SYCL_DEVICE_ONLY__)
#define DS4_KOKKOS_BF16_PAIRS 1
#include <immintrin.h>
#else
#define DS4_KOKKOS_BF16_PAIRS 0
#endif

namespace ds4::inline v0_1::kokkos {

/// Whether a space multiplies pairs of BF16. Where it does, and float32 activations are not asked
/// for, those of BF16 matrices are rounded to BF16.
template <class Space>
inline constexpr bool kHasBf16Pairs = DS4_KOKKOS_BF16_PAIRS != 0 && kOnHost<Space>;

/// sum[t][r] = the sum over k < columns of w[r, k] * x[t][k], x rounded to BF16, for the rows of a
/// panel, whose words are from `words` on, and T tokens; at most kMost columns.
template <int kMost, int T>
void multiply_pairs(float (&sum)[T][kPanelRows], const std::uint32_t* words,
                    const float* const (&x)[T], std::int32_t columns);

#if DS4_KOKKOS_BF16_PAIRS

/// pairs[i] = x[2i] and x[2i + 1], rounded, the first in the lower half; a zero behind the last.
inline void round_to_pairs(std::uint32_t* pairs, const float* x, std::int32_t columns) {
  for (std::int32_t c = 0; c < columns; c += 32) {
    const std::int32_t left = columns - c;
    const std::uint32_t mask = left >= 32 ? ~0u : (1u << left) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + c);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + c + 16);
    const __mmask16 stored =
        static_cast<__mmask16>(left >= 32 ? 0xffffu : (1u << (left + 1) / 2) - 1);
    _mm512_mask_storeu_epi32(pairs + c / 2, stored,
                             reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

template <int kMost, int T>
void multiply_pairs(float (&sum)[T][kPanelRows], const std::uint32_t* words,
                    const float* const (&x)[T], std::int32_t columns) {
  constexpr int V = kPanelRows / 16;
  std::uint32_t pairs[T][kMost / 2];
  for (int t = 0; t < T; ++t) round_to_pairs(pairs[t], x[t], columns);
  __m512 acc[T][V];
  for (int t = 0; t < T; ++t) {
    for (int v = 0; v < V; ++v) acc[t][v] = _mm512_setzero_ps();
  }
  for (std::int32_t i = 0; i < (columns + 1) / 2; ++i, words += kPanelRows) {
    if constexpr (T <= 4) read_ahead(words);
    __m512bh w[V];
    for (int v = 0; v < V; ++v) {
      w[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(words + 16 * v));
    }
    for (int t = 0; t < T; ++t) {
      const __m512bh pair =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<std::int32_t>(pairs[t][i])));
      for (int v = 0; v < V; ++v) acc[t][v] = _mm512_dpbf16_ps(acc[t][v], w[v], pair);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(sum[t] + 16 * v, acc[t][v]);
  }
}

#endif

}  // namespace ds4::inline v0_1::kokkos
