// Training by the reference path: the residual streams and their hyper-connections.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <ds4/kernels/reference/backward/hyper_connection.hpp>
#include <ds4/kernels/reference/hyper_connection.hpp>
#include <ds4/kernels/reference/training/rows.hpp>

namespace ds4::inline v0_1::reference::training {

/// What reads and writes the streams; see ReferenceTraining.
template <class T>
class HyperConnectionOperations {
 public:
  ///@{
  /// The weights of a hyper-connection, of the final collapse; see ds4::ops.
  static void hyper_connection_weights(T* pre, T* post, T* comb, const T* u, const T* base,
                                       const T* scale, std::size_t S, std::size_t N,
                                       std::size_t iters, double eps) {
    reference::hyper_connection_weights(pre, post, comb, u, base, scale, S, N, iters, T(eps));
  }
  static void hyper_connection_weights_backward(T* du, T* dbase, T* dscale, const T* dpre,
                                                const T* dpost, const T* dcomb, const T* u,
                                                const T* base, const T* scale, std::size_t S,
                                                std::size_t N, std::size_t iters, double eps) {
    reference::hyper_connection_weights_backward(du, dbase, dscale, dpre, dpost, dcomb, u, base,
                                                 scale, S, N, iters, T(eps));
  }
  static void hyper_head_weights(T* pre, const T* u, const T* base, const T* scale, std::size_t S,
                                 std::size_t N, double eps) {
    reference::hyper_head_weights(pre, u, base, scale, S, N, T(eps));
  }
  static void hyper_head_weights_backward(T* du, T* dbase, T* dscale, const T* dpre, const T* u,
                                          const T* base, const T* scale, std::size_t S,
                                          std::size_t N) {
    reference::hyper_head_weights_backward(du, dbase, dscale, dpre, u, base, scale, S, N);
  }
  ///@}

  /// y[s, slot, :] = mean_n X[s, n, :]; y [S, M, D] from that slot on.
  static void mean_streams(T* y, const T* X, std::size_t S, std::size_t M, std::size_t N,
                           std::size_t D) {
    reference::mean_streams(y, X, S, M, N, D);
  }

  ///@{
  /// c[s, :] = sum_n pre[s, n] X[s, n, :].
  static void collapse_streams(T* c, const T* X, const T* pre, std::size_t S, std::size_t N,
                               std::size_t D) {
    reference::collapse_streams(c, X, pre, S, N, D);
  }
  static void collapse_streams_backward(T* dX, T* dpre, const T* dc, const T* X, const T* pre,
                                        std::size_t S, std::size_t N, std::size_t D) {
    reference::collapse_streams_backward(dX, dpre, dc, X, pre, S, N, D);
  }
  ///@}

  ///@{
  /// X[s, n, :] <- post[n] y + sum_j comb[j, n] X[j, :], in place; `before` (null: not wanted) is
  /// given the old X.
  static void mix_streams(T* X, T* before, const T* post, const T* comb, const T* y, std::size_t S,
                          std::size_t N, std::size_t D) {
    if (before != nullptr) std::copy_n(X, S * N * D, before);
    std::vector<T> old(N);
    reference::mix_streams(X, post, comb, y, old.data(), S, N, D);
  }
  /// X is the old one; dX is replaced by the old X's gradient.
  static void mix_streams_backward(T* dX, T* dpost, T* dcomb, T* dy, const T* X, const T* post,
                                   const T* comb, const T* y, std::size_t S, std::size_t N,
                                   std::size_t D) {
    reference::mix_streams_backward(dX, dpost, dcomb, dy, X, post, comb, y, S, N, D);
  }
  ///@}

  ///@{
  /// X[s, n, :] += y[s, :].
  static void add_to_streams(T* X, const T* y, std::size_t S, std::size_t N, std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(X + (s * N + n) * D, y + s * D, D);
    }
  }
  static void add_to_streams_backward(T* dy, const T* dX, std::size_t S, std::size_t N,
                                      std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(dy + s * D, dX + (s * N + n) * D, D);
    }
  }
  ///@}
};

}  // namespace ds4::inline v0_1::reference::training
