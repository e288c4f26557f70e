// Kernels for training: manifold-constrained hyper-connections (mHC). The weights' kernels have a
// token in each lane, the streams' kernels the channels of one token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// How many streams there usually are.
inline constexpr std::size_t kUsualStreams = 4;

/// `Count` vectors in registers, or any number of them in memory: the entries of a matrix.
template <class A, std::size_t Count>
struct Registers {
  Batch<A> values[Count];
  Batch<A> get(std::size_t i) const { return values[i]; }
  void set(std::size_t i, const Batch<A>& value) { values[i] = value; }
};
template <class A>
struct Memory {
  float* values;
  Batch<A> get(std::size_t i) const { return load<A>(values + i * kLanes<A>); }
  void set(std::size_t i, const Batch<A>& value) { value.store_unaligned(values + i * kLanes<A>); }
};

/// A token per lane: out[i * kLanes + lane] = in[lane * width + i] for `count` tokens; the other
/// lanes are 0.
template <class A>
inline void tokens_to_lanes(float* out, const float* in, std::size_t width, std::size_t count) {
  for (std::size_t i = 0; i < width; ++i) {
    float* to = out + i * kLanes<A>;
    std::size_t lane = 0;
    for (; lane < count; ++lane) to[lane] = in[lane * width + i];
    for (; lane < kLanes<A>; ++lane) to[lane] = 0.0f;
  }
}
/// The way back.
template <class A>
inline void lanes_to_tokens(float* out, const float* in, std::size_t width, std::size_t count) {
  for (std::size_t lane = 0; lane < count; ++lane) {
    for (std::size_t i = 0; i < width; ++i) out[lane * width + i] = in[i * kLanes<A> + lane];
  }
}

/// Entry b of row a, or of column a, of a matrix [N, N].
template <class A, class Count>
inline std::size_t entry(bool columns, std::size_t a, std::size_t b, Count N) {
  return columns ? b * N + a : a * N + b;
}

/// m from logits to its softmax by rows.
template <class A, class Cells, class Count>
inline void softmax_rows(Cells& m, Count N) {
  repeat<A>(N, [&](std::size_t j) {
    Batch<A> top = m.get(j * N);
    repeat<A>(N, [&](std::size_t n) { top = xsimd::max(top, m.get(j * N + n)); });
    Batch<A> sum = splat<A>(0.0f);
    repeat<A>(N, [&](std::size_t n) {
      const Batch<A> e = xsimd::exp(m.get(j * N + n) - top);
      m.set(j * N + n, e);
      sum += e;
    });
    const Batch<A> scale = splat<A>(1.0f) / sum;
    repeat<A>(N, [&](std::size_t n) { m.set(j * N + n, m.get(j * N + n) * scale); });
  });
}

/// m divided by the sums of its columns, or rows, plus eps. With a `record` of 2 N vectors it is
/// given the sums and their inverses.
template <class A, bool Record, class Cells, class Count>
inline void divide_by_sums(Cells& m, bool columns, Count N, const Batch<A>& eps,
                           [[maybe_unused]] float* record) {
  repeat<A>(N, [&](std::size_t a) {
    Batch<A> sum = eps;
    repeat<A>(N, [&](std::size_t b) { sum += m.get(entry<A>(columns, a, b, N)); });
    const Batch<A> inverse = splat<A>(1.0f) / sum;
    repeat<A>(N, [&](std::size_t b) {
      const std::size_t at = entry<A>(columns, a, b, N);
      m.set(at, m.get(at) * inverse);
    });
    if constexpr (Record) {
      sum.store_unaligned(record + 2 * a * kLanes<A>);
      inverse.store_unaligned(record + (2 * a + 1) * kLanes<A>);
    }
  });
}

