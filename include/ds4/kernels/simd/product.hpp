// Dot products of stored rows with activations, four rows against several tokens at a time: the
// inner loop of every linear layer, and of attention, where the rows are keys.
//
// A (row, token) pair has one accumulator, filled in the order of K and summed by one tree, so its
// result does not depend on which other rows and tokens share the tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/kernels/simd/lanes.hpp>

namespace ds4::simd {

/// Rows of a tile; tokens of a tile that the registers hold.
inline constexpr std::size_t kTileRows = 4;
template <class A>
inline constexpr std::size_t kTileTokens = kLanes<A> == 16 ? 6 : 2;

// A product says how kStep elements of a stored row and of a token are loaded and multiplied, and
// how a token's float32 values are laid out for that. Token rows are padded with zeros to kStep.

/// Float32 rows, float32 activations.
template <class A>
struct F32Product {
  static constexpr std::size_t kStep = kLanes<A>;
  static constexpr std::size_t kRowBytes = 4;    // per element of a stored row
  static constexpr std::size_t kTokenBytes = 4;  // per element of a token
  using Row = Batch<A>;

  static Row load_row(const std::byte* p) { return load<A>(reinterpret_cast<const float*>(p)); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Row& row, const std::byte* token) {
    return xsimd::fma(row, load<A>(reinterpret_cast<const float*>(token)), acc);
  }
  static void lay_out(std::byte* token, const float* x, std::size_t K) {
    std::memcpy(token, x, K * sizeof(float));
    std::memset(token + K * sizeof(float), 0, (padded(K) - K) * sizeof(float));
  }
  static constexpr std::size_t padded(std::size_t K) { return (K + kStep - 1) / kStep * kStep; }
};

/// BF16 rows, float32 activations: exact products. A step's even elements lie before its odd ones.
template <class A>
struct Bf16Product {
  static constexpr std::size_t kStep = 2 * kLanes<A>;
  static constexpr std::size_t kRowBytes = 2;
  static constexpr std::size_t kTokenBytes = 4;
  using Row = SplitBf16<A>;

  static Row load_row(const std::byte* p) { return load_split_bf16<A>(p); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Row& row, const std::byte* token) {
    const float* x = reinterpret_cast<const float*>(token);
    return xsimd::fma(row.odd, load<A>(x + kLanes<A>), xsimd::fma(row.even, load<A>(x), acc));
  }
  static void lay_out(std::byte* token, const float* x, std::size_t K) {
    float* out = reinterpret_cast<float*>(token);
    std::memset(out, 0, padded(K) * sizeof(float));
    for (std::size_t k = 0; k < K; ++k) {
      const std::size_t within = k % kStep;
      out[k - within + within / 2 + (within % 2) * kLanes<A>] = x[k];
    }
  }
  static constexpr std::size_t padded(std::size_t K) { return (K + kStep - 1) / kStep * kStep; }
};

#ifdef DS4_HAVE_AVX512
/// BF16 rows, activations rounded to BF16, float32 accumulation, by the instruction for it.
template <class A>
struct Bf16DotProduct {
  static constexpr std::size_t kStep = 32;
  static constexpr std::size_t kRowBytes = 2;
  static constexpr std::size_t kTokenBytes = 2;
  using Row = __m512bh;

  static Row load_row(const std::byte* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static Batch<A> multiply_add(const Batch<A>& acc, const Row& row, const std::byte* token) {
    return _mm512_dpbf16_ps(acc, row, reinterpret_cast<__m512bh>(_mm512_loadu_si512(token)));
  }
  static void lay_out(std::byte* token, const float* x, std::size_t K) {
    store_bf16<A>(reinterpret_cast<std::uint16_t*>(token), x, K);
    std::memset(token + 2 * K, 0, 2 * (padded(K) - K));
  }
  static constexpr std::size_t padded(std::size_t K) { return (K + kStep - 1) / kStep * kStep; }
};
#endif

/// y[t * y_stride + r] = rows[r] . token t, for 4 rows of K elements and T tokens. `ahead` is read
/// into the cache meanwhile, as much of it as the rows take; null: nothing is.
template <class A, class Product, std::size_t T>
inline void product_tile(float* y, std::size_t y_stride, const std::byte* const* rows,
                         const std::byte* tokens, std::size_t token_stride, std::size_t K,
                         const std::byte* ahead) {
  constexpr std::size_t R = kTileRows;
  Batch<A> acc[T][R];
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t r = 0; r < R; ++r) acc[t][r] = splat<A>(0.0f);
  }
  const std::size_t whole = K / Product::kStep * Product::kStep;
  const std::byte* r0 = rows[0];
  const std::byte* r1 = rows[1];
  const std::byte* r2 = rows[2];
  const std::byte* r3 = rows[3];
  const auto step = [&](const std::byte* a, const std::byte* b, const std::byte* c,
                        const std::byte* d, const std::byte* token) {
    const typename Product::Row row[R] = {Product::load_row(a), Product::load_row(b),
                                          Product::load_row(c), Product::load_row(d)};
    for (std::size_t t = 0; t < T; ++t) {
      for (std::size_t r = 0; r < R; ++r) {
        acc[t][r] = Product::multiply_add(acc[t][r], row[r], token + t * token_stride);
      }
    }
  };
  constexpr std::size_t kBytes = Product::kStep * Product::kRowBytes;
  const std::byte* token = tokens;
  for (std::size_t k = 0; k < whole; k += Product::kStep) {
    if (ahead != nullptr) {
      for (std::size_t line = 0; line < R * kBytes; line += 64) prefetch<A>(ahead + line);
      ahead += R * kBytes;
    }
    step(r0, r1, r2, r3, token);
    r0 += kBytes;
    r1 += kBytes;
    r2 += kBytes;
    r3 += kBytes;
    token += Product::kStep * Product::kTokenBytes;
  }
  if (whole < K) {  // what lies behind a row's end is not the row's
    alignas(64) std::byte tail[R][kBytes] = {};
    const std::size_t bytes = (K - whole) * Product::kRowBytes;
    std::memcpy(tail[0], r0, bytes);
    std::memcpy(tail[1], r1, bytes);
    std::memcpy(tail[2], r2, bytes);
    std::memcpy(tail[3], r3, bytes);
    step(tail[0], tail[1], tail[2], tail[3], token);
  }
  for (std::size_t t = 0; t < T; ++t) {
    sum_lanes_of_4<A>(y + t * y_stride, acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
  }
}

/// The same for up to kTileTokens tokens.
template <class A, class Product>
inline void product_tile(std::size_t T, float* y, std::size_t y_stride,
                         const std::byte* const* rows, const std::byte* tokens,
                         std::size_t token_stride, std::size_t K, const std::byte* ahead) {
  static_assert(kTileTokens<A> <= 6);
  switch (T) {
    case 1:
      return product_tile<A, Product, 1>(y, y_stride, rows, tokens, token_stride, K, ahead);
    case 2:
      return product_tile<A, Product, 2>(y, y_stride, rows, tokens, token_stride, K, ahead);
    default:
      break;
  }
  if constexpr (kTileTokens<A> == 6) {
    switch (T) {
      case 3:
        return product_tile<A, Product, 3>(y, y_stride, rows, tokens, token_stride, K, ahead);
      case 4:
        return product_tile<A, Product, 4>(y, y_stride, rows, tokens, token_stride, K, ahead);
      case 5:
        return product_tile<A, Product, 5>(y, y_stride, rows, tokens, token_stride, K, ahead);
      default:
        return product_tile<A, Product, 6>(y, y_stride, rows, tokens, token_stride, K, ahead);
    }
  }
}

}  // namespace ds4::simd
