// Reference kernels: manifold-constrained hyper-connections (mHC).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace ds4::inline v0_1::reference {

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

/// Softmax over each row of m [N, N], in place.
template <class T>
void softmax_rows(T* m, std::size_t N) {
  for (std::size_t j = 0; j < N; ++j) {
    T* row = m + j * N;
    const T top = *std::max_element(row, row + N);
    T sum = 0;
    for (std::size_t n = 0; n < N; ++n) sum += row[n] = std::exp(row[n] - top);
    for (std::size_t n = 0; n < N; ++n) row[n] /= sum;
  }
}

/// Lines of an [N, N] matrix that are divided by their sums.
enum class Lines : std::uint8_t { rows, columns };

/// m [N, N] divided by the sums of its rows or columns, plus eps, in place.
template <class T>
void divide_by_sums(T* m, Lines lines, std::size_t N, T eps) {
  const std::size_t step = lines == Lines::rows ? N : 1;  // from one line to the next
  const std::size_t along = lines == Lines::rows ? 1 : N;
  for (std::size_t a = 0; a < N; ++a) {
    T sum = eps;
    for (std::size_t b = 0; b < N; ++b) sum += m[a * step + b * along];
    for (std::size_t b = 0; b < N; ++b) m[a * step + b * along] /= sum;
  }
}

/// comb [N, N] from logits to (nearly) doubly stochastic, in place: softmax over rows plus eps, a
/// division by column sums, then iters - 1 times rows and columns. It ends on columns, so columns
/// sum to 1 and rows only nearly. Source: model.md 3.2.
template <class T>
void sinkhorn(T* comb, std::size_t N, std::size_t iters, T eps) {
  softmax_rows(comb, N);
  for (std::size_t i = 0; i < N * N; ++i) comb[i] += eps;
  divide_by_sums(comb, Lines::columns, N, eps);
  for (std::size_t i = 1; i < iters; ++i) {
    divide_by_sums(comb, Lines::rows, N, eps);
    divide_by_sums(comb, Lines::columns, N, eps);
  }
}

/// Splits u [S, (2+N)N] into the weights of one site: pre [S, N], post [S, N], comb [S, N, N].
/// Source: model.md 3.1.
template <class T>
void hyper_connection_weights(T* pre, T* post, T* comb, const T* u, const T* base, const T* scale,
                              std::size_t S, std::size_t N, std::size_t iters, T eps) {
  for (std::size_t s = 0; s < S; ++s, u += (2 + N) * N) {
    for (std::size_t n = 0; n < N; ++n) {
      pre[s * N + n] = sigmoid(u[n] * scale[0] + base[n]) + eps;
      post[s * N + n] = T(2) * sigmoid(u[N + n] * scale[1] + base[N + n]);
    }
    T* matrix = comb + s * N * N;
    for (std::size_t i = 0; i < N * N; ++i) matrix[i] = u[2 * N + i] * scale[2] + base[2 * N + i];
    sinkhorn(matrix, N, iters, eps);
  }
}

/// pre [S, N] of the final collapse, hc_head: sigmoid(u * scale + base) + eps. Source:
/// model.md 3.4.
template <class T>
void hyper_head_weights(T* pre, const T* u, const T* base, const T* scale, std::size_t S,
                        std::size_t N, T eps) {
  for (std::size_t i = 0; i < S * N; ++i) {
    pre[i] = sigmoid(u[i] * scale[0] + base[i % N]) + eps;
  }
}

/// c[s, :] = sum_n pre[s, n] * X[s, n, :]. Source: model.md 3.1.
template <class T>
void collapse_streams(T* c, const T* X, const T* pre, std::size_t S, std::size_t N, std::size_t D) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t i = 0; i < D; ++i) {
      T sum = 0;
      for (std::size_t n = 0; n < N; ++n) sum += pre[s * N + n] * X[(s * N + n) * D + i];
      c[s * D + i] = sum;
    }
  }
}

/// y[s, :] = mean_n X[s, n, :], y's rows M * D apart. Source: model.md 19.1.
template <class T>
void mean_streams(T* y, const T* X, std::size_t S, std::size_t M, std::size_t N, std::size_t D) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t i = 0; i < D; ++i) {
      T sum = 0;
      for (std::size_t n = 0; n < N; ++n) sum += X[(s * N + n) * D + i];
      y[s * M * D + i] = sum / static_cast<T>(N);
    }
  }
}

/// X[s, n, :] <- post[s, n] * y[s, :] + sum_j comb[s, j, n] * X[s, j, :], in place: comb is read
/// transposed. old is scratch for the N values of one channel. Source: model.md 3.3.
template <class T>
void mix_streams(T* X, const T* post, const T* comb, const T* y, T* old, std::size_t S,
                 std::size_t N, std::size_t D) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t i = 0; i < D; ++i) {
      for (std::size_t j = 0; j < N; ++j) old[j] = X[(s * N + j) * D + i];
      for (std::size_t n = 0; n < N; ++n) {
        T sum = post[s * N + n] * y[s * D + i];
        for (std::size_t j = 0; j < N; ++j) sum += comb[(s * N + j) * N + n] * old[j];
        X[(s * N + n) * D + i] = sum;
      }
    }
  }
}

}  // namespace ds4::inline v0_1::reference