/// All divisions of Sinkhorn's rounds: by columns, then iters - 1 times by rows and by columns.
template <class A, bool Record, class Cells, class Count>
inline void sinkhorn_rounds(Cells& m, Count N, std::size_t iters, const Batch<A>& eps,
                            float* record) {
  const std::size_t step = Record ? 2 * N * kLanes<A> : 0;
  divide_by_sums<A, Record>(m, true, N, eps, record);
  for (std::size_t i = 1; i < iters; ++i) {
    divide_by_sums<A, Record>(m, false, N, eps, record + (2 * i - 1) * step);
    divide_by_sums<A, Record>(m, true, N, eps, record + 2 * i * step);
  }
}

/// Of divide_by_sums: m from the matrix behind the division to that before it, d from the gradient
/// of the one to that of the other.
template <class A, class Cells, class Count>
inline void divide_by_sums_backward(Cells& d, Cells& m, bool columns, Count N,
                                    const float* record) {
  repeat<A>(N, [&](std::size_t a) {
    const Batch<A> sum = load<A>(record + 2 * a * kLanes<A>);
    const Batch<A> inverse = load<A>(record + (2 * a + 1) * kLanes<A>);
    Batch<A> along = splat<A>(0.0f);
    repeat<A>(N, [&](std::size_t b) {
      const std::size_t at = entry<A>(columns, a, b, N);
      along = xsimd::fma(d.get(at), m.get(at), along);
    });
    repeat<A>(N, [&](std::size_t b) {
      const std::size_t at = entry<A>(columns, a, b, N);
      d.set(at, (d.get(at) - along) * inverse);
      m.set(at, m.get(at) * sum);
    });
  });
}

/// Calls f(N, m, d) with the streams' number and two matrices: in registers if there are as many
/// streams as usual, otherwise at `memory`, 2 * N * N vectors.
template <class A, class F>
inline void with_matrices(std::size_t N, float* memory, F&& f) {
  if (N == kUsualStreams) {
    Registers<A, kUsualStreams * kUsualStreams> m;
    Registers<A, kUsualStreams * kUsualStreams> d;
    f(std::integral_constant<std::size_t, kUsualStreams>{}, m, d);
  } else {
    Memory<A> m{memory};
    Memory<A> d{memory + N * N * kLanes<A>};
    f(N, m, d);
  }
}

/// Float32 values of scratch of hyper_connection_weights.
template <class A>
inline std::size_t connection_scratch(std::size_t N) {
  return ((2 + N) * N + 2 * N * N) * kLanes<A>;
}

/// The weights of the tokens [begin, end) from u [S, (2+N)N]; see ds4::ops.
template <class A>
inline void hyper_connection_weights(float* pre, float* post, float* comb, const float* u,
                                     const float* base, const float* scale, std::size_t N,
                                     std::size_t iters, float eps, std::size_t begin,
                                     std::size_t end, float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  const std::size_t width = (2 + N) * N;
  float* const t = scratch;
  const Batch<A> small = splat<A>(eps);
  for (std::size_t s = begin; s < end; s += kL) {
    const std::size_t count = std::min(kL, end - s);
    tokens_to_lanes<A>(t, u + s * width, width, count);
    const auto logit = [&](std::size_t i, std::size_t part) {
      return xsimd::fma(load<A>(t + i * kL), splat<A>(scale[part]), splat<A>(base[i]));
    };
    for (std::size_t n = 0; n < N; ++n) {
      (sigmoid<A>(logit(n, 0)) + small).store_unaligned(t + n * kL);
      (splat<A>(2.0f) * sigmoid<A>(logit(N + n, 1))).store_unaligned(t + (N + n) * kL);
    }
    with_matrices<A>(N, t + width * kL, [&](auto streams, auto& m, auto&) {
      const auto cells = square<A>(streams);
      repeat<A>(cells, [&](std::size_t i) { m.set(i, logit(2 * streams + i, 2)); });
      softmax_rows<A>(m, streams);
      repeat<A>(cells, [&](std::size_t i) { m.set(i, m.get(i) + small); });
      sinkhorn_rounds<A, false>(m, streams, iters, small, nullptr);
      repeat<A>(cells,
                [&](std::size_t i) { m.get(i).store_unaligned(t + (2 * streams + i) * kL); });
    });
    lanes_to_tokens<A>(pre + s * N, t, N, count);
    lanes_to_tokens<A>(post + s * N, t + N * kL, N, count);
    lanes_to_tokens<A>(comb + s * N * N, t + 2 * N * kL, N * N, count);
  }
}

