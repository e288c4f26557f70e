// Dot products of keys with queries: attention's rows lie one by one in memory, wherever the window
// and the picks put them.
//
// A (key, query) pair has one accumulator, filled in the order of the channels and summed by one
// tree, so its result does not depend on which other keys and queries share the tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/panel.hpp>

namespace ds4::inline v0_1::simd {

/// Keys of a tile; queries of a tile that the registers hold.
inline constexpr std::size_t kTileKeys = 4;
template <class A>
inline constexpr std::size_t kTileQueries = kLanes<A> == 16 ? 4 : 2;

/// Channels are taken in segments of a cache line of the key.
inline constexpr std::size_t kSegment = 64;

// A product says how kStep channels of a key and of a query are loaded and multiplied, and how a
// query's float32 values are laid out for that, filled up with zeros to whole segments.

/// Float32 keys, float32 queries.
template <class A>
struct F32Keys {
  static constexpr std::size_t kStep = kLanes<A>;
  static constexpr std::size_t kKeyBytes = 4;    // per channel
  static constexpr std::size_t kQueryBytes = 4;  // per channel
  using Key = Batch<A>;

  static Key load_key(const std::byte* p) { return load<A>(reinterpret_cast<const float*>(p)); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Key& key, const std::byte* query) {
    return xsimd::fma(key, load<A>(reinterpret_cast<const float*>(query)), acc);
  }
  static void lay_out(std::byte* query, const float* q, std::size_t d, std::size_t padded) {
    std::memcpy(query, q, d * sizeof(float));
    std::memset(query + d * sizeof(float), 0, (padded - d) * sizeof(float));
  }
};

/// BF16 keys, float32 queries: exact products. A step's even channels lie before its odd ones.
template <class A>
struct Bf16Keys {
  static constexpr std::size_t kStep = 2 * kLanes<A>;
  static constexpr std::size_t kKeyBytes = 2;
  static constexpr std::size_t kQueryBytes = 4;
  using Key = SplitBf16<A>;

  static Key load_key(const std::byte* p) { return load_split_bf16<A>(p); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Key& key, const std::byte* query) {
    const float* q = reinterpret_cast<const float*>(query);
    return xsimd::fma(key.odd, load<A>(q + kLanes<A>), xsimd::fma(key.even, load<A>(q), acc));
  }
  static void lay_out(std::byte* query, const float* q, std::size_t d, std::size_t padded) {
    float* out = reinterpret_cast<float*>(query);
    std::memset(out, 0, padded * sizeof(float));
    for (std::size_t c = 0; c < d; ++c) {
      const std::size_t within = c % kStep;
      out[c - within + within / 2 + (within % 2) * kLanes<A>] = q[c];
    }
  }
};

/// BF16 keys, queries rounded to BF16, float32 accumulation, by the instruction for it.
template <class A>
struct Bf16DotKeys {
  static constexpr std::size_t kStep = 2 * kLanes<A>;
  static constexpr std::size_t kKeyBytes = 2;
  static constexpr std::size_t kQueryBytes = 2;
  using Key = typename Bf16DotWords<A>::Rows;

  static Key load_key(const std::byte* p) { return Bf16DotWords<A>::load(p); }
  static Batch<A> multiply_add(const Batch<A>& acc, const Key& key, const std::byte* query) {
    return Bf16DotWords<A>::dot(acc, key, load_key(query));
  }
  static void lay_out(std::byte* query, const float* q, std::size_t d, std::size_t padded) {
    store_bf16<A>(reinterpret_cast<std::uint16_t*>(query), q, d);
    std::memset(query + 2 * d, 0, 2 * (padded - d));
  }
};

/// Calls f with the product of keys of this type; `exact` keeps queries in float32.
template <class A, class F>
inline decltype(auto) with_key_product(bool bf16_keys, [[maybe_unused]] bool exact, F&& f) {
  if constexpr (A::kDotsBf16) {
    if (bf16_keys && !exact) return f(Bf16DotKeys<A>{});
  }
  if (bf16_keys) return f(Bf16Keys<A>{});
  return f(F32Keys<A>{});
}

/// Channels of a query filled up to whole segments of the keys.
template <class Product>
constexpr std::size_t padded_channels(std::size_t d) {
  constexpr std::size_t kPerSegment = kSegment / Product::kKeyBytes;
  return (d + kPerSegment - 1) / kPerSegment * kPerSegment;
}

/// y[t * y_stride + r] = keys[r] . query t, for 4 keys of d channels and T queries.
template <class A, class Product, std::size_t T>
inline void key_tile(float* y, std::size_t y_stride, const std::byte* const (&keys)[kTileKeys],
                     std::size_t d, const std::byte* queries, std::size_t query_stride) {
  constexpr std::size_t R = kTileKeys;
  constexpr std::size_t kBytes = Product::kStep * Product::kKeyBytes;
  constexpr std::size_t kQueryStep = Product::kStep * Product::kQueryBytes;
  static_assert(kSegment % kBytes == 0);
  Batch<A> acc[T][R];
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    DS4_UNROLL for (std::size_t r = 0; r < R; ++r) acc[t][r] = splat<A>(0.0f);
  }
  const auto segment = [&](const std::byte* a, const std::byte* b, const std::byte* c,
                           const std::byte* e, const std::byte* query) {
    DS4_UNROLL for (std::size_t i = 0; i < kSegment / kBytes; ++i, query += kQueryStep) {
      const std::size_t at = i * kBytes;
      const typename Product::Key key[R] = {Product::load_key(a + at), Product::load_key(b + at),
                                            Product::load_key(c + at), Product::load_key(e + at)};
      DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
        DS4_UNROLL for (std::size_t r = 0; r < R; ++r) {
          acc[t][r] = Product::multiply_add(acc[t][r], key[r], query + t * query_stride);
        }
      }
    }
  };
  const std::size_t bytes = d * Product::kKeyBytes;
  std::size_t at = 0;
  for (; at + kSegment <= bytes; at += kSegment) {
    segment(keys[0] + at, keys[1] + at, keys[2] + at, keys[3] + at, queries);
    queries += kSegment / kBytes * kQueryStep;
  }
  if (at < bytes) {  // what lies behind a key's end is not the key's
    alignas(64) std::byte rest[R][kSegment] = {};
    for (std::size_t r = 0; r < R; ++r) std::memcpy(rest[r], keys[r] + at, bytes - at);
    segment(rest[0], rest[1], rest[2], rest[3], queries);
  }
  DS4_UNROLL for (std::size_t t = 0; t < T; ++t) {
    sum_lanes_of_4<A>(y + t * y_stride, acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
  }
}

/// The same for up to kTileQueries queries.
template <class A, class Product>
inline void key_tile(std::size_t T, float* y, std::size_t y_stride,
                     const std::byte* const (&keys)[kTileKeys], std::size_t d,
                     const std::byte* queries, std::size_t query_stride) {
  static_assert(kTileQueries<A> == 2 || kTileQueries<A> == 4);
  if (T == 1) return key_tile<A, Product, 1>(y, y_stride, keys, d, queries, query_stride);
  if (T == 2) return key_tile<A, Product, 2>(y, y_stride, keys, d, queries, query_stride);
  if constexpr (kTileQueries<A> == 4) {
    if (T == 3) return key_tile<A, Product, 3>(y, y_stride, keys, d, queries, query_stride);
    return key_tile<A, Product, 4>(y, y_stride, keys, d, queries, query_stride);
  }
}

}  // namespace ds4::inline v0_1::simd
