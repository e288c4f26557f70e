// Kernels for training: shared-KV attention with a sink, within one sequence from its first token
// or within a block.
// Heads go through tiles of dot products with the keys, whose lanes are the channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <ds4/config/config.hpp>
#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// y[h] (+)= sum_k p[h][k] key_k for `Rows` rows of n values; p has rows p_stride apart.
template <class A, std::size_t Rows>
inline void weighted_keys(float* y, std::size_t y_stride, const float* p, std::size_t p_stride,
                          const float* const* keys, std::size_t count, std::size_t n, bool add) {
  const auto columns = [&](std::size_t i, auto lanes, auto constant) {
    constexpr std::size_t kVectors = decltype(constant)::value;
    Batch<A> sum[Rows][kVectors];
    DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
      DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
        sum[r][v] = add ? get<A>(y + r * y_stride + i + v * kLanes<A>, lanes) : splat<A>(0.0f);
      }
    }
    for (std::size_t k = 0; k < count; ++k) {
      Batch<A> key[kVectors];
      DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
        key[v] = get<A>(keys[k] + i + v * kLanes<A>, lanes);
      }
      DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
        const Batch<A> weight = splat<A>(p[r * p_stride + k]);
        DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
          sum[r][v] = xsimd::fma(weight, key[v], sum[r][v]);
        }
      }
    }
    DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
      DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
        put<A>(y + r * y_stride + i + v * kLanes<A>, sum[r][v], lanes);
      }
    }
  };
  constexpr std::size_t kVectors = 4;
  std::size_t i = 0;
  for (; i + kVectors * kLanes<A> <= n; i += kVectors * kLanes<A>) {
    columns(i, Whole{}, std::integral_constant<std::size_t, kVectors>{});
  }
  const std::integral_constant<std::size_t, 1> one;
  for_vectors<A>(n - i, [&](std::size_t j, auto lanes) { columns(i + j, lanes, one); });
}

/// A part of the keys' gradients: the sum over `rows` rows of weight[r][k] x[r].
struct KeyTerm {
  const float* weight;  ///< rows weight_stride apart
  std::size_t weight_stride;
  const float* x;  ///< rows of n values, x_stride apart
};

/// dkeys[k] += all `Terms` terms, for keys of n values.
template <class A, std::size_t Terms>
inline void add_to_keys(float* const* dkeys, std::size_t count, const KeyTerm (&terms)[Terms],
                        std::size_t rows, std::size_t x_stride, std::size_t n) {
  const auto tile = [&](std::size_t k, auto key_count, std::size_t i, auto lanes, auto vectors) {
    constexpr std::size_t kKeys = decltype(key_count)::value;
    constexpr std::size_t kVectors = decltype(vectors)::value;
    Batch<A> sum[kKeys][kVectors];
    DS4_UNROLL for (std::size_t j = 0; j < kKeys; ++j) {
      DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) sum[j][v] = splat<A>(0.0f);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      DS4_UNROLL for (std::size_t t = 0; t < Terms; ++t) {
        Batch<A> x[kVectors];
        DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
          x[v] = get<A>(terms[t].x + r * x_stride + i + v * kLanes<A>, lanes);
        }
        DS4_UNROLL for (std::size_t j = 0; j < kKeys; ++j) {
          const Batch<A> weight = splat<A>(terms[t].weight[r * terms[t].weight_stride + k + j]);
          DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
            sum[j][v] = xsimd::fma(weight, x[v], sum[j][v]);
          }
        }
      }
    }
    for (std::size_t j = 0; j < kKeys; ++j) {  // one by one: a key may be there twice
      DS4_UNROLL for (std::size_t v = 0; v < kVectors; ++v) {
        add_to<A>(dkeys[k + j] + i + v * kLanes<A>, sum[j][v], lanes);
      }
    }
  };
  const auto with_keys = [&](std::size_t k, auto key_count) {
    constexpr std::size_t kVectors = 2;
    std::size_t i = 0;
    for (; i + kVectors * kLanes<A> <= n; i += kVectors * kLanes<A>) {
      tile(k, key_count, i, Whole{}, std::integral_constant<std::size_t, kVectors>{});
    }
    const std::integral_constant<std::size_t, 1> one;
    for_vectors<A>(n - i,
                   [&](std::size_t j, auto lanes) { tile(k, key_count, i + j, lanes, one); });
  };
  std::size_t k = 0;
  for (; k + kDotKeys <= count; k += kDotKeys) {
    with_keys(k, std::integral_constant<std::size_t, kDotKeys>{});
  }
  for (; k < count; ++k) with_keys(k, std::integral_constant<std::size_t, 1>{});
}