/// Float32 values of scratch of hyper_connection_weights_backward.
template <class A>
inline std::size_t connection_backward_scratch(std::size_t N, std::size_t iters) {
  return (3 * (2 + N) * N + 3 + 3 * N * N + 2 * N * (2 * iters - 1)) * kLanes<A>;
}

/// Its gradients for the tokens [begin, end): du +=; dbase [(2+N)N] and dscale [3] are set to the
/// sums over these tokens.
template <class A>
inline void hyper_connection_weights_backward(float* du, float* dbase, float* dscale,
                                              const float* dpre, const float* dpost,
                                              const float* dcomb, const float* u, const float* base,
                                              const float* scale, std::size_t N, std::size_t iters,
                                              float eps, std::size_t begin, std::size_t end,
                                              float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  const std::size_t width = (2 + N) * N;
  float* const t = scratch;
  float* const d = t + width * kL;
  float* const base_sums = d + width * kL;
  float* const scale_sums = base_sums + width * kL;
  float* const softmax = scale_sums + 3 * kL;
  float* const matrices = softmax + N * N * kL;
  float* const record = matrices + 2 * N * N * kL;
  zero<A>(base_sums, (width + 3) * kL);
  const Batch<A> one = splat<A>(1.0f);
  for (std::size_t s = begin; s < end; s += kL) {
    const std::size_t count = std::min(kL, end - s);
    tokens_to_lanes<A>(t, u + s * width, width, count);
    tokens_to_lanes<A>(d, dpre + s * N, N, count);
    tokens_to_lanes<A>(d + N * kL, dpost + s * N, N, count);
    tokens_to_lanes<A>(d + 2 * N * kL, dcomb + s * N * N, N * N, count);
    const auto logit = [&](std::size_t i, std::size_t part) {
      return xsimd::fma(load<A>(t + i * kL), splat<A>(scale[part]), splat<A>(base[i]));
    };
    for (std::size_t i = 0; i < 2 * N; ++i) {
      const Batch<A> p = sigmoid<A>(logit(i, i / N));
      const Batch<A> slope = (i < N ? p : p + p) * (one - p);
      (load<A>(d + i * kL) * slope).store_unaligned(d + i * kL);
    }
    with_matrices<A>(N, matrices, [&](auto streams, auto& m, auto& dm) {
      const auto cells = square<A>(streams);
      const Batch<A> small = splat<A>(eps);
      repeat<A>(cells, [&](std::size_t i) { m.set(i, logit(2 * streams + i, 2)); });
      softmax_rows<A>(m, streams);
      repeat<A>(cells, [&](std::size_t i) {
        m.get(i).store_unaligned(softmax + i * kL);
        m.set(i, m.get(i) + small);
      });
      sinkhorn_rounds<A, true>(m, streams, iters, small, record);
      repeat<A>(cells, [&](std::size_t i) { dm.set(i, load<A>(d + (2 * streams + i) * kL)); });
      for (std::size_t round = 2 * iters - 1; round-- > 0;) {
        const float* sums = record + round * 2 * streams * kL;
        if (round % 2 == 0) {
          divide_by_sums_backward<A>(dm, m, true, streams, sums);
        } else {
          divide_by_sums_backward<A>(dm, m, false, streams, sums);
        }
      }
      repeat<A>(streams, [&](std::size_t j) {
        Batch<A> along = splat<A>(0.0f);
        repeat<A>(streams, [&](std::size_t n) {
          const std::size_t i = j * streams + n;
          along = xsimd::fma(dm.get(i), load<A>(softmax + i * kL), along);
        });
        repeat<A>(streams, [&](std::size_t n) {
          const std::size_t i = j * streams + n;
          (load<A>(softmax + i * kL) * (dm.get(i) - along))
              .store_unaligned(d + (2 * streams + i) * kL);
        });
      });
    });
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t part = std::min<std::size_t>(i / N, 2);
      const Batch<A> value = load<A>(d + i * kL);
      const Batch<A> in = load<A>(t + i * kL);
      add_to<A>(base_sums + i * kL, value, Whole{});
      add_to<A>(scale_sums + part * kL, value * in, Whole{});
      (value * splat<A>(scale[part])).store_unaligned(t + i * kL);
    }
    for (std::size_t lane = 0; lane < count; ++lane) {
      float* to = du + (s + lane) * width;
      for (std::size_t i = 0; i < width; ++i) to[i] += t[i * kL + lane];
    }
  }
  for (std::size_t i = 0; i < width; ++i) dbase[i] = sum_lanes<A>(load<A>(base_sums + i * kL));
  for (std::size_t i = 0; i < 3; ++i) dscale[i] = sum_lanes<A>(load<A>(scale_sums + i * kL));
}

