// The lightning indexer: scores of blocks of 16 entries at once.
//
// Differs from the reference: keys are stored in blocks of kKeyBlock, transposed, so that a vector
// holds one channel (pair) of all keys of a block and a query's channel is one broadcast: no sums
// across lanes, and every key is loaded once for 16 heads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/dtype.hpp>
#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::simd {

inline constexpr std::size_t kKeyBlock = 16;

/// Bytes of a block of keys [kKeyBlock, dI]. BF16 blocks hold pairs of channels: [dI/2 rounded up]
/// [kKeyBlock][2]; float32 blocks [dI][kKeyBlock].
inline std::size_t key_block_bytes(std::size_t dI, bool bf16) {
  return bf16 ? (dI + 1) / 2 * kKeyBlock * 4 : dI * kKeyBlock * 4;
}

/// Where channel `channel` of the key in place `slot` is in its block, in bytes.
inline std::size_t key_offset(std::size_t slot, std::size_t channel, bool bf16) {
  return bf16 ? (channel / 2 * kKeyBlock * 2 + slot * 2 + channel % 2) * 2
              : (channel * kKeyBlock + slot) * 4;
}

/// Puts a key [dI] into place `slot` of its block, which starts out zero.
template <class A>
inline void store_key(std::byte* block, std::size_t slot, const float* key, std::size_t dI,
                      bool bf16) {
  for (std::size_t c = 0; c < dI; ++c) {
    if (bf16) {
      const std::uint16_t bits = bf16_from_float<A>(key[c]);
      std::memcpy(block + key_offset(slot, c, true), &bits, 2);
    } else {
      std::memcpy(block + key_offset(slot, c, false), key + c, 4);
    }
  }
}

/// A query of the indexer as the scores want it: nI heads of dI values, with the weights of the
/// heads, 1/sqrt(nI) and 1/sqrt(dI) multiplied in.
struct IndexQuery {
  const std::byte* q;    ///< float32 [nI, dI], or BF16 pairs [nI, (dI+1)/2, 2]
  const float* weights;  ///< [nI]
};

/// Lays a query out; q_out has 4 * nI * (dI + 1) bytes, weights_out [nI] floats.
template <class A>
inline void lay_out_query(std::byte* q_out, float* weights_out, const float* q,
                          const float* weights, std::size_t nI, std::size_t dI, bool bf16) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(nI)) / std::sqrt(static_cast<float>(dI));
  for (std::size_t h = 0; h < nI; ++h) weights_out[h] = weights[h] * scale;
  if (!bf16) {
    std::memcpy(q_out, q, nI * dI * sizeof(float));
    return;
  }
  const std::size_t pairs = (dI + 1) / 2;
  std::memset(q_out, 0, nI * pairs * 4);
  for (std::size_t h = 0; h < nI; ++h) {
    for (std::size_t c = 0; c < dI; ++c) {
      const std::uint16_t bits = bf16_from_float<A>(q[h * dI + c]);
      std::memcpy(q_out + (h * pairs * 2 + c) * 2, &bits, 2);
    }
  }
}

namespace detail_indexer {

// scores[kKeyBlock] += sum over Heads heads of weight * relu(q . key), for one block of keys.
template <class A, std::size_t Heads>
inline void score_heads(float* scores, const std::byte* block, const std::byte* q,
                        const float* weights, std::size_t dI, bool bf16) {
  constexpr std::size_t kParts = kKeyBlock / kLanes<A>;
  Batch<A> dot[Heads][kParts];
  for (auto& head : dot) {
    for (auto& part : head) part = splat<A>(0.0f);
  }
  const std::size_t pairs = (dI + 1) / 2;
  if (bf16) {
#ifdef DS4_HAVE_AVX512
    if constexpr (kLanes<A> == 16) {
      for (std::size_t p = 0; p < pairs; ++p) {
        const auto keys = reinterpret_cast<__m512bh>(_mm512_loadu_si512(block + p * 64));
        for (std::size_t h = 0; h < Heads; ++h) {
          std::int32_t pair;
          std::memcpy(&pair, q + (h * pairs + p) * 4, 4);
          dot[h][0] = _mm512_dpbf16_ps(dot[h][0], keys,
                                       reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
        }
      }
    } else
#endif
    {
      for (std::size_t p = 0; p < pairs; ++p) {
        for (std::size_t part = 0; part < kParts; ++part) {
          const SplitBf16<A> keys = load_split_bf16<A>(block + p * 64 + part * kLanes<A> * 4);
          for (std::size_t h = 0; h < Heads; ++h) {
            std::uint16_t pair[2];
            std::memcpy(pair, q + (h * pairs + p) * 4, 4);
            dot[h][part] =
                xsimd::fma(splat<A>(ds4::bf16_to_float(pair[0])), keys.even, dot[h][part]);
            dot[h][part] =
                xsimd::fma(splat<A>(ds4::bf16_to_float(pair[1])), keys.odd, dot[h][part]);
          }
        }
      }
    }
  } else {
    for (std::size_t c = 0; c < dI; ++c) {
      for (std::size_t part = 0; part < kParts; ++part) {
        const Batch<A> keys =
            load<A>(reinterpret_cast<const float*>(block + c * 64) + part * kLanes<A>);
        for (std::size_t h = 0; h < Heads; ++h) {
          float value;
          std::memcpy(&value, q + (h * dI + c) * 4, 4);
          dot[h][part] = xsimd::fma(splat<A>(value), keys, dot[h][part]);
        }
      }
    }
  }
  for (std::size_t part = 0; part < kParts; ++part) {
    Batch<A> sum = load<A>(scores + part * kLanes<A>);
    for (std::size_t h = 0; h < Heads; ++h) {
      sum = xsimd::fma(splat<A>(weights[h]), xsimd::max(dot[h][part], splat<A>(0.0f)), sum);
    }
    sum.store_unaligned(scores + part * kLanes<A>);
  }
}

}  // namespace detail_indexer

/// scores[i] of the kKeyBlock entries of one block. Heads are summed in their order.
template <class A>
inline void score_block(float* scores, const std::byte* block, const IndexQuery& query,
                        std::size_t nI, std::size_t dI, bool bf16) {
  constexpr std::size_t kHeads = kLanes<A> == 16 ? 16 : 1;
  const std::size_t head_bytes = bf16 ? (dI + 1) / 2 * 4 : dI * 4;
  std::fill_n(scores, kKeyBlock, 0.0f);
  std::size_t h = 0;
  for (; h + kHeads <= nI; h += kHeads) {
    detail_indexer::score_heads<A, kHeads>(scores, block, query.q + h * head_bytes,
                                           query.weights + h, dI, bf16);
  }
  for (; h < nI; ++h) {
    detail_indexer::score_heads<A, 1>(scores, block, query.q + h * head_bytes, query.weights + h,
                                      dI, bf16);
  }
}

}  // namespace ds4::simd
