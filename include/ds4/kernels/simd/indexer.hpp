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

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/neon.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/words.hpp>

namespace ds4::inline v0_1::simd {

// Always inlined: see core/dtype.hpp.

/// Bytes of a block of keys [kKeyBlock, dI]. BF16 blocks hold pairs of channels: [dI/2 rounded up]
/// [kKeyBlock][2]; float32 blocks [dI][kKeyBlock].
[[gnu::always_inline]] inline std::size_t key_block_bytes(std::size_t dI, bool bf16) {
  return bf16 ? (dI + 1) / 2 * kKeyBlock * 4 : dI * kKeyBlock * 4;
}

/// Where channel `channel` of the key in place `slot` is in its block, in bytes.
[[gnu::always_inline]] inline std::size_t key_offset(std::size_t slot, std::size_t channel,
                                                     bool bf16) {
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

/// Heads of a laid-out query.
constexpr std::size_t padded_heads(std::size_t nI) {
  return (nI + kQueryHeads - 1) / kQueryHeads * kQueryHeads;
}

/// A query of the indexer as the scores want it: the same channel (or BF16 pair of channels) of 16
/// heads side by side, heads of zeros behind the last one; with the weights of the heads,
/// 1/sqrt(nI) and 1/sqrt(dI) multiplied in.
struct IndexQuery {
  const std::byte* q;    ///< [padded nI / 16][channels or pairs][16] words of 4 bytes
  const float* weights;  ///< [padded nI]
};

/// Lays a query out; q_out has 4 * padded_heads(nI) * dI bytes, weights_out padded_heads(nI)
/// floats.
template <class A>
inline void lay_out_query(std::byte* q_out, float* weights_out, const float* q,
                          const float* weights, std::size_t nI, std::size_t dI, bool bf16) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(nI)) / std::sqrt(static_cast<float>(dI));
  const std::size_t words = bf16 ? (dI + 1) / 2 : dI;
  const std::size_t heads = (nI + kQueryHeads - 1) / kQueryHeads * kQueryHeads;
  std::fill_n(weights_out, heads, 0.0f);
  std::memset(q_out, 0, heads * words * 4);
  for (std::size_t h = 0; h < nI; ++h) {
    weights_out[h] = weights[h] * scale;
    std::byte* out = q_out + (h / kQueryHeads * words * kQueryHeads + h % kQueryHeads) * 4;
    for (std::size_t c = 0; c < dI; ++c) {
      if (bf16) {
        const std::uint16_t bits = bf16_from_float<A>(q[h * dI + c]);
        std::memcpy(out + c / 2 * kQueryHeads * 4 + c % 2 * 2, &bits, 2);
      } else {
        std::memcpy(out + c * kQueryHeads * 4, q + h * dI + c, 4);
      }
    }
  }
}

namespace detail_indexer {

// scores[kKeyBlock] += sum over `Heads` of the heads of one group of weight * relu(q . key), for
// one block of keys; q points at the first of them.
template <class A, std::size_t Heads>
inline void score_heads(float* scores, const std::byte* block, const std::byte* q,
                        const float* weights, std::size_t dI, bool bf16) {
  constexpr std::size_t kParts = kKeyBlock / kLanes<A>;
  constexpr std::size_t kStride = kQueryHeads * 4;
  Batch<A> dot[Heads][kParts];
  DS4_UNROLL for (std::size_t h = 0; h < Heads; ++h) {
    DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) dot[h][part] = splat<A>(0.0f);
  }
  if (bf16) {
    const std::size_t pairs = (dI + 1) / 2;
    if constexpr (A::kDotsBf16) {
      using Words = Bf16DotWords<A>;
      for (std::size_t p = 0; p < pairs; ++p, block += 64, q += kStride) {
        DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
          const typename Words::Rows keys = Words::load(block + part * kLanes<A> * 4);
          DS4_UNROLL for (std::size_t h = 0; h < Heads; ++h) {
            dot[h][part] = Words::multiply_add(dot[h][part], keys, q + h * 4);
          }
        }
      }
    } else {
      for (std::size_t p = 0; p < pairs; ++p, block += 64, q += kStride) {
        DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
          const SplitBf16<A> keys = load_split_bf16<A>(block + part * kLanes<A> * 4);
          DS4_UNROLL for (std::size_t h = 0; h < Heads; ++h) {
            std::uint16_t pair[2];
            std::memcpy(pair, q + h * 4, 4);
            dot[h][part] =
                xsimd::fma(splat<A>(ds4::bf16_to_float(pair[0])), keys.even, dot[h][part]);
            dot[h][part] =
                xsimd::fma(splat<A>(ds4::bf16_to_float(pair[1])), keys.odd, dot[h][part]);
          }
        }
      }
    }
  } else {
    for (std::size_t c = 0; c < dI; ++c, block += 64, q += kStride) {
      DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
        const Batch<A> keys = load<A>(reinterpret_cast<const float*>(block) + part * kLanes<A>);
        DS4_UNROLL for (std::size_t h = 0; h < Heads; ++h) {
          float value;
          std::memcpy(&value, q + h * 4, 4);
          dot[h][part] = xsimd::fma(splat<A>(value), keys, dot[h][part]);
        }
      }
    }
  }
  DS4_UNROLL for (std::size_t part = 0; part < kParts; ++part) {
    Batch<A> sum = load<A>(scores + part * kLanes<A>);
    DS4_UNROLL for (std::size_t h = 0; h < Heads; ++h) {
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
  constexpr std::size_t kHeads = kLanes<A> == 16                         ? kQueryHeads
                                 : kLanes<A> == 8 || A::kRegisters == 32 ? 4
                                                                         : 1;
  const std::size_t group_bytes = (bf16 ? (dI + 1) / 2 : dI) * kQueryHeads * 4;
  std::fill_n(scores, kKeyBlock, 0.0f);
  for (std::size_t h = 0; h < nI; h += kHeads) {
    const std::byte* q = query.q + h / kQueryHeads * group_bytes + h % kQueryHeads * 4;
    detail_indexer::score_heads<A, kHeads>(scores, block, q, query.weights + h, dI, bf16);
  }
}

}  // namespace ds4::inline v0_1::simd
