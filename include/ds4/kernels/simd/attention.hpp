// Shared-KV attention: a query's heads against one list of keys, which are the values too.
//
// Differs from the reference: keys are taken in tiles of kKeyTile with an online softmax, so the
// scores of a long context never exist at once, and each key is read from memory once for all
// heads. Tiles are counted from the start of a query's own list, so the result does not depend on
// which other queries are in the pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/kernels/simd/key_product.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// Scratch of one lane's attention, float32 counts.
struct AttentionScratch {
  float* scores;  ///< [kHeadGroup, kKeyTile]
  float* values;  ///< [heads, padded d] sums, even and odd channels as the layout has them
  float* top;     ///< [heads] largest score so far
  float* sum;     ///< [heads] sum of exp(score - top)
  std::byte* q;   ///< the heads' queries, laid out, [heads, padded d] float32 at most
};

/// p[i] <- exp(p[i] - top) for n values, padded with zeros to `padded`; returns their sum.
template <class A>
inline float exp_and_sum(float* p, float top, std::size_t n, std::size_t padded) {
  for (std::size_t i = n; i < padded; ++i) p[i] = -INFINITY;
  Batch<A> sum = splat<A>(0.0f);
  for (std::size_t i = 0; i < padded; i += kLanes<A>) {
    const Batch<A> e = xsimd::exp(load<A>(p + i) - splat<A>(top));
    e.store_unaligned(p + i);
    sum += e;
  }
  for (std::size_t i = n; i < padded; ++i) p[i] = 0.0f;
  return sum_lanes<A>(sum);
}

/// values[h, :] += sum_k p[h, k] * key_k for `Heads` heads; channels in the order of the rows'
/// product: for BF16 rows, even before odd within each step.
template <class A, std::size_t Heads, bool Bf16>
inline void accumulate_values(float* values, std::size_t stride, const float* p,
                              const std::byte* const* keys, std::size_t count, std::size_t d) {
  constexpr std::size_t kStep = 2 * kLanes<A>;
  const std::size_t padded = (d + kStep - 1) / kStep * kStep;
  for (std::size_t c = 0; c < padded; c += kStep) {
    Batch<A> low[Heads];
    Batch<A> high[Heads];
    for (std::size_t h = 0; h < Heads; ++h) {
      low[h] = load<A>(values + h * stride + c);
      high[h] = load<A>(values + h * stride + c + kLanes<A>);
    }
    const auto add = [&](const Batch<A>& a, const Batch<A>& b, std::size_t k) {
      for (std::size_t h = 0; h < Heads; ++h) {
        const Batch<A> weight = splat<A>(p[h * kKeyTile + k]);
        low[h] = xsimd::fma(weight, a, low[h]);
        high[h] = xsimd::fma(weight, b, high[h]);
      }
    };
    const auto row = [&](const std::byte* at, std::size_t k) {
      if constexpr (Bf16) {
        const SplitBf16<A> v = load_split_bf16<A>(at);
        add(v.even, v.odd, k);
      } else {
        const float* v = reinterpret_cast<const float*>(at);
        add(load<A>(v), load<A>(v + kLanes<A>), k);
      }
    };
    constexpr std::size_t kBytes = Bf16 ? 2 : 4;
    if (c + kStep <= d) {
      for (std::size_t k = 0; k < count; ++k) row(keys[k] + c * kBytes, k);
    } else {  // what lies behind a row's end is not the row's
      for (std::size_t k = 0; k < count; ++k) {
        alignas(64) std::byte tail[kStep * kBytes] = {};
        std::memcpy(tail, keys[k] + c * kBytes, (d - c) * kBytes);
        row(tail, k);
      }
    }
    for (std::size_t h = 0; h < Heads; ++h) {
      low[h].store_unaligned(values + h * stride + c);
      high[h].store_unaligned(values + h * stride + c + kLanes<A>);
    }
  }
}