/// pre of the final collapse for the tokens [begin, end); scratch has N * kLanes values.
template <class A>
inline void hyper_head_weights(float* pre, const float* u, const float* base, const float* scale,
                               std::size_t N, float eps, std::size_t begin, std::size_t end,
                               float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  for (std::size_t s = begin; s < end; s += kL) {
    const std::size_t count = std::min(kL, end - s);
    tokens_to_lanes<A>(scratch, u + s * N, N, count);
    for (std::size_t n = 0; n < N; ++n) {
      const Batch<A> logit =
          xsimd::fma(load<A>(scratch + n * kL), splat<A>(scale[0]), splat<A>(base[n]));
      (sigmoid<A>(logit) + splat<A>(eps)).store_unaligned(scratch + n * kL);
    }
    lanes_to_tokens<A>(pre + s * N, scratch, N, count);
  }
}

/// Its gradients for the tokens [begin, end): du +=; dbase [N] and dscale [1] are set to the sums
/// over these tokens. scratch has 3 * N * kLanes values.
template <class A>
inline void hyper_head_weights_backward(float* du, float* dbase, float* dscale, const float* dpre,
                                        const float* u, const float* base, const float* scale,
                                        std::size_t N, std::size_t begin, std::size_t end,
                                        float* scratch) {
  constexpr std::size_t kL = kLanes<A>;
  float* const t = scratch;
  float* const d = t + N * kL;
  float* const base_sums = d + N * kL;
  Batch<A> scale_sum = splat<A>(0.0f);
  zero<A>(base_sums, N * kL);
  for (std::size_t s = begin; s < end; s += kL) {
    const std::size_t count = std::min(kL, end - s);
    tokens_to_lanes<A>(t, u + s * N, N, count);
    tokens_to_lanes<A>(d, dpre + s * N, N, count);
    for (std::size_t n = 0; n < N; ++n) {
      const Batch<A> in = load<A>(t + n * kL);
      const Batch<A> p = sigmoid<A>(xsimd::fma(in, splat<A>(scale[0]), splat<A>(base[n])));
      const Batch<A> value = load<A>(d + n * kL) * p * (splat<A>(1.0f) - p);
      add_to<A>(base_sums + n * kL, value, Whole{});
      scale_sum = xsimd::fma(value, in, scale_sum);
      (value * splat<A>(scale[0])).store_unaligned(d + n * kL);
    }
    for (std::size_t lane = 0; lane < count; ++lane) {
      for (std::size_t n = 0; n < N; ++n) du[(s + lane) * N + n] += d[n * kL + lane];
    }
  }
  for (std::size_t n = 0; n < N; ++n) dbase[n] = sum_lanes<A>(load<A>(base_sums + n * kL));
  dscale[0] = sum_lanes<A>(scale_sum);
}

