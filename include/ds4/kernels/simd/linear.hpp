// Linear layers: rows of a weight, in panels, against the tokens of a pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <ds4/dtype.hpp>
#include <ds4/kernels/simd/panel.hpp>
#include <ds4/weights.hpp>

namespace ds4::simd {

/// How the activations of a linear layer are laid out for its product.
enum class Layout : std::uint8_t {
  f32,   ///< float32
  bf16,  ///< rounded to BF16
};

/// The layout for rows of this storage. `exact` keeps activations in float32.
template <class A>
inline Layout layout_for([[maybe_unused]] DType dtype, [[maybe_unused]] bool exact) {
#ifdef DS4_HAVE_AVX512
  if (kLanes<A> == 16 && dtype == DType::bf16 && !exact) return Layout::bf16;
#endif
  return Layout::f32;
}

/// Bytes from one laid-out token of K values to the next; a multiple of 64.
template <class A>
inline std::size_t token_stride(Layout layout, std::size_t K) {
  return (K * (layout == Layout::bf16 ? 2 : 4) + 63) / 64 * 64;
}

/// Lays out `count` tokens of K values, filled up with zeros.
template <class A>
inline void lay_out(Layout layout, std::byte* out, const float* x, std::size_t x_stride,
                    std::size_t count, std::size_t K) {
  const std::size_t stride = token_stride<A>(layout, K);
  const std::size_t bytes = K * (layout == Layout::bf16 ? 2 : 4);
  for (std::size_t s = 0; s < count; ++s, out += stride, x += x_stride) {
    if (layout == Layout::bf16) {
      store_bf16<A>(reinterpret_cast<std::uint16_t*>(out), x, K);
    } else {
      std::memcpy(out, x, bytes);
    }
    std::memset(out + bytes, 0, stride - bytes);
  }
}

/// Laid-out tokens.
struct Tokens {
  const std::byte* data;
  std::size_t stride;  ///< bytes
  std::size_t count;
  Layout layout;
};

/// A weight as the products read it: as it is stored, or in panels.
struct ProductMatrix {
  StoredMatrix stored;
  const std::byte* panels = nullptr;  ///< null: each panel is made when it is multiplied
  std::size_t panel_rows = kPanelRows;
};

/// Whether rows of this storage are multiplied as they are; others become float32 first.
template <class A>
inline bool has_product(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16;
}

/// Bytes of a row of a panel before it is filled up to whole words.
template <class A>
inline std::size_t row_bytes(const StoredMatrix& matrix) {
  return matrix.cols * (matrix.dtype == DType::bf16 ? 2 : 4);
}

/// Bytes of the matrix in panels, the slack behind the last one included.
template <class A>
inline std::size_t panel_bytes(const StoredMatrix& matrix) {
  return matrix.rows * words_of<A>(row_bytes<A>(matrix)) * kWord + kPanelSlack;
}

/// The rows [begin, end) of a weight. `decode` writes a row as float32 where the storage has no
/// product, and is null otherwise.
struct RowRange {
  const ProductMatrix* matrix;
  std::size_t begin;
  std::size_t end;
  void (*decode)(const StoredMatrix& matrix, std::size_t row, float* out);
};

/// Bytes of scratch memory that `linear` needs for a weight: none for one in panels.
template <class A>
inline std::size_t linear_scratch(const ProductMatrix& matrix) {
  if (matrix.panels != nullptr) return 0;
  const std::size_t panel = kPanelRows * (row_bytes<A>(matrix.stored) + kWord) + kPanelSlack;
  const std::size_t rows = kPanelRows * matrix.stored.cols * sizeof(float);
  return panel + (has_product<A>(matrix.stored.dtype) ? 0 : rows);
}

/// Writes a matrix in panels of panel_rows rows; the last one has what is left.
template <class A>
inline void store_in_panels(std::byte* out, const StoredMatrix& matrix, std::size_t panel_rows) {
  const std::size_t bytes = row_bytes<A>(matrix);
  for (std::size_t row = 0; row < matrix.rows; row += panel_rows) {
    pack_panel<A>(out + row * words_of<A>(bytes) * kWord, matrix.values + row * bytes, bytes,
                  std::min(panel_rows, matrix.rows - row));
  }
}

/// y[s * y_stride + row - begin] = w[row] . x[s] for the rows of the range; `scratch` has
/// linear_scratch() bytes.
template <class A>
inline void linear(float* y, std::size_t y_stride, const RowRange& w, const Tokens& x,
                   std::byte* scratch) {
  const ProductMatrix& m = *w.matrix;
  const std::size_t bytes = row_bytes<A>(m.stored);
  const std::size_t words = words_of<A>(bytes);
  for (std::size_t row = w.begin; row < w.end;) {
    const std::size_t first = row / m.panel_rows * m.panel_rows;
    const std::size_t height = std::min(m.panel_rows, m.stored.rows - first);
    const Panel wanted{m.panels == nullptr ? scratch : m.panels + first * words * kWord, height,
                       row - first, std::min(w.end, first + height) - row};
    if (m.panels == nullptr && w.decode == nullptr) {
      pack_panel<A>(scratch, m.stored.values + first * bytes, bytes, height);
    } else if (m.panels == nullptr) {
      std::byte* rows = scratch + kPanelRows * words * kWord + kPanelSlack;
      for (std::size_t r = 0; r < height; ++r) {
        w.decode(m.stored, first + r, reinterpret_cast<float*>(rows + r * bytes));
      }
      pack_panel<A>(scratch, rows, bytes, height);
    }
    float* out = y + (row - w.begin);
    const std::byte* next = m.panels == nullptr || row + wanted.count >= w.end
                                ? nullptr
                                : m.panels + (first + height) * words * kWord;
    const auto multiply = [&](auto kind) {
      multiply_panel<A, decltype(kind)>(out, y_stride, wanted, words, x.data, x.stride, x.count,
                                        next);
    };
    if (m.stored.dtype != DType::bf16) {
      multiply(F32Words<A>{});
#ifdef DS4_HAVE_AVX512
    } else if (kLanes<A> == 16 && x.layout == Layout::bf16) {
      if constexpr (kLanes<A> == 16) multiply(Bf16DotWords<A>{});
#endif
    } else {
      multiply(Bf16Words<A>{});
    }
    row += wanted.count;
  }
}

}  // namespace ds4::simd
