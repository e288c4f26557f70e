// Manifold-constrained hyper-connections (mHC): each lane takes its share of the tokens.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/scratch.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// The operations on the residual streams. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class HyperConnectionOperations {
 public:
  template <std::size_t N>
  void hyper_connection_weights(RowsView<float, N> pre, RowsView<float, N> post,
                                RowsView<float, N, N> comb, RowsView<const float, (2 + N) * N> u,
                                const Tensor<float, (2 + N) * N>& base,
                                const Tensor<float, 3>& scale, std::size_t iters, double eps) {
    const float floor = static_cast<float>(eps);
    lane().for_each(u.extent(0), [&](std::size_t s) {
      for (std::size_t n = 0; n < N; ++n) {
        pre(s, n) = sigmoid(u(s, n) * scale[0] + base[n]) + floor;
        post(s, n) = 2.0f * sigmoid(u(s, N + n) * scale[1] + base[N + n]);
      }
      float* matrix = comb[s].data();
      for (std::size_t i = 0; i < N * N; ++i) {
        matrix[i] = u(s, 2 * N + i) * scale[2] + base[2 * N + i];
      }
      lane().kernels().sinkhorn(matrix, N, iters, floor);
    });
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<float, N> pre, RowsView<const float, N> u,
                          const Tensor<float, N>& base, const Tensor<float, 1>& scale, double eps) {
    lane().for_each(u.extent(0), [&](std::size_t s) {
      for (std::size_t n = 0; n < N; ++n) {
        pre(s, n) = sigmoid(u(s, n) * scale[0] + base[n]) + static_cast<float>(eps);
      }
    });
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<float, D> c, RowsView<const float, N, D> X,
                        RowsView<const float, N> pre) {
    lane().for_each(X.extent(0), [&](std::size_t s) {
      lane().kernels().collapse_streams(c[s].data(), X[s].data(), pre[s].data(), N, D);
    });
  }

  template <std::size_t M, std::size_t N, std::size_t D>
  void mean_streams(RowsView<float, M, D> y, std::size_t slot, RowsView<const float, N, D> X) {
    std::array<float, N> weight;
    weight.fill(1.0f / N);
    lane().for_each(X.extent(0), [&](std::size_t s) {
      lane().kernels().collapse_streams(y[s][slot].data(), X[s].data(), weight.data(), N, D);
    });
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<float, N, D> X, RowsView<const float, N> post,
                   RowsView<const float, N, N> comb, RowsView<const float, D> y) {
    Scratch memory = lane().scratch();
    float* old = memory.own<float>(N * kMaxLanes);
    // Channels are cut at multiples of a vector, so that each is computed alike on any cut.
    constexpr std::size_t kCut = 16 * kMaxLanes;
    constexpr std::size_t kCuts = (D + kCut - 1) / kCut;
    lane().for_each(X.extent(0) * kCuts, [&](std::size_t i) {
      const std::size_t s = i / kCuts;
      const std::size_t begin = i % kCuts * kCut;
      lane().kernels().mix_streams(X[s].data(), post[s].data(), comb[s].data(), y[s].data(), old, N,
                                   D, begin, std::min(begin + kCut, D));
    });
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<float, N, D> X, RowsView<const float, D> y) {
    lane().for_each(X.extent(0) * N, [&](std::size_t i) {
      lane().kernels().add_scaled(X[i / N][i % N].data(), y[i / N].data(), 1.0f, D);
    });
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  static float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
};

}  // namespace ds4::inline v0_1::simd
