// Products of float32 matrices: tiles of the result that the registers hold, over panels of the
// right matrix that lie in memory as the tiles read them.
//
// An element of a result is one chain of additions within every kDepth terms, and those sums are
// added in order, so it does not depend on which other rows and columns are computed beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/panel.hpp>

namespace ds4::inline v0_1::simd::training {

/// Rows and columns of a tile. The rows of AVX-512 take 24 of 32 registers, those of the others 12
/// and 8 of 16.
template <class A>
inline constexpr std::size_t kTileRows = kLanes<A> == 16  ? 12
                                         : kLanes<A> == 8 ? 6
                                                          : 4;
template <class A>
inline constexpr std::size_t kTileCols = 2 * kLanes<A>;

/// Values from one column of a left matrix that is packed by tiles to the next: whole vectors.
template <class A>
inline constexpr std::size_t kTileStride = (kTileRows<A> + kLanes<A> - 1) / kLanes<A> * kLanes<A>;

/// Terms of a block: a panel of a block fits the first-level cache.
inline constexpr std::size_t kDepth = 256;
/// Columns of a block: its panels fit the second-level cache.
inline constexpr std::size_t kBlockCols = 1024;
/// Rows and columns of the result that one call of multiply_transposed takes; they divide by every
/// kTileRows and kTileCols.
inline constexpr std::size_t kOuterRows = 192;
inline constexpr std::size_t kOuterCols = 384;

/// Terms of a block of `depth` terms in all: the blocks are about equally large.
template <class A>
inline std::size_t block_depth(std::size_t depth) {
  const std::size_t blocks = (depth + kDepth - 1) / kDepth;
  return blocks <= 1 ? depth : (depth + blocks - 1) / blocks;
}

/// Float32 values of a right matrix [depth, cols] in panels.
template <class A>
inline std::size_t panels_size(std::size_t depth, std::size_t cols) {
  return (cols + kTileCols<A> - 1) / kTileCols<A> * kTileCols<A> * depth;
}

/// Float32 values of scratch of multiply_transposed.
template <class A>
inline std::size_t transposed_scratch() {
  return kDepth * (kOuterRows / kTileRows<A> * kTileStride<A> + kOuterCols);
}

/// c (+)= a b for `Rows` rows and `cols` <= Vectors * kLanes columns. `Packed`: a is [depth,
/// kTileStride]; otherwise it has rows, a_stride apart. b is a panel.
template <class A, std::size_t Rows, std::size_t Vectors, bool Packed>
inline void multiply_tile(float* c, std::size_t c_stride, const float* a, std::size_t a_stride,
                          const float* b, std::size_t depth, std::size_t cols, bool add) {
  constexpr std::size_t kL = kLanes<A>;
  Batch<A> sum[Rows][Vectors];
  DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) sum[r][v] = splat<A>(0.0f);
  }
  // Every third row has a pointer; an address reaches the two behind it.
  constexpr std::size_t kPointers = (Rows + 2) / 3;
  const float* rows[kPointers];
  DS4_UNROLL for (std::size_t i = 0; i < kPointers; ++i) rows[i] = a + 3 * i * a_stride;
  for (std::size_t k = 0; k < depth; ++k, b += kTileCols<A>) {
    Batch<A> right[Vectors];
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) right[v] = load<A>(b + v * kL);
    DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
      const Batch<A> left =
          splat<A>(Packed ? a[k * kTileStride<A> + r] : rows[r / 3][r % 3 * a_stride + k]);
      DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
        sum[r][v] = xsimd::fma(left, right[v], sum[r][v]);
      }
    }
  }
  DS4_UNROLL for (std::size_t r = 0; r < Rows; ++r) {
    float* out = c + r * c_stride;
    DS4_UNROLL for (std::size_t v = 0; v < Vectors; ++v) {
      float* at = out + v * kL;
      if ((v + 1) * kL <= cols) {
        (add ? load<A>(at) + sum[r][v] : sum[r][v]).store_unaligned(at);
      } else {
        float values[kL];
        sum[r][v].store_unaligned(values);
        for (std::size_t i = 0; v * kL + i < cols; ++i) {
          at[i] = add ? at[i] + values[i] : values[i];
        }
      }
    }
  }
}

