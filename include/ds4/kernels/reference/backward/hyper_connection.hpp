// Reference kernels: gradients of the manifold-constrained hyper-connections (mHC).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <ds4/kernels/reference/hyper_connection.hpp>

namespace ds4::inline v0_1::reference {

/// Of `divide_by_sums`, m the matrix before it: replaces d [N, N], the gradient of its result, by
/// that of m. Source: model.md 14.3.
template <class T>
void divide_by_sums_backward(T* d, const T* m, Lines lines, std::size_t N, T eps) {
  const std::size_t step = lines == Lines::rows ? N : 1;
  const std::size_t along = lines == Lines::rows ? 1 : N;
  for (std::size_t a = 0; a < N; ++a) {
    T sum = eps;
    T dot = 0;
    for (std::size_t b = 0; b < N; ++b) {
      sum += m[a * step + b * along];
      dot += d[a * step + b * along] * m[a * step + b * along];
    }
    for (std::size_t b = 0; b < N; ++b) {
      T& value = d[a * step + b * along];
      value = value / sum - dot / (sum * sum);
    }
  }
}

/// Of `sinkhorn`, through all its rounds: replaces d [N, N], the gradient of its result, by that of
/// the logits [N, N]. Source: model.md 14.3.
template <class T>
void sinkhorn_backward(T* d, const T* logits, std::size_t N, std::size_t iters, T eps) {
  std::vector<T> comb(logits, logits + N * N);
  softmax_rows(comb.data(), N);
  const std::vector<T> softmax = comb;
  for (T& value : comb) value += eps;
  const auto lines_of = [](std::size_t round) {
    return round % 2 == 0 ? Lines::columns : Lines::rows;
  };
  std::vector<std::vector<T>> before(2 * iters - 1);  // the matrix before each division
  for (std::size_t round = 0; round < before.size(); ++round) {
    before[round] = comb;
    divide_by_sums(comb.data(), lines_of(round), N, eps);
  }
  for (std::size_t round = before.size(); round-- > 0;) {
    divide_by_sums_backward(d, before[round].data(), lines_of(round), N, eps);
  }
  for (std::size_t j = 0; j < N; ++j) {
    T dot = 0;
    for (std::size_t n = 0; n < N; ++n) dot += d[j * N + n] * softmax[j * N + n];
    for (std::size_t n = 0; n < N; ++n) d[j * N + n] = softmax[j * N + n] * (d[j * N + n] - dot);
  }
}

/// Of `hyper_connection_weights`: from the gradients dpre [S, N], dpost [S, N] and dcomb [S, N, N]
/// to du [S, (2+N)N] +=, dbase [(2+N)N] += and dscale [3] +=. Source: model.md 14.3.
template <class T>
void hyper_connection_weights_backward(T* du, T* dbase, T* dscale, const T* dpre, const T* dpost,
                                       const T* dcomb, const T* u, const T* base, const T* scale,
                                       std::size_t S, std::size_t N, std::size_t iters, T eps) {
  const std::size_t width = (2 + N) * N;
  std::vector<T> logits(N * N);
  std::vector<T> d(width);  // of u * scale + base
  for (std::size_t s = 0; s < S; ++s, u += width, du += width) {
    for (std::size_t n = 0; n < N; ++n) {
      const T pre = sigmoid(u[n] * scale[0] + base[n]);
      const T post = sigmoid(u[N + n] * scale[1] + base[N + n]);
      d[n] = dpre[s * N + n] * pre * (T(1) - pre);
      d[N + n] = dpost[s * N + n] * T(2) * post * (T(1) - post);
    }
    for (std::size_t i = 0; i < N * N; ++i) {
      logits[i] = u[2 * N + i] * scale[2] + base[2 * N + i];
      d[2 * N + i] = dcomb[s * N * N + i];
    }
    sinkhorn_backward(d.data() + 2 * N, logits.data(), N, iters, eps);
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t part = std::min<std::size_t>(i / N, 2);
      du[i] += d[i] * scale[part];
      dbase[i] += d[i];
      dscale[part] += d[i] * u[i];
    }
  }
}

/// Of `hyper_head_weights`: from dpre [S, N] to du [S, N] +=, dbase [N] += and dscale [1] +=.
/// Source: model.md 14.3.
template <class T>
void hyper_head_weights_backward(T* du, T* dbase, T* dscale, const T* dpre, const T* u,
                                 const T* base, const T* scale, std::size_t S, std::size_t N) {
  for (std::size_t i = 0; i < S * N; ++i) {
    const T pre = sigmoid(u[i] * scale[0] + base[i % N]);
    const T d = dpre[i] * pre * (T(1) - pre);
    du[i] += d * scale[0];
    dbase[i % N] += d;
    dscale[0] += d * u[i];
  }
}

/// Of `collapse_streams`: from dc [S, D] to dX [S, N, D] += and dpre [S, N] +=.
/// Source: model.md 14.3.
template <class T>
void collapse_streams_backward(T* dX, T* dpre, const T* dc, const T* X, const T* pre, std::size_t S,
                               std::size_t N, std::size_t D) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t n = 0; n < N; ++n) {
      const std::size_t row = (s * N + n) * D;
      for (std::size_t i = 0; i < D; ++i) {
        dX[row + i] += pre[s * N + n] * dc[s * D + i];
        dpre[s * N + n] += X[row + i] * dc[s * D + i];
      }
    }
  }
}

/// Of `mix_streams`, X the streams before it: replaces dX [S, N, D], the gradient of its result, by
/// that of X; dpost [S, N] +=, dcomb [S, N, N] +=, dy [S, D] +=.
/// Source: model.md 14.3.
template <class T>
void mix_streams_backward(T* dX, T* dpost, T* dcomb, T* dy, const T* X, const T* post,
                          const T* comb, const T* y, std::size_t S, std::size_t N, std::size_t D) {
  std::vector<T> d(N);
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t i = 0; i < D; ++i) {
      for (std::size_t n = 0; n < N; ++n) d[n] = dX[(s * N + n) * D + i];
      for (std::size_t n = 0; n < N; ++n) {
        dpost[s * N + n] += d[n] * y[s * D + i];
        dy[s * D + i] += d[n] * post[s * N + n];
      }
      for (std::size_t j = 0; j < N; ++j) {
        T sum = 0;
        for (std::size_t n = 0; n < N; ++n) {
          sum += comb[(s * N + j) * N + n] * d[n];
          dcomb[(s * N + j) * N + n] += X[(s * N + j) * D + i] * d[n];
        }
        dX[(s * N + j) * D + i] = sum;
      }
    }
  }
}

}  // namespace ds4::inline v0_1::reference
