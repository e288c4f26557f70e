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

/// Rows are read in segments of a cache line: one after the other where a row lies in one piece, or
/// in turn with the segments of the tile's other rows where the matrix is stored in tiles.
inline constexpr std::size_t kSegment = 64;

// A product says how kStep elements of a stored row and of a token are loaded and multiplied, and
// how a token's float32 values are laid out for that. Tokens are padded with zeros to whole
// segments of the rows.

/// K elements of `bytes` each, rounded up to whole segments.
constexpr std::size_t padded_to_segments(std::size_t K, std::size_t bytes) {
  return (K * bytes + kSegment - 1) / kSegment * kSegment / bytes;
}

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
  static constexpr std::size_t padded(std::size_t K) { return padded_to_segments(K, kRowBytes); }
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
  static constexpr std::size_t padded(std::size_t K) { return padded_to_segments(K, kRowBytes); }
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
  static constexpr std::size_t padded(std::size_t K) { return padded_to_segments(K, kRowBytes); }
};
#endif

/// The rows of a tile: where each begins, and how far its next segment is.
struct TileRows {
  const std::byte* rows[kTileRows];
  std::size_t stride;      ///< kSegment, or kTileRows * kSegment in a matrix stored in tiles
  std::size_t whole;       ///< whole segments of a row
  std::size_t tail;        ///< bytes behind them; none in a matrix stored in tiles
  const std::byte* ahead;  ///< what to ask memory for meanwhile; null: nothing
};

/// y[t * y_stride + r] = rows[r] . token t, for 4 rows and T tokens.
template <class A, class Product, std::size_t T>
inline void product_tile(float* y, std::size_t y_stride, const TileRows& tile,
                         const std::byte* tokens, std::size_t token_stride) {
  constexpr std::size_t R = kTileRows;
  constexpr std::size_t kBytes = Product::kStep * Product::kRowBytes;
  constexpr std::size_t kTokenStep = Product::kStep * Product::kTokenBytes;
  static_assert(kSegment % kBytes == 0);
  Batch<A> acc[T][R];
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    DS4_UNROLL for (std::size_t r = 0; r < R; ++r) acc[t][r] = splat<A>(0.0f);
  }
  const auto segment = [&](const std::byte* a, const std::byte* b, const std::byte* c,
                           const std::byte* d, const std::byte* token) {
    DS4_UNROLL for (std::size_t i = 0; i < kSegment / kBytes; ++i, token += kTokenStep) {
      const std::size_t at = i * kBytes;
      const typename Product::Row row[R] = {Product::load_row(a + at), Product::load_row(b + at),
                                            Product::load_row(c + at), Product::load_row(d + at)};
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        DS4_UNROLL for (std::size_t r = 0; r < R; ++r) {
          acc[t][r] = Product::multiply_add(acc[t][r], row[r], token + t * token_stride);
        }
      }
    }
  };
  const std::byte* r0 = tile.rows[0];
  const std::byte* r1 = tile.rows[1];
  const std::byte* r2 = tile.rows[2];
  const std::byte* r3 = tile.rows[3];
  const std::byte* token = tokens;
  const std::byte* ahead = tile.ahead;
  for (std::size_t i = 0; i < tile.whole; ++i) {
    if (ahead != nullptr) {
      for (std::size_t r = 0; r < R; ++r) prefetch<A>(ahead + r * kSegment);
      ahead += R * kSegment;
    }
    segment(r0, r1, r2, r3, token);
    r0 += tile.stride;
    r1 += tile.stride;
    r2 += tile.stride;
    r3 += tile.stride;
    token += kSegment / kBytes * kTokenStep;
  }
  if (tile.tail > 0) {  // what lies behind a row's end is not the row's
    alignas(64) std::byte rest[R][kSegment] = {};
    std::memcpy(rest[0], r0, tile.tail);
    std::memcpy(rest[1], r1, tile.tail);
    std::memcpy(rest[2], r2, tile.tail);
    std::memcpy(rest[3], r3, tile.tail);
    segment(rest[0], rest[1], rest[2], rest[3], token);
  }
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    sum_lanes_of_4<A>(y + t * y_stride, acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
  }
}

/// The same for up to kTileTokens tokens.
template <class A, class Product>
inline void product_tile(std::size_t T, float* y, std::size_t y_stride, const TileRows& tile,
                         const std::byte* tokens, std::size_t token_stride) {
  static_assert(kTileTokens<A> == 2 || kTileTokens<A> == 6);
  if (T == 1) return product_tile<A, Product, 1>(y, y_stride, tile, tokens, token_stride);
  if (T == 2) return product_tile<A, Product, 2>(y, y_stride, tile, tokens, token_stride);
  if constexpr (kTileTokens<A> == 6) {
    if (T == 3) return product_tile<A, Product, 3>(y, y_stride, tile, tokens, token_stride);
    if (T == 4) return product_tile<A, Product, 4>(y, y_stride, tile, tokens, token_stride);
    if (T == 5) return product_tile<A, Product, 5>(y, y_stride, tile, tokens, token_stride);
    return product_tile<A, Product, 6>(y, y_stride, tile, tokens, token_stride);
  }
}

}  // namespace ds4::simd
