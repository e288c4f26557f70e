// Linear layers: stored rows against the tokens of a pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/kernels/simd/product.hpp>
#include <ds4/weights.hpp>

namespace ds4::simd {

/// How the activations of a linear layer are laid out for its product.
enum class Layout : std::uint8_t {
  f32,    ///< float32 in order
  split,  ///< float32, even and odd elements apart: for BF16 rows
  bf16,   ///< rounded to BF16
};

/// The product for rows of this storage. `exact` keeps activations in float32.
template <class A>
inline Layout layout_for(DType dtype, [[maybe_unused]] bool exact) {
  if (dtype != DType::bf16) return Layout::f32;
#ifdef DS4_HAVE_AVX512
  if (kLanes<A> == 16 && !exact) return Layout::bf16;
#endif
  return Layout::split;
}

/// Calls f with the product that a layout belongs to.
template <class A, class F>
inline decltype(auto) with_product(Layout layout, F&& f) {
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    if (layout == Layout::bf16) return f(Bf16DotProduct<A>{});
  }
#endif
  if (layout == Layout::split) return f(Bf16Product<A>{});
  return f(F32Product<A>{});
}

/// Bytes from one laid-out token of K values to the next; a multiple of 64.
template <class A>
inline std::size_t token_stride(Layout layout, std::size_t K) {
  return with_product<A>(layout, [&](auto product) {
    return (product.padded(K) * product.kTokenBytes + 63) / 64 * 64;
  });
}

/// Lays out `count` tokens of K values.
template <class A>
inline void lay_out(Layout layout, std::byte* out, const float* x, std::size_t x_stride,
                    std::size_t count, std::size_t K) {
  const std::size_t stride = token_stride<A>(layout, K);
  with_product<A>(layout, [&](auto product) {
    for (std::size_t s = 0; s < count; ++s) product.lay_out(out + s * stride, x + s * x_stride, K);
  });
}

/// Laid-out tokens.
struct Tokens {
  const std::byte* data;
  std::size_t stride;  ///< bytes
  std::size_t count;
  Layout layout;
};

/// A weight as the products read it: in place, or in tiles.
///
/// In tiles, each group of 4 rows (the last one filled up with zeros) is one piece of memory that
/// is read from front to back: the first segment of each of its rows, then the second ones, and so
/// on, rows filled up with zeros to whole segments. Memory then delivers at its full rate.
struct ProductMatrix {
  StoredMatrix stored;
  const std::byte* tiles = nullptr;  ///< null: the rows are read where they are stored
};

/// Whether rows of this storage have a product; others are decoded to float32 row by row.
template <class A>
inline bool has_product(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16;
}

/// Bytes of the matrix in tiles.
template <class A>
inline std::size_t tiled_bytes(const StoredMatrix& matrix) {
  const std::size_t size = matrix.dtype == DType::bf16 ? 2 : 4;
  return (matrix.rows + kTileRows - 1) / kTileRows * kTileRows *
         padded_to_segments(matrix.cols, size) * size;
}

/// Writes the matrix in tiles; `out` is zero.
template <class A>
inline void store_in_tiles(std::byte* out, const StoredMatrix& matrix) {
  const std::size_t size = matrix.dtype == DType::bf16 ? 2 : 4;
  const std::size_t row_bytes = matrix.cols * size;
  const std::size_t padded = padded_to_segments(matrix.cols, size) * size;
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    const std::byte* in = matrix.values + row * row_bytes;
    std::byte* tile = out + row / kTileRows * kTileRows * padded + row % kTileRows * kSegment;
    for (std::size_t at = 0; at < row_bytes; at += kSegment, tile += kTileRows * kSegment) {
      std::memcpy(tile, in + at, std::min(kSegment, row_bytes - at));
    }
  }
}

/// The rows [begin, end) of a weight. `decode` writes a row as float32 where the storage has no
/// product, and is null otherwise.
struct RowRange {
  const ProductMatrix* matrix;
  std::size_t begin;
  std::size_t end;
  void (*decode)(const StoredMatrix& matrix, std::size_t row, float* out);
};

/// Bytes between what a product reads in place and what it asks memory for.
inline constexpr std::size_t kAhead = 8192;

