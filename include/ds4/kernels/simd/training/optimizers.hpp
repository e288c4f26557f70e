// Kernels for training: what the optimizers do with single values. See train/adamw.hpp and
// train/muon.hpp.
#pragma once

#include <array>
#include <cstddef>

#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// AdamW's settings for one step.
struct AdamWStep {
  ///@{
  /// By the names of ds4::adamw_step.
  float beta1;
  float beta2;
  float kept;
  float rate;
  float root;
  float epsilon;
  ///@}
};

/// One step of n values.
template <class A>
inline void adamw_step(float* weights, const float* gradient, float* mean, float* mean_square,
                       std::size_t n, const AdamWStep& step) {
  const Batch<A> root = splat<A>(1.0f / step.root);
  for_vectors<A>(n, [&](std::size_t i, auto lanes) {
    const Batch<A> g = get<A>(gradient + i, lanes);
    const Batch<A> first =
        xsimd::fma(splat<A>(step.beta1), get<A>(mean + i, lanes), splat<A>(1.0f - step.beta1) * g);
    const Batch<A> second = xsimd::fma(splat<A>(step.beta2), get<A>(mean_square + i, lanes),
                                       splat<A>(1.0f - step.beta2) * g * g);
    put<A>(mean + i, first, lanes);
    put<A>(mean_square + i, second, lanes);
    const Batch<A> move =
        splat<A>(step.rate) * first / xsimd::fma(xsimd::sqrt(second), root, splat<A>(step.epsilon));
    put<A>(weights + i, get<A>(weights + i, lanes) * splat<A>(step.kept) - move, lanes);
  });
}

/// The coefficients of Muon's rounds; see detail::orthogonalised.
inline constexpr std::array<std::array<double, 3>, 10> kMuonRounds = [] {
  std::array<std::array<double, 3>, 10> rounds{};
  for (auto& round : rounds) round = {3.4445, -4.7750, 2.0315};
  rounds[8] = rounds[9] = {2.0, -1.5, 0.5};
  return rounds;
}();

/// y = a x + b y for n values.
template <class A>
inline void combine(float* y, float a, const float* x, float b, std::size_t n) {
  for_vectors<A>(n, [&](std::size_t i, auto lanes) {
    put<A>(y + i, xsimd::fma(splat<A>(a), get<A>(x + i, lanes), splat<A>(b) * get<A>(y + i, lanes)),
           lanes);
  });
}

/// to [cols, rows] = the transpose of the rows [begin, end) of from [rows, cols].
template <class A>
inline void transpose(float* to, const float* from, std::size_t rows, std::size_t cols,
                      std::size_t begin, std::size_t end) {
  constexpr std::size_t kBlock = 16;  // both sides of a block stay in the nearest cache
  for (std::size_t r = begin; r < end; r += kBlock) {
    for (std::size_t c = 0; c < cols; ++c) {
      for (std::size_t i = r; i < r + kBlock && i < end; ++i) {
        to[c * rows + i] = from[i * cols + c];
      }
    }
  }
}

}  // namespace ds4::inline v0_1::simd::training
