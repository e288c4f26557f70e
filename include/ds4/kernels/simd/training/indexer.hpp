// Kernels for training: the lightning indexer's scores, and its own loss.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ds4/kernels/simd/top_k.hpp>
#include <ds4/kernels/simd/training/attention.hpp>
#include <ds4/kernels/simd/training/product.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Entries whose dot products are in memory at once; a multiple of every kTileCols.
inline constexpr std::size_t kIndexCols = 128;

/// 1 / sqrt(nI dI).
template <class A>
inline float index_scale(const IndexShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.nI)) / std::sqrt(static_cast<float>(shape.dI));
}

/// Float32 values of scratch of index_scores for `queries` queries.
template <class A>
inline std::size_t index_scratch(const IndexShape& shape, std::size_t queries) {
  return queries * shape.nI * kIndexCols;
}

/// scores[t - begin][w] for the queries [begin, end) and all w < count, rows score_stride apart.
/// The keys are in panels.
template <class A>
inline void index_scores(float* scores, std::size_t score_stride, const float* q,
                         const float* weights, const float* panels, std::size_t count,
                         const IndexShape& shape, std::size_t begin, std::size_t end,
                         float* scratch) {
  const auto [S, nI, dI, ratio, top_k] = shape;
  const std::size_t rows = (end - begin) * nI;
  const Batch<A> scale = splat<A>(index_scale<A>(shape));
  for (std::size_t col = 0; col < count; col += kIndexCols) {
    const std::size_t cols = std::min(kIndexCols, count - col);
    multiply<A>(
        {scratch, kIndexCols, q + begin * nI * dI, dI, panels + col * dI, rows, cols, dI, false}, 0,
        rows, 0, cols);
    for (std::size_t t = begin; t < end; ++t) {
      const float* const dots = scratch + (t - begin) * nI * kIndexCols;
      const float* const weight = weights + t * nI;
      for_vectors<A>(cols, [&](std::size_t i, auto lanes) {
        Batch<A> sum = splat<A>(0.0f);
        for (std::size_t h = 0; h < nI; ++h) {
          const Batch<A> value = get<A>(dots + h * kIndexCols + i, lanes);
          sum = xsimd::fma(splat<A>(weight[h]), xsimd::max(value, splat<A>(0.0f)), sum);
        }
        put<A>(scores + (t - begin) * score_stride + col + i, sum * scale, lanes);
      });
    }
  }
}