/// The tile at `row` of a range; `decoded` [4, cols] is for storages without a product. Rows past
/// the end repeat the last.
template <class A>
inline TileRows tile_rows(const RowRange& w, std::size_t row, float* decoded) {
  const StoredMatrix& m = w.matrix->stored;
  TileRows tile;
  const std::size_t size = m.dtype == DType::bf16 ? 2 : 4;
  const std::size_t bytes = m.cols * size;
  if (w.matrix->tiles != nullptr) {
    const std::size_t padded = padded_to_segments(m.cols, size) * size;
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const std::size_t source = row + r < w.end ? row + r : w.end - 1;
      tile.rows[r] =
          w.matrix->tiles + source / kTileRows * kTileRows * padded + source % kTileRows * kSegment;
    }
    tile.stride = kTileRows * kSegment;
    tile.whole = padded / kSegment;
    tile.tail = 0;
    tile.ahead = nullptr;
    return tile;
  }
  for (std::size_t r = 0; r < kTileRows; ++r) {
    const std::size_t source = row + r < w.end ? row + r : w.end - 1;
    if (w.decode == nullptr) {
      tile.rows[r] = m.values + source * bytes;
    } else {
      w.decode(m, source, decoded + r * m.cols);
      tile.rows[r] = reinterpret_cast<const std::byte*>(decoded + r * m.cols);
    }
  }
  tile.stride = kSegment;
  tile.whole = bytes / kSegment;
  tile.tail = bytes % kSegment;
  tile.ahead =
      w.decode == nullptr ? m.values + row * bytes + std::max(kTileRows * bytes, kAhead) : nullptr;
  return tile;
}

/// Rows that are multiplied with all tokens before the next: they stay in the second-level cache.
inline constexpr std::size_t kRowBlock = 64;

/// For each block of kRowBlock rows and each tile in it: store(row, rows, token, tokens, values),
/// where values[t * kTileRows + r] is the product of row + r with token + t.
template <class A, class Store>
inline void for_each_tile(const RowRange& w, const Tokens& x, float* decoded, Store&& store) {
  constexpr std::size_t kT = kTileTokens<A>;
  with_product<A>(x.layout, [&](auto product) {
    using Product = decltype(product);
    const auto tile = [&](TileRows rows, std::size_t row, std::size_t token) {
      if (token > 0) rows.ahead = nullptr;  // the first tokens have asked already
      float values[kT * kTileRows];
      const std::size_t T = std::min(kT, x.count - token);
      product_tile<A, Product>(T, values, kTileRows, rows, x.data + token * x.stride, x.stride);
      store(row, std::min(kTileRows, w.end - row), token, T, values);
    };
    if (w.decode != nullptr || x.count <= kT) {  // each row once, all its tokens right away
      for (std::size_t row = w.begin; row < w.end; row += kTileRows) {
        const TileRows rows = tile_rows<A>(w, row, decoded);
        for (std::size_t token = 0; token < x.count; token += kT) {
          tile(rows, row, token);
        }
      }
      return;
    }
    for (std::size_t block = w.begin; block < w.end; block += kRowBlock) {
      const std::size_t block_end = std::min(block + kRowBlock, w.end);
      for (std::size_t token = 0; token < x.count; token += kT) {
        for (std::size_t row = block; row < block_end; row += kTileRows) {
          tile(tile_rows<A>(w, row, decoded), row, token);
        }
      }
    }
  });
}

/// y[s * y_stride + row - first] = w[row] . x[s] for the rows of the range.
template <class A>
inline void linear(float* y, std::size_t y_stride, std::size_t first, const RowRange& w,
                   const Tokens& x, float* decoded) {
  for_each_tile<A>(w, x, decoded,
                   [&](std::size_t row, std::size_t rows, std::size_t token, std::size_t tokens,
                       const float* values) {
                     for (std::size_t t = 0; t < tokens; ++t) {
                       float* out = y + (token + t) * y_stride + (row - first);
                       for (std::size_t r = 0; r < rows; ++r) out[r] = values[t * kTileRows + r];
                     }
                   });
}

}  // namespace ds4::simd