/// c[s, :] = sum_n pre[s, n] X[s, n, :] is sum_copies. Its gradients for the tokens [begin, end):
/// dX +=, dpre +=.
template <class A>
inline void collapse_streams_backward(float* dX, float* dpre, const float* dc, const float* X,
                                      const float* pre, std::size_t N, std::size_t D,
                                      std::size_t begin, std::size_t end) {
  for (std::size_t s = begin; s < end; ++s) {
    const float* const d = dc + s * D;
    all_dots<A>(
        d, D, 1, N, D, [&](std::size_t n) { return X + (s * N + n) * D; },
        [&](std::size_t, std::size_t n, float value) { dpre[s * N + n] += value; });
    with_usual<A, kUsualStreams>(N, [&](auto streams) {
      for_vectors<A>(D, [&](std::size_t i, auto lanes) {
        const Batch<A> value = get<A>(d + i, lanes);
        repeat<A>(streams, [&](std::size_t n) {
          float* at = dX + (s * streams + n) * D + i;
          put<A>(at, xsimd::fma(splat<A>(pre[s * streams + n]), value, get<A>(at, lanes)), lanes);
        });
      });
    });
  }
}

/// X[s, n, :] <- post[n] y + sum_j comb[j, n] X[j, :] for the tokens [begin, end), in place; the
/// old X goes to `before`, or to scratch [N, D] if that is null.
template <class A>
inline void mix_streams(float* X, float* before, const float* post, const float* comb,
                        const float* y, std::size_t N, std::size_t D, std::size_t begin,
                        std::size_t end, float* scratch) {
  for (std::size_t s = begin; s < end; ++s) {
    float* const now = X + s * N * D;
    float* const old = before == nullptr ? scratch : before + s * N * D;
    copy<A>(old, now, N * D);
    with_usual<A, kUsualStreams>(N, [&](auto streams) {
      const float* const p = post + s * streams;
      const float* const c = comb + s * streams * streams;
      for_vectors<A>(D, [&](std::size_t i, auto lanes) {
        const Batch<A> out = get<A>(y + s * D + i, lanes);
        repeat<A>(streams, [&](std::size_t n) {
          Batch<A> sum = splat<A>(p[n]) * out;
          repeat<A>(streams, [&](std::size_t j) {
            sum = xsimd::fma(splat<A>(c[j * streams + n]), get<A>(old + j * D + i, lanes), sum);
          });
          put<A>(now + n * D + i, sum, lanes);
        });
      });
    });
  }
}

/// Its gradients for the tokens [begin, end), X being the old one: dX is replaced; dpost, dcomb and
/// dy +=. scratch has [N, D].
template <class A>
inline void mix_streams_backward(float* dX, float* dpost, float* dcomb, float* dy, const float* X,
                                 const float* post, const float* comb, const float* y,
                                 std::size_t N, std::size_t D, std::size_t begin, std::size_t end,
                                 float* scratch) {
  for (std::size_t s = begin; s < end; ++s) {
    float* const now = dX + s * N * D;
    const float* const d = scratch;
    copy<A>(scratch, now, N * D);
    const auto of_stream = [&](std::size_t n) { return d + n * D; };
    all_dots<A>(
        X + s * N * D, D, N, N, D, of_stream,
        [&](std::size_t j, std::size_t n, float value) { dcomb[(s * N + j) * N + n] += value; });
    all_dots<A>(y + s * D, D, 1, N, D, of_stream,
                [&](std::size_t, std::size_t n, float value) { dpost[s * N + n] += value; });
    with_usual<A, kUsualStreams>(N, [&](auto streams) {
      const float* const p = post + s * streams;
      const float* const c = comb + s * streams * streams;
      for_vectors<A>(D, [&](std::size_t i, auto lanes) {
        Batch<A> out = get<A>(dy + s * D + i, lanes);
        repeat<A>(streams, [&](std::size_t n) {
          out = xsimd::fma(splat<A>(p[n]), get<A>(d + n * D + i, lanes), out);
        });
        put<A>(dy + s * D + i, out, lanes);
        repeat<A>(streams, [&](std::size_t j) {
          Batch<A> sum = splat<A>(0.0f);
          repeat<A>(streams, [&](std::size_t n) {
            sum = xsimd::fma(splat<A>(c[j * streams + n]), get<A>(d + n * D + i, lanes), sum);
          });
          put<A>(now + j * D + i, sum, lanes);
        });
      });
    });
  }
}

}  // namespace ds4::inline v0_1::simd::training