/// Calls f(row, constant) for the tiles of `rows` rows, constant being how many rows a tile has.
template <class A, class F>
inline void for_tile_rows(std::size_t rows, F&& f) {
  std::size_t r = 0;
  const auto take = [&](auto constant) {
    constexpr std::size_t kRows = decltype(constant)::value;
    if constexpr (kRows <= kTileRows<A>) {
      for (; r + kRows <= rows; r += kRows) f(r, constant);
    }
  };
  take(std::integral_constant<std::size_t, 12>{});
  take(std::integral_constant<std::size_t, 8>{});
  take(std::integral_constant<std::size_t, 6>{});
  take(std::integral_constant<std::size_t, 4>{});
  take(std::integral_constant<std::size_t, 2>{});
  take(std::integral_constant<std::size_t, 1>{});
}

/// A product c [rows, cols] (+)= a [rows, depth] b [depth, cols]. Rows of c and a are their strides
/// apart; b is in panels.
struct Product {
  ///@{
  /// See above.
  float* c;
  std::size_t c_stride;
  const float* a;
  std::size_t a_stride;
  const float* b;
  std::size_t rows;
  std::size_t cols;
  std::size_t depth;
  bool add;
  ///@}
};

/// Tiles of one product where b's panels have `stride` values and a's element (row, k) is at
/// a + row * a_stride + k, or, packed, in blocks [depth, kTileStride], a_stride apart.
template <class A, bool Packed>
inline void multiply_block(const Product& p, std::size_t panel_stride) {
  for_tile_rows<A>(p.rows, [&](std::size_t row, auto constant) {
    constexpr std::size_t kRows = decltype(constant)::value;
    const float* a = Packed ? p.a + row / kTileRows<A> * p.a_stride + row % kTileRows<A>
                            : p.a + row * p.a_stride;
    const float* b = p.b;
    float* c = p.c + row * p.c_stride;
    for (std::size_t col = 0; col < p.cols;
         col += kTileCols<A>, b += panel_stride, c += kTileCols<A>) {
      const std::size_t cols = std::min(kTileCols<A>, p.cols - col);
      if (cols > kLanes<A>) {
        multiply_tile<A, kRows, 2, Packed>(c, p.c_stride, a, p.a_stride, b, p.depth, cols, p.add);
      } else {
        multiply_tile<A, kRows, 1, Packed>(c, p.c_stride, a, p.a_stride, b, p.depth, cols, p.add);
      }
    }
  });
}

/// The rows [row_begin, row_end) and columns [col_begin, col_end) of a product; col_begin is a
/// multiple of kTileCols.
template <class A>
inline void multiply(const Product& p, std::size_t row_begin, std::size_t row_end,
                     std::size_t col_begin, std::size_t col_end) {
  const std::size_t step = block_depth<A>(p.depth);
  const std::size_t panel = kTileCols<A> * p.depth;
  for (std::size_t col = col_begin; col < col_end; col += kBlockCols) {
    for (std::size_t k = 0; k < p.depth; k += step) {
      Product block = p;
      block.c += row_begin * p.c_stride + col;
      block.a += row_begin * p.a_stride + k;
      block.b += col / kTileCols<A> * panel + k * kTileCols<A>;
      block.rows = row_end - row_begin;
      block.cols = std::min(kBlockCols, col_end - col);
      block.depth = std::min(step, p.depth - k);
      block.add = p.add || k > 0;
      multiply_block<A, false>(block, panel);
    }
  }
}

/// Panels [begin, end) of w^T for w [cols, depth], rows w_stride apart: the right matrix of
/// y = x w^T.
template <class A>
inline void pack_transposed(float* panels, const float* w, std::size_t w_stride, std::size_t cols,
                            std::size_t depth, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) {
    float* panel = panels + i * kTileCols<A> * depth;
    const std::size_t first = i * kTileCols<A>;
    const std::size_t height = std::min(kTileCols<A>, cols - first);
    if (height < kTileCols<A>) std::memset(panel, 0, kTileCols<A> * depth * sizeof(float));
    pack_words<A>(reinterpret_cast<std::byte*>(panel), kTileCols<A> * kWord,
                  reinterpret_cast<const std::byte*>(w + first * w_stride),
                  w_stride * sizeof(float), depth * sizeof(float), height);
  }
}