/// dots[r * stride + k] = x_r . keys[k] for `Rows` rows; a row of dots has room for whole tiles.
template <class A, std::size_t Rows>
inline void dots_with_keys(float* dots, std::size_t stride, const float* x, std::size_t x_stride,
                           const float* const* keys, std::size_t count, std::size_t n) {
  for (std::size_t k = 0; k < count; k += kDotKeys) {
    const float* tile_keys[kDotKeys];
    for (std::size_t i = 0; i < kDotKeys; ++i) tile_keys[i] = keys[std::min(k + i, count - 1)];
    float tile[Rows][kDotKeys];
    dot_tile<A, Rows>(tile, x, x_stride, tile_keys, n);
    for (std::size_t r = 0; r < Rows; ++r) {
      for (std::size_t i = 0; i < kDotKeys; ++i) dots[r * stride + k + i] = tile[r][i];
    }
  }
}

/// The most keys that a query sees.
template <class A>
inline std::size_t most_keys(const AttentionShape& shape) {
  if (shape.whole) return shape.W + shape.keys;
  const std::size_t window = std::min(shape.W, shape.S);
  if (shape.kind == AttentionKind::csa) return window + shape.top_k;
  return shape.kind == AttentionKind::hca ? window + shape.keys : window;
}

/// Values of a row of scores, with room for whole vectors and tiles.
template <class A>
inline std::size_t score_stride(std::size_t keys) {
  constexpr std::size_t kUnit = std::max(kLanes<A>, kDotKeys);
  return (std::max<std::size_t>(keys, 1) + kUnit - 1) / kUnit * kUnit;
}

/// What one thread's attention works with.
struct AttentionScratch {
  const float** keys;  ///< of the query
  float** dkeys;       ///< where their gradients go
  float* p;            ///< [kDotRows, stride] probabilities
  float* dp;           ///< the same, gradients
  std::size_t stride;
};

/// Float32 values of it.
template <class A>
inline std::size_t attention_scratch(const AttentionShape& shape) {
  return (2 * kPointerValues + 2 * kDotRows<A>)*score_stride<A>(most_keys<A>(shape));
}
template <class A>
inline AttentionScratch cut_scratch(const AttentionShape& shape, float* memory) {
  const std::size_t stride = score_stride<A>(most_keys<A>(shape));
  AttentionScratch scratch;
  scratch.stride = stride;
  scratch.keys = reinterpret_cast<const float**>(memory);
  scratch.dkeys = reinterpret_cast<float**>(memory + kPointerValues * stride);
  scratch.p = memory + 2 * kPointerValues * stride;
  scratch.dp = scratch.p + kDotRows<A> * stride;
  return scratch;
}

/// Calls window(p) for the rows p of the window and then entry(w) for the entries w that query t
/// sees.
template <class A, class Window, class Entry>
inline void for_keys(std::size_t t, const std::int32_t* picks, const AttentionShape& shape,
                     Window&& window, Entry&& entry) {
  const std::size_t end = shape.whole ? shape.W : t + 1;
  for (std::size_t p = end - std::min(end, shape.W); p < end; ++p) window(p);
  if (shape.whole) {
    for (std::size_t w = 0; w < shape.keys; ++w) entry(w);
  } else if (shape.kind == AttentionKind::hca) {
    for (std::size_t w = 0; w < (t + 1) / shape.ratio; ++w) entry(w);
  } else if (shape.kind == AttentionKind::csa) {
    for (std::size_t i = 0; i < shape.top_k; ++i) {
      const std::int32_t w = picks[t * shape.top_k + i];
      if (w >= 0) entry(static_cast<std::size_t>(w));
    }
  }
}

/// scratch.p = the probabilities of the keys for `Rows` heads, with the sink's in sink_p.
template <class A, std::size_t Rows>
inline void probabilities(const AttentionScratch& scratch, float (&sink_p)[Rows], const float* q,
                          const float* sink, std::size_t count, std::size_t d) {
  dots_with_keys<A, Rows>(scratch.p, scratch.stride, q, d, scratch.keys, count, d);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (std::size_t r = 0; r < Rows; ++r) {
    float* const p = scratch.p + r * scratch.stride;
    const std::size_t padded = score_stride<A>(count);
    for (std::size_t k = count; k < padded; ++k) p[k] = -INFINITY;
    Batch<A> tops = load<A>(p);
    for (std::size_t k = kLanes<A>; k < padded; k += kLanes<A>) {
      tops = xsimd::max(tops, load<A>(p + k));
    }
    const float top = std::max(max_lane<A>(tops) * scale, sink[r]);
    Batch<A> sums = splat<A>(0.0f);
    for (std::size_t k = 0; k < padded; k += kLanes<A>) {
      const Batch<A> e = xsimd::exp(load<A>(p + k) * splat<A>(scale) - splat<A>(top));
      e.store_unaligned(p + k);
      sums += e;
    }
    const float of_sink = std::exp(sink[r] - top);
    const float inverse = 1.0f / (sum_lanes<A>(sums) + of_sink);
    sink_p[r] = of_sink * inverse;
    for (std::size_t k = 0; k < padded; k += kLanes<A>) {
      (load<A>(p + k) * splat<A>(inverse)).store_unaligned(p + k);
    }
  }
}