/// One query's attention for `heads` heads: out[h] = sum over keys of softmax * key, the softmax
/// over q[h] . key / sqrt(d) and the sink. q, out [heads, d]; keys point at rows of d values, BF16
/// or float32; `exact` keeps the queries in float32.
template <class A>
inline void attend(float* out, const float* q, const float* sink, const std::byte* const* keys,
                   std::size_t count, std::size_t heads, std::size_t d, bool bf16_rows, bool exact,
                   const AttentionScratch& scratch) {
  constexpr std::size_t kStep = 2 * kLanes<A>;
  const std::size_t padded = (d + kStep - 1) / kStep * kStep;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const std::size_t q_stride = with_key_product<A>(bf16_rows, exact, [&](auto product) {
    using Product = decltype(product);
    const std::size_t channels = padded_channels<Product>(d);
    const std::size_t stride = channels * Product::kQueryBytes;
    for (std::size_t h = 0; h < heads; ++h) {
      Product::lay_out(scratch.q + h * stride, q + h * d, d, channels);
    }
    return stride;
  });
  std::fill_n(scratch.values, heads * padded, 0.0f);
  for (std::size_t h = 0; h < heads; ++h) {
    scratch.top[h] = sink[h];
    scratch.sum[h] = 1.0f;  // the sink's own exp(sink - top); it has no value
  }

  for (std::size_t first = 0; first < count; first += kKeyTile) {
    const std::size_t n = std::min(kKeyTile, count - first);
    const std::byte* const* tile = keys + first;
    for (std::size_t h = 0; h < heads; h += kHeadGroup) {
      const std::size_t group = std::min(kHeadGroup, heads - h);
      // Scores.
      with_key_product<A>(bf16_rows, exact, [&](auto product) {
        using Product = decltype(product);
        constexpr std::size_t kT = kTileQueries<A>;
        for (std::size_t k = 0; k < n; k += kTileKeys) {
          // Rows that repeat the last key write into the padding of the scores.
          const std::byte* rows[kTileKeys];
          for (std::size_t r = 0; r < kTileKeys; ++r) rows[r] = tile[std::min(k + r, n - 1)];
          for (std::size_t j = 0; j < group; j += kT) {
            key_tile<A, Product>(std::min(kT, group - j), scratch.scores + j * kKeyTile + k,
                                 kKeyTile, rows, d, scratch.q + (h + j) * q_stride, q_stride);
          }
        }
      });
      // Online softmax.
      const std::size_t whole = (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
      for (std::size_t j = 0; j < group; ++j) {
        float* p = scratch.scores + j * kKeyTile;
        float& top = scratch.top[h + j];
        float tile_top = top;
        for (std::size_t k = 0; k < n; ++k) {
          p[k] *= scale;
          tile_top = std::max(tile_top, p[k]);
        }
        const float rescale = std::exp(top - tile_top);
        top = tile_top;
        scratch.sum[h + j] = scratch.sum[h + j] * rescale + exp_and_sum<A>(p, top, n, whole);
        if (rescale != 1.0f) {
          float* v = scratch.values + (h + j) * padded;
          for (std::size_t c = 0; c < padded; ++c) v[c] *= rescale;
        }
      }
      // Values.
      const auto add = [&](auto constant_heads, std::size_t j) {
        constexpr std::size_t kHeads = decltype(constant_heads)::value;
        float* v = scratch.values + (h + j) * padded;
        const float* p = scratch.scores + j * kKeyTile;
        if (bf16_rows) {
          accumulate_values<A, kHeads, true>(v, padded, p, tile, n, d);
        } else {
          accumulate_values<A, kHeads, false>(v, padded, p, tile, n, d);
        }
      };
      std::size_t j = 0;
      if constexpr (kLanes<A> == 16) {
        for (; j + 8 <= group; j += 8) add(std::integral_constant<std::size_t, 8>{}, j);
      }
      for (; j + 2 <= group; j += 2) add(std::integral_constant<std::size_t, 2>{}, j);
      for (; j < group; ++j) add(std::integral_constant<std::size_t, 1>{}, j);
    }
  }

  for (std::size_t h = 0; h < heads; ++h) {
    const float* v = scratch.values + h * padded;
    const float inverse = 1.0f / scratch.sum[h];
    for (std::size_t c = 0; c < d; ++c) {
      const std::size_t within = c % kStep;
      const std::size_t at = bf16_rows ? c - within + within / 2 + (within % 2) * kLanes<A> : c;
      out[h * d + c] = v[at] * inverse;
    }
  }
}

}  // namespace ds4::inline v0_1::simd