/// Some rows of a matrix: row i is row index[i] / divide of it, or row i without an index.
struct RowList {
  ///@{
  /// See above.
  const float* data;
  std::size_t stride;
  const std::int32_t* index = nullptr;
  std::uint32_t divide = 1;
  ///@}
};

/// Where row i of the list is.
template <class A>
inline const float* row_of(const RowList& rows, std::size_t i) {
  const std::size_t at =
      rows.index == nullptr ? i : static_cast<std::uint32_t>(rows.index[i]) / rows.divide;
  return rows.data + at * rows.stride;
}

/// Copies the columns [first, first + cols) of `depth` rows to panels of `Width` columns that are
/// panel_stride apart, filled up with zeros. Rows of a panel are `Stride` values apart, whole
/// vectors; what is behind the columns is not specified.
template <class A, std::size_t Width, std::size_t Stride>
inline void pack_columns(float* panels, std::size_t panel_stride, const RowList& rows,
                         std::size_t row_begin, std::size_t depth, std::size_t first,
                         std::size_t cols) {
  static_assert(Width <= Stride && Stride % kLanes<A> == 0);
  constexpr std::size_t kRows = 8;  // side by side, so that a panel is written by whole lines
  const float* from[kRows];
  for (std::size_t k = 0; k < depth; k += kRows) {
    const std::size_t count = std::min(kRows, depth - k);
    for (std::size_t i = 0; i < count; ++i) from[i] = row_of<A>(rows, row_begin + k + i) + first;
    float* to = panels + k * Stride;
    std::size_t col = 0;
    for (; col + Stride <= cols; col += Width, to += panel_stride) {
      for (std::size_t i = 0; i < count; ++i) {
        DS4_UNROLL for (std::size_t c = 0; c < Stride; c += kLanes<A>) {
          load<A>(from[i] + col + c).store_unaligned(to + i * Stride + c);
        }
      }
    }
    for (; col < cols; col += Width, to += panel_stride) {
      for (std::size_t i = 0; i < count; ++i) {
        std::memset(to + i * Stride, 0, Stride * sizeof(float));
        std::memcpy(to + i * Stride, from[i] + col, std::min(Width, cols - col) * sizeof(float));
      }
    }
  }
}

/// Panels of w [depth, cols] for the rows [begin, end) of it: the right matrix of y = x w.
template <class A>
inline void pack_rows(float* panels, const float* w, std::size_t w_stride, std::size_t cols,
                      std::size_t depth, std::size_t begin, std::size_t end) {
  pack_columns<A, kTileCols<A>, kTileCols<A>>(panels + begin * kTileCols<A>, kTileCols<A> * depth,
                                              {w, w_stride}, begin, end - begin, 0, cols);
}

/// A product c (+)= a^T b of a [depth, rows] and b [depth, cols], which are given by their rows.
struct TransposedProduct {
  ///@{
  /// See above.
  float* c;
  std::size_t c_stride;
  RowList a;
  RowList b;
  bool add;
  ///@}
};

/// The terms [begin, end) for at most kOuterRows rows and kOuterCols columns of c from (row, col)
/// on.
template <class A>
inline void multiply_transposed(const TransposedProduct& p, std::size_t row, std::size_t rows,
                                std::size_t col, std::size_t cols, std::size_t begin,
                                std::size_t end, float* scratch) {
  float* const left = scratch;
  float* const right = scratch + kDepth * (kOuterRows / kTileRows<A> * kTileStride<A>);
  const std::size_t step = block_depth<A>(end - begin);
  for (std::size_t k = begin; k < end; k += step) {
    const std::size_t depth = std::min(step, end - k);
    const std::size_t block = depth * kTileStride<A>;
    const std::size_t panel = depth * kTileCols<A>;
    pack_columns<A, kTileRows<A>, kTileStride<A>>(left, block, p.a, k, depth, row, rows);
    pack_columns<A, kTileCols<A>, kTileCols<A>>(right, panel, p.b, k, depth, col, cols);
    float* c = p.c + row * p.c_stride + col;
    for (std::size_t i = 0; i < cols; i += kTileCols<A>) {  // a panel stays in the nearest cache
      multiply_block<A, true>({c + i, p.c_stride, left, block, right + i * depth, rows,
                               std::min(kTileCols<A>, cols - i), depth, p.add || k > begin},
                              panel);
    }
  }
}

}  // namespace ds4::inline v0_1::simd::training
