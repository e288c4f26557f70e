// The manifold-constrained hyper-connections (mHC), for N streams. The equations are those of
// kernels/reference/hyper_connection.hpp.
#pragma once

#include <cstddef>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Tokens that a team computes the weights of, one to a thread of a GPU.
template <class Space>
inline constexpr int kWeighedTokens = kOnHost<Space> ? 8 : 32;

/// pre [S, N], post [S, N], comb [S, N, N] from u [S, (2+N)N]; all of a token's in one thread's
/// registers.
template <class Space, int N>
struct HyperConnectionWeights {
  float* pre;
  float* post;
  float* comb;
  const float* u;
  const float* base;
  const float* scale;
  int S;
  int iters;
  float eps;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const int first = team.league_rank() * kWeighedTokens<Space>;
    for_each(team, min_of(kWeighedTokens<Space>, S - first), [&](int i) {
      const std::size_t s = static_cast<std::size_t>(first + i);
      const float* in = u + s * ((2 + N) * N);
      float matrix[N][N];
      for (int n = 0; n < N; ++n) {
        pre[s * N + static_cast<std::size_t>(n)] = sigmoid(in[n] * scale[0] + base[n]) + eps;
        post[s * N + static_cast<std::size_t>(n)] =
            2.0f * sigmoid(in[N + n] * scale[1] + base[N + n]);
        for (int j = 0; j < N; ++j) {
          const int at = 2 * N + n * N + j;
          matrix[n][j] = in[at] * scale[2] + base[at];
        }
      }
      sinkhorn(matrix);
      for (int n = 0; n < N; ++n) {
        for (int j = 0; j < N; ++j) {
          comb[s * (N * N) + static_cast<std::size_t>(n * N + j)] = matrix[n][j];
        }
      }
    });
  }

 private:
  KOKKOS_FUNCTION void sinkhorn(float (&m)[N][N]) const {
    for (int a = 0; a < N; ++a) {
      float top = m[a][0];
      for (int b = 1; b < N; ++b) top = max_of(top, m[a][b]);
      float sum = 0.0f;
      for (int b = 0; b < N; ++b) sum += m[a][b] = exp_of(m[a][b] - top);
      const float inverse = 1.0f / sum;
      for (int b = 0; b < N; ++b) m[a][b] = m[a][b] * inverse + eps;
    }
    columns(m);
    for (int i = 1; i < iters; ++i) {
      rows(m);
      columns(m);
    }
  }
  KOKKOS_FUNCTION void rows(float (&m)[N][N]) const {
    for (int a = 0; a < N; ++a) {
      float sum = eps;
      for (int b = 0; b < N; ++b) sum += m[a][b];
      const float inverse = 1.0f / sum;
      for (int b = 0; b < N; ++b) m[a][b] *= inverse;
    }
  }
  KOKKOS_FUNCTION void columns(float (&m)[N][N]) const {
    for (int b = 0; b < N; ++b) {
      float sum = eps;
      for (int a = 0; a < N; ++a) sum += m[a][b];
      const float inverse = 1.0f / sum;
      for (int a = 0; a < N; ++a) m[a][b] *= inverse;
    }
  }
};

/// pre [S, N] of the final collapse from u [S, N].
template <class Space, int N>
struct HyperHeadWeights {
  float* pre;
  const float* u;
  const float* base;
  const float* scale;
  int S;
  float eps;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const int first = team.league_rank() * kWeighedTokens<Space>;
    for_each(team, min_of(kWeighedTokens<Space>, S - first), [&](int i) {
      for (int n = 0; n < N; ++n) {
        const int at = (first + i) * N + n;
        pre[at] = sigmoid(u[at] * scale[0] + base[n]) + eps;
      }
    });
  }
};

/// c[s, :] = sum_n pre[s, n] * X[s, n, :]; a team per token.
template <class Space, int N>
struct CollapseStreams {
  float* c;
  const float* X;
  const float* pre;
  int D;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const std::size_t width = static_cast<std::size_t>(D);
    const float* streams = X + s * N * width;
    float* out = c + s * width;
    float weight[N];
    for (int n = 0; n < N; ++n) weight[n] = pre[s * N + static_cast<std::size_t>(n)];
    for_each(team, D, [&](int i) {
      float sum = 0.0f;
      for (int n = 0; n < N; ++n) {
        sum = multiply_add(
            weight[n], streams[static_cast<std::size_t>(n) * width + static_cast<std::size_t>(i)],
            sum);
      }
      out[i] = sum;
    });
  }
};