/// The queries [begin, end); see ReferenceTraining::attend.
template <class A>
inline void attend(float* out, float* received, const float* q, const float* sink,
                   const float* window, const float* entries, const std::int32_t* picks,
                   const AttentionShape& shape, std::size_t begin, std::size_t end, float* memory) {
  const AttentionScratch scratch = cut_scratch<A>(shape, memory);
  const std::size_t d = shape.d;
  for (std::size_t t = begin; t < end; ++t) {
    std::size_t count = 0;
    std::size_t seen = 0;  // of the window
    for_keys<A>(
        t, picks, shape,
        [&](std::size_t p) {
          scratch.keys[count++] = window + p * d;
          ++seen;
        },
        [&](std::size_t w) { scratch.keys[count++] = entries + w * d; });
    float* const own = received == nullptr ? nullptr : received + t * shape.top_k;
    if (own != nullptr) zero<A>(own, shape.top_k);
    for_dot_rows<A>(shape.H, [&](std::size_t h, auto constant) {
      constexpr std::size_t kRows = decltype(constant)::value;
      const std::size_t at = (t * shape.H + h) * d;
      float sink_p[kRows];
      probabilities<A, kRows>(scratch, sink_p, q + at, sink + h, count, d);
      weighted_keys<A, kRows>(out + at, d, scratch.p, scratch.stride, scratch.keys, count, d,
                              false);
      if (own == nullptr) return;
      for (std::size_t r = 0; r < kRows; ++r) {
        add<A>(own, scratch.p + r * scratch.stride + seen, count - seen);
      }
    });
  }
}

/// Where the keys' gradients of some queries go.
struct KeyGradients {
  float* window;          ///< of the rows from first_row on
  std::size_t first_row;  ///< of the sequence
  float* entries;
};

/// The gradients of the queries [begin, end): dq +=, dsink [H] += and those of the keys +=.
template <class A>
inline void attend_backward(float* dq, float* dsink, const KeyGradients& dkeys, const float* dout,
                            const float* q, const float* sink, const float* window,
                            const float* entries, const std::int32_t* picks,
                            const AttentionShape& shape, std::size_t begin, std::size_t end,
                            float* memory) {
  const AttentionScratch scratch = cut_scratch<A>(shape, memory);
  const std::size_t d = shape.d;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (std::size_t t = begin; t < end; ++t) {
    std::size_t count = 0;
    const auto key = [&](const float* at, float* gradient) {
      scratch.keys[count] = at;
      scratch.dkeys[count++] = gradient;
    };
    for_keys<A>(
        t, picks, shape,
        [&](std::size_t p) { key(window + p * d, dkeys.window + (p - dkeys.first_row) * d); },
        [&](std::size_t w) { key(entries + w * d, dkeys.entries + w * d); });
    for_dot_rows<A>(shape.H, [&](std::size_t h, auto constant) {
      constexpr std::size_t kRows = decltype(constant)::value;
      const std::size_t at = (t * shape.H + h) * d;
      float sink_p[kRows];
      probabilities<A, kRows>(scratch, sink_p, q + at, sink + h, count, d);
      dots_with_keys<A, kRows>(scratch.dp, scratch.stride, dout + at, d, scratch.keys, count, d);
      for (std::size_t r = 0; r < kRows; ++r) {
        const float* const p = scratch.p + r * scratch.stride;
        float* const dp = scratch.dp + r * scratch.stride;
        const float mean = dot<A>(p, dp, count);  // the sink's gradient is 0
        dsink[h + r] -= sink_p[r] * mean;
        for_vectors<A>(count, [&](std::size_t k, auto lanes) {
          const Batch<A> off = get<A>(dp + k, lanes) - splat<A>(mean);
          put<A>(dp + k, get<A>(p + k, lanes) * off * splat<A>(scale), lanes);
        });
      }
      weighted_keys<A, kRows>(dq + at, d, scratch.dp, scratch.stride, scratch.keys, count, d, true);
      add_to_keys<A, 2>(
          scratch.dkeys, count,
          {{scratch.dp, scratch.stride, q + at}, {scratch.p, scratch.stride, dout + at}}, kRows, d,
          d);
    });
  }
}

}  // namespace ds4::inline v0_1::simd::training