/// Float32 values of scratch of likely_best.
template <class A>
inline std::size_t likely_best_scratch(std::size_t top_k) {
  return (top_k + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

/// Gives `found` those of n scores that may be among the top_k best, in order, and returns how many
/// they are: the best of top_k or more groups of entries are that many entries, so none that is
/// worse than all of these is wanted.
template <class A>
inline std::size_t likely_best(Candidate* found, const float* scores, std::size_t n,
                               std::size_t top_k, float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  const std::size_t groups = likely_best_scratch<A>(top_k);
  float least = -INFINITY;
  if (n >= groups) {
    copy<A>(scratch, scores, groups);
    std::size_t i = groups;
    for (; i + groups <= n; i += groups) {
      for (std::size_t g = 0; g < groups; g += kL) {
        xsimd::max(load<A>(scratch + g), load<A>(scores + i + g)).store_unaligned(scratch + g);
      }
    }
    for (std::size_t g = 0; i + g < n; ++g) scratch[g] = std::max(scratch[g], scores[i + g]);
    Batch<A> lowest = load<A>(scratch);
    for (std::size_t g = kL; g < groups; g += kL) lowest = xsimd::min(lowest, load<A>(scratch + g));
    least = -max_lane<A>(-lowest);
  }
  std::size_t count = 0;
  std::size_t i = 0;
#ifdef DS4_HAVE_AVX512
  if constexpr (kL == 16) {
    for (; i + kL <= n; i += kL) {
      const __m512 values = _mm512_loadu_ps(scores + i);
      std::uint32_t good = _mm512_cmp_ps_mask(values, _mm512_set1_ps(least), _CMP_GE_OQ);
      for (; good != 0; good &= good - 1) {
        const std::size_t at = i + static_cast<std::size_t>(__builtin_ctz(good));
        found[count++] = {scores[at], static_cast<std::int32_t>(at)};
      }
    }
  }
#endif
  for (; i < n; ++i) {  // without a branch that nobody can foresee
    found[count] = {scores[i], static_cast<std::int32_t>(i)};
    count += scores[i] >= least ? 1 : 0;
  }
  return count;
}

/// Up to how many candidates rank_best is faster than a sort.
inline constexpr std::size_t kMostRanked = 1024;

/// picks = the entries of the top_k best of `count` candidates, which are in the order of their
/// entries; best first, a tie to the lower entry. A candidate's place is how many are better, which
/// takes no branch. scratch has kMostRanked values.
template <class A>
inline void rank_best(std::int32_t* picks, const Candidate* found, std::size_t count,
                      std::size_t top_k, float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  const Batch<A> one = splat<A>(1.0f);
  const Batch<A> none = splat<A>(0.0f);
  float places[kL];
  float lanes[kL];
  for (std::size_t lane = 0; lane < kL; ++lane) lanes[lane] = static_cast<float>(lane);
  for (std::size_t i = 0; i < count; ++i) scratch[i] = found[i].score;
  for (std::size_t first = 0; first < count; first += kL) {
    const std::size_t last = std::min(count, first + kL);
    Batch<A> own;  // and anything behind the end
    if (last == first + kL) {
      own = load<A>(scratch + first);
    } else {
      own = get<A>(scratch + first, Part{last - first});
    }
    Batch<A> before = none;
    std::size_t j = 0;
    for (; j < first; ++j) before += xsimd::select(splat<A>(scratch[j]) >= own, one, none);
    for (; j < last; ++j) {
      const Batch<A> other = splat<A>(scratch[j]);
      const Batch<A> later = splat<A>(static_cast<float>(j - first)) - load<A>(lanes);
      before += xsimd::select(other > own, one, none);
      before += xsimd::select(other == own, xsimd::select(later < none, one, none), none);
    }
    for (; j < count; ++j) before += xsimd::select(splat<A>(scratch[j]) > own, one, none);
    before.store_unaligned(places);
    for (std::size_t i = first; i < last; ++i) {
      const auto place = static_cast<std::size_t>(places[i - first]);
      if (place < top_k) picks[place] = found[i].entry;
    }
  }
}

/// The divergence of index_loss over n entries, and dscore = weight * its gradient by the scores.
template <class A>
inline double divergence(float* dscore, const float* score, const float* received, std::size_t n,
                         float weight) {
  float top = score[0];
  for (std::size_t i = 1; i < n; ++i) top = std::max(top, score[i]);
  const Batch<A> highest = splat<A>(top);
  const Batch<A> none = splat<A>(0.0f);
  const float sum = sum_vectors<A>(n, [&](const Batch<A>& so_far, std::size_t i, auto lanes) {
    const Batch<A> e = xsimd::exp(get<A>(score + i, lanes) - highest);
    if constexpr (std::is_same_v<decltype(lanes), Part>) {  // what is not there adds nothing
      float values[kLanes<A>] = {};
      put<A>(values, e, lanes);
      return so_far + load<A>(values);
    } else {
      return so_far + e;
    }
  });
  const float all = sum_vectors<A>(n, [&](const Batch<A>& so_far, std::size_t i, auto lanes) {
    return so_far + get<A>(received + i, lanes);
  });
  if (!(all > 0.0f)) {
    for (std::size_t i = 0; i < n; ++i) dscore[i] = 0.0f;
    return 0.0;
  }
  const Batch<A> log_sum = splat<A>(std::log(sum));
  const Batch<A> share = splat<A>(1.0f / all);
  return static_cast<double>(
      sum_vectors<A>(n, [&](const Batch<A>& so_far, std::size_t i, auto lanes) {
        const Batch<A> log_p = get<A>(score + i, lanes) - highest - log_sum;
        const Batch<A> target = get<A>(received + i, lanes) * share;
        put<A>(dscore + i, splat<A>(weight) * (xsimd::exp(log_p) - target), lanes);
        const Batch<A> safe = xsimd::select(target > none, target, splat<A>(1.0f));
        const Batch<A> term = target * (natural_log<A>(safe) - log_p);
        return so_far + xsimd::select(target > none, term, none);
      }));
}

/// Float32 values of scratch of index_loss.
template <class A>
inline std::size_t index_loss_scratch(const IndexShape& shape) {
  const std::size_t stride = score_stride<A>(shape.top_k);
  return (2 * kPointerValues + 2 + shape.nI) * stride;
}

/// The loss and the gradients of the queries [begin, end): dq and dweights +=, and dkeys +=.
template <class A>
inline double index_loss(float* dq, float* dweights, float* dkeys, const float* received,
                         const std::int32_t* picks, const float* q, const float* weights,
                         const float* keys, const IndexShape& shape, float weight,
                         std::size_t begin, std::size_t end, float* memory) {
  const auto [S, nI, dI, ratio, top_k] = shape;
  const std::size_t stride = score_stride<A>(top_k);
  auto* const rows = reinterpret_cast<const float**>(memory);
  auto* const drows = reinterpret_cast<float**>(memory + kPointerValues * stride);
  float* const score = memory + 2 * kPointerValues * stride;
  float* const dscore = score + stride;
  float* const dots = dscore + stride;  // then the gradients by them
  const float scale = index_scale<A>(shape);
  const Batch<A> none = splat<A>(0.0f);
  double loss = 0.0;
  for (std::size_t t = begin; t < end; ++t) {
    const std::size_t n = std::min((t + 1) / ratio, top_k);
    if (n == 0) continue;
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t w = static_cast<std::size_t>(picks[t * top_k + i]);
      rows[i] = keys + w * dI;
      drows[i] = dkeys + w * dI;
    }
    const float* const query = q + t * nI * dI;
    for_dot_rows<A>(nI, [&](std::size_t h, auto constant) {
      constexpr std::size_t kRows = decltype(constant)::value;
      dots_with_keys<A, kRows>(dots + h * stride, stride, query + h * dI, dI, rows, n, dI);
    });
    for_vectors<A>(n, [&](std::size_t i, auto lanes) {
      Batch<A> sum = none;
      for (std::size_t h = 0; h < nI; ++h) {
        const Batch<A> value = xsimd::max(get<A>(dots + h * stride + i, lanes), none);
        sum = xsimd::fma(splat<A>(weights[t * nI + h]), value, sum);
      }
      put<A>(score + i, sum * splat<A>(scale), lanes);
    });
    loss += divergence<A>(dscore, score, received + t * top_k, n, weight);
    for (std::size_t h = 0; h < nI; ++h) {
      float* const own = dots + h * stride;
      dweights[t * nI + h] +=
          scale * sum_vectors<A>(n, [&](const Batch<A>& sum, std::size_t i, auto lanes) {
            return xsimd::fma(get<A>(dscore + i, lanes), xsimd::max(get<A>(own + i, lanes), none),
                              sum);
          });
      const Batch<A> factor = splat<A>(scale * weights[t * nI + h]);
      for_vectors<A>(n, [&](std::size_t i, auto lanes) {
        const Batch<A> d = get<A>(dscore + i, lanes) * factor;
        put<A>(own + i, xsimd::select(get<A>(own + i, lanes) > none, d, none), lanes);
      });
    }
    for_dot_rows<A>(nI, [&](std::size_t h, auto constant) {
      constexpr std::size_t kRows = decltype(constant)::value;
      weighted_keys<A, kRows>(dq + (t * nI + h) * dI, dI, dots + h * stride, stride, rows, n, dI,
                              true);
    });
    add_to_keys<A, 1>(drows, n, {{dots, stride, query}}, nI, dI, dI);
  }
  return loss;
}

}  // namespace ds4::inline v0_1::simd::training