/// y[s, slot, :] = mean_n X[s, n, :] with y [S, M, D]; a team per token.
template <class Space, int N>
struct MeanStreams {
  float* y;
  const float* X;
  int D;
  int M;
  int slot;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const std::size_t width = static_cast<std::size_t>(D);
    const float* streams = X + s * N * width;
    float* out = y + (s * static_cast<std::size_t>(M) + static_cast<std::size_t>(slot)) * width;
    for_each(team, D, [&](int i) {
      float sum = 0.0f;
      for (int n = 0; n < N; ++n) {
        sum += streams[static_cast<std::size_t>(n) * width + static_cast<std::size_t>(i)];
      }
      out[i] = sum / N;
    });
  }
};

/// X[s, n, :] <- post[s, n] * y[s, :] + sum_j comb[s, j, n] * X[s, j, :], in place; a team per
/// token. comb is read transposed.
template <class Space, int N>
struct MixStreams {
  float* X;
  const float* post;
  const float* comb;
  const float* y;
  int D;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t s = static_cast<std::size_t>(team.league_rank());
    const std::size_t width = static_cast<std::size_t>(D);
    float* streams = X + s * N * width;
    const float* in = y + s * width;
    float weight[N];
    float mix[N][N];
    for (int n = 0; n < N; ++n) {
      weight[n] = post[s * N + static_cast<std::size_t>(n)];
      for (int j = 0; j < N; ++j)
        mix[j][n] = comb[s * (N * N) + static_cast<std::size_t>(j * N + n)];
    }
    for_each(team, D, [&](int i) {
      float old[N];
      for (int j = 0; j < N; ++j) {
        old[j] = streams[static_cast<std::size_t>(j) * width + static_cast<std::size_t>(i)];
      }
      for (int n = 0; n < N; ++n) {
        float sum = weight[n] * in[i];
        for (int j = 0; j < N; ++j) sum = multiply_add(mix[j][n], old[j], sum);
        streams[static_cast<std::size_t>(n) * width + static_cast<std::size_t>(i)] = sum;
      }
    });
  }
};

/// Hyper-connections, as in ds4::ops.
template <class Space>
class HyperConnectionOperations {
 public:
  template <std::size_t N>
  void hyper_connection_weights(RowsView<Element, N> pre, RowsView<Element, N> post,
                                RowsView<Element, N, N> comb,
                                RowsView<const Element, (2 + N) * N> u,
                                const Constants<Space, float, (2 + N) * N>& base,
                                const Constants<Space, float, 3>& scale, std::size_t iters,
                                double eps) {
    constexpr int kTokens = kWeighedTokens<Space>;
    const std::size_t S = u.extent(0);
    backend_of(this).launch(
        "ds4::hyper_connection_weights",
        moves(2 * u.size(), S * (iters * 2 * (2 * N * N + N) + 8 * N)), (S + kTokens - 1) / kTokens,
        kTokens, 0,
        HyperConnectionWeights<Space, static_cast<int>(N)>{
            raw(pre), raw(post), raw(comb), raw(u), raw(base.data()), raw(scale.data()),
            static_cast<int>(S), static_cast<int>(iters), static_cast<float>(eps)});
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<Element, N> pre, RowsView<const Element, N> u,
                          const Constants<Space, float, N>& base,
                          const Constants<Space, float, 1>& scale, double eps) {
    constexpr int kTokens = kWeighedTokens<Space>;
    const std::size_t S = u.extent(0);
    backend_of(this).launch(
        "ds4::hyper_head_weights", moves(2 * u.size()), (S + kTokens - 1) / kTokens, kTokens, 0,
        HyperHeadWeights<Space, static_cast<int>(N)>{raw(pre), raw(u), raw(base.data()),
                                                     raw(scale.data()), static_cast<int>(S),
                                                     static_cast<float>(eps)});
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<Element, D> c, RowsView<const Element, N, D> X,
                        RowsView<const Element, N> pre) {
    backend_of(this).launch(
        "ds4::collapse_streams", moves(c.size() + X.size(), 2 * X.size()), X.extent(0), kTeam, 0,
        CollapseStreams<Space, static_cast<int>(N)>{raw(c), raw(X), raw(pre), static_cast<int>(D)});
  }

  template <std::size_t M, std::size_t N, std::size_t D>
  void mean_streams(RowsView<Element, M, D> y, std::size_t slot, RowsView<const Element, N, D> X) {
    backend_of(this).launch(
        "ds4::mean_streams", moves(X.size() / N + X.size(), X.size()), X.extent(0), kTeam, 0,
        MeanStreams<Space, static_cast<int>(N)>{raw(y), raw(X), static_cast<int>(D),
                                                static_cast<int>(M), static_cast<int>(slot)});
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<Element, N, D> X, RowsView<const Element, N> post,
                   RowsView<const Element, N, N> comb, RowsView<const Element, D> y) {
    backend_of(this).launch("ds4::mix_streams",
                            moves(2 * X.size() + y.size(), 2 * (N + 1) * X.size()), X.extent(0),
                            kTeam, 0,
                            MixStreams<Space, static_cast<int>(N)>{raw(X), raw(post), raw(comb),
                                                                   raw(y), static_cast<int>(D)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
