// Linear layers: rows of a weight, block by block, against the tokens of a pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/simd/expand.hpp>
#include <ds4/kernels/simd/in_place.hpp>
#include <ds4/kernels/simd/panel.hpp>
#include <ds4/kernels/simd/stored_words.hpp>

namespace ds4::inline v0_1::simd {

/// How the activations of a linear layer are laid out for its product.
enum class Layout : std::uint8_t {
  f32,       ///< float32
  bf16,      ///< rounded to BF16
  f32_fp4,   ///< float32, every 8 channels in the order in which words of FP4 come apart
  bf16_fp4,  ///< the same, rounded to BF16
};
inline constexpr std::size_t kLayouts = 4;

/// The bytes of a value in this layout.
template <class A>
inline std::size_t value_bytes(Layout layout) {
  return layout == Layout::bf16 || layout == Layout::bf16_fp4 ? 2 : 4;
}

/// The layout for rows of this storage. `exact` keeps activations in float32.
template <class A>
inline Layout layout_for(DType dtype, bool exact) {
  Layout layout = Layout::f32;
  Storages::with(dtype, [&](auto storage) {
    using Words = StoredWords<A, decltype(storage), false>;
    if (Words::kMayRound && !exact) {
      layout = Words::kFp4Order ? Layout::bf16_fp4 : Layout::bf16;
    } else if (Words::kFp4Order) {
      layout = Layout::f32_fp4;
    }
  });
  return layout;
}

/// Bytes from one laid-out token of K values to the next; a multiple of 64.
template <class A>
inline std::size_t token_stride(Layout layout, std::size_t K) {
  return (K * value_bytes<A>(layout) + 63) / 64 * 64;
}

/// The values of each 8 in the order 0 4 1 5 2 6 3 7, in place.
template <class A, class Value>
inline void order_for_fp4(std::byte* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += 8) {
    Value from[8];
    Value to[8];
    std::memcpy(from, values + i * sizeof(Value), sizeof from);
    for (std::size_t j = 0; j < 8; ++j) to[j] = from[j / 2 + j % 2 * 4];
    std::memcpy(values + i * sizeof(Value), to, sizeof to);
  }
}

/// Lays out `count` tokens of K values, filled up with zeros.
template <class A>
inline void lay_out(Layout layout, std::byte* out, const float* x, std::size_t x_stride,
                    std::size_t count, std::size_t K) {
  const std::size_t stride = token_stride<A>(layout, K);
  const std::size_t size = value_bytes<A>(layout);
  for (std::size_t s = 0; s < count; ++s, out += stride, x += x_stride) {
    if (size == 2) {
      store_bf16<A>(reinterpret_cast<std::uint16_t*>(out), x, K);
    } else {
      std::memcpy(out, x, K * size);
    }
    std::memset(out + K * size, 0, stride - K * size);
    if (layout == Layout::bf16_fp4) order_for_fp4<A, std::uint16_t>(out, stride / size);
    if (layout == Layout::f32_fp4) order_for_fp4<A, float>(out, stride / size);
  }
}

/// Laid-out tokens.
struct Tokens {
  const std::byte* data;
  std::size_t stride;  ///< bytes
  std::size_t count;
  Layout layout;
};

/// A weight as the products read it: as it is stored, or in panels. A panel in memory is its words,
/// then for FP4 its scales, words of four codes, if they are F8_E8M0; other scales are read where
/// they are stored.
struct ProductMatrix {
  StoredMatrix stored;
  const std::byte* panels = nullptr;  ///< null: the rows are transposed as they are multiplied
  std::size_t panel_rows = kPanelRows;
};

// Functions over a storage S are for matrices in this storage.

///@{
/// Bytes of a stored row.
template <class A, class S>
inline std::size_t row_bytes_of(const StoredMatrix& m) {
  return (m.cols * S::kBits + 7) / 8;
}
template <class A>
inline std::size_t row_bytes(const StoredMatrix& m) {
  std::size_t bytes = 0;
  Storages::with(m.dtype, [&](auto storage) { bytes = row_bytes_of<A, decltype(storage)>(m); });
  return bytes;
}
///@}

/// Bytes of a row's own scales if they are codes that panels hold, else 0.
template <class A, class S>
inline std::size_t scale_codes(const StoredMatrix& m) {
  if constexpr (S::kScaleRows == 1) {
    if (m.scale_dtype == DType::f8_e8m0) return (m.cols + S::kScaleCols - 1) / S::kScaleCols;
  }
  return 0;
}

/// Bytes of a row in a panel.
template <class A, class S>
inline std::size_t panel_row_bytes(const StoredMatrix& m) {
  return (words_of<A>(row_bytes_of<A, S>(m)) + words_of<A>(scale_codes<A, S>(m))) * kWord;
}

/// Bytes of the matrix in panels, the slack behind the last one included.
template <class A>
inline std::size_t panel_bytes(const StoredMatrix& m) {
  std::size_t bytes = kPanelSlack;
  Storages::with(m.dtype,
                 [&](auto storage) { bytes += m.rows * panel_row_bytes<A, decltype(storage)>(m); });
  return bytes;
}

/// Writes the rows [begin, end) of a matrix in panels of panel_rows rows; the last one has what is
/// left. `out` is where the matrix begins, and `begin` begins a panel.
template <class A>
inline void store_in_panels(std::byte* out, const StoredMatrix& m, std::size_t panel_rows,
                            std::size_t begin, std::size_t end) {
  Storages::with(m.dtype, [&](auto storage) {
    using S = decltype(storage);
    const std::size_t bytes = row_bytes_of<A, S>(m);
    const std::size_t codes = scale_codes<A, S>(m);
    for (std::size_t row = begin; row < end; row += panel_rows) {
      const std::size_t height = std::min(panel_rows, m.rows - row);
      std::byte* panel = out + row * panel_row_bytes<A, S>(m);
      pack_words<A>(panel, height * kWord, m.values + row * bytes, bytes, bytes, height);
      pack_words<A>(panel + words_of<A>(bytes) * height * kWord, height * kWord,
                    m.scales + row * codes, codes, codes, height);
    }
  });
}

/// Scratch memory of one lane's products.
struct LinearScratch {
  alignas(64) std::byte words[kBlockWords * kPanelRows * kWord + kPanelSlack];
  alignas(64) std::byte packed[kBlockWords / 2 * kPanelRows * kWord + kPanelSlack];
  alignas(64) float scales[kBlockScales * kPanelRows];
  alignas(64) std::byte codes[kScaleWords * kPanelRows * kWord];
};

/// The float32 that an F8_E8M0 code stands for.
template <class A>
inline float scale_of_code(std::byte code) {
  const auto bits = std::to_integer<std::uint32_t>(code);
  const std::uint32_t value = bits == 255 ? 0x7fc00000u : bits == 0 ? 0x400000u : bits << 23;
  float scale;
  std::memcpy(&scale, &value, sizeof scale);
  return scale;
}

/// The scales of the rows [first, first + height) for the channels of a block:
/// [groups][kPanelRows], one group for each block of columns with a scale, NaN and all; times
/// `unit`.
template <class A, class S>
inline void expand_scales(float* out, const StoredMatrix& m, std::size_t first, std::size_t height,
                          std::size_t channel, std::size_t channels, float unit) {
  constexpr std::size_t kWidth = S::kScaleCols;
  const std::size_t blocks = (m.cols + kWidth - 1) / kWidth;
  const std::size_t groups = (channels + kWidth - 1) / kWidth;
  for (std::size_t g = 0; g < groups; ++g) {
    float scale = 0.0f;
    for (std::size_t r = 0; r < height; ++r) {
      const std::size_t row = first + r;
      if (r == 0 || row % S::kScaleRows == 0) {
        const std::size_t at = row / S::kScaleRows * blocks + channel / kWidth + g;
        if (m.scale_dtype == DType::f8_e8m0) {
          scale = scale_of_code<A>(m.scales[at]);
        } else {
          std::memcpy(&scale, m.scales + at * sizeof(float), sizeof(float));
        }
        scale *= unit;
      }
      out[g * kPanelRows + r] = scale;
    }
  }
}

/// The same from words of four codes, `stride` bytes from one to the next.
template <class A>
inline void expand_scale_codes(float* out, const std::byte* words, std::size_t stride,
                               std::size_t height, std::size_t groups, float unit) {
  for (std::size_t g = 0; g < groups; ++g, out += kPanelRows) {
    const std::byte* codes = words + g / kWord * stride;
    for (std::size_t r = 0; r < height; r += kLanes<A>) {
      const Bits<A> code =
          (load_bits<A>(codes + r * kWord) >> static_cast<int>(g % kWord * 8)) & Bits<A>(0xffu);
      Bits<A> bits = xsimd::select(code == Bits<A>(0u), Bits<A>(0x400000u), code << 23);
      bits = xsimd::select(code == Bits<A>(255u), Bits<A>(0x7fc00000u), bits);
      (floats_of<A>(bits) * splat<A>(unit)).store_unaligned(out + r);
    }
  }
}

/// The rows [begin, end) of a weight.
struct RowRange {
  const ProductMatrix* matrix;
  std::size_t begin;
  std::size_t end;
};

/// The scales of the words [begin, begin + count) of the rows [first, first + height) as
/// [groups][kPanelRows], or null if the storage has none. A panel's words are asked for from first
/// to last.
template <class A, class S>
inline const float* stored_scales(const ProductMatrix& m, std::size_t first, std::size_t height,
                                  std::size_t begin, std::size_t count, LinearScratch& scratch) {
  const StoredMatrix& stored = m.stored;
  constexpr std::size_t kWidth = S::kScaleCols;
  constexpr float kUnit = StoredWords<A, S, false>::kUnit;
  const std::size_t channel = begin * kPerWord<S>;
  const std::size_t channels = std::min(count * kPerWord<S>, stored.cols - channel);
  const std::size_t codes = scale_codes<A, S>(stored);
  if (codes == 0) {
    expand_scales<A, S>(scratch.scales, stored, first, height, channel, channels, kUnit);
    return scratch.scales;
  }
  const std::size_t group = channel / kWidth;
  const std::size_t groups = (channels + kWidth - 1) / kWidth;
  const std::byte* words = nullptr;
  std::size_t stride = height * kWord;
  if (m.panels != nullptr) {
    words = m.panels + first * panel_row_bytes<A, S>(stored) +
            (words_of<A>(row_bytes_of<A, S>(stored)) + group / kWord) * stride;
  } else {
    constexpr std::size_t kCodes = kScaleWords * kWord;
    stride = kPanelRows * kWord;
    if (group % kCodes == 0) {  // these serve the next words too
      pack_words<A>(scratch.codes, stride, stored.scales + first * codes + group, codes,
                    std::min(kCodes, codes - group), height);
    }
    words = scratch.codes + group % kCodes / kWord * stride;
  }
  expand_scale_codes<A>(scratch.scales, words, stride, height, groups, kUnit);
  return scratch.scales;
}

/// The words [begin, begin + count) of the rows [first, first + height) as they are stored, with
/// their scales; see stored_scales about the order.
template <class A, class S>
inline Block stored_block(const ProductMatrix& m, std::size_t first, std::size_t height,
                          std::size_t begin, std::size_t count, LinearScratch& scratch) {
  const StoredMatrix& stored = m.stored;
  const std::size_t bytes = row_bytes_of<A, S>(stored);
  Block block{};
  block.count = count;
  block.height = height;
  if (m.panels != nullptr) {
    block.stride = height * kWord;
    block.words = m.panels + first * panel_row_bytes<A, S>(stored) + begin * block.stride;
  } else {
    std::byte* out = kSteps<A, S> == 1 ? scratch.words : scratch.packed;
    block.stride = kPanelRows * kWord;
    block.words = out;
    pack_words<A>(out, block.stride, stored.values + first * bytes + begin * kWord, bytes,
                  std::min(count * kWord, bytes - begin * kWord), height,
                  stored.values + (first + height) * bytes + begin * kWord * height);
  }
  block.group = count;
  if constexpr (S::kScaleCols > 0) {
    block.scales = stored_scales<A, S>(m, first, height, begin, count, scratch);
    block.group = kScaleGroup<S>;
  }
  return block;
}

/// The block as Expander makes it.
template <class A, class Expander>
inline Block expanded(Block block, LinearScratch& scratch) {
  expand_words<A, Expander>(scratch.words, block.words, block.stride, block.count);
  block.words = scratch.words;
  block.stride = kPanelRows * kWord;
  block.count *= Expander::kSteps;
  block.group *= Expander::kSteps;
  return block;
}

/// Tokens up to which rows are multiplied in registers, without being expanded before.
template <class A>
inline constexpr std::size_t kFewTokens = kLanes<A> == 16 ? 4 : 2;

/// Calls f with the StoredWords for this layout and those of its types that multiplies.
template <class A, class S, class F>
inline void with_words([[maybe_unused]] Layout layout, std::size_t tokens, F&& f) {
  const auto with = [&](auto stored) {
    using Stored = decltype(stored);
    if constexpr (Stored::kSteps > 1) {
      if (tokens > kFewTokens<A>) return f(stored, typename Stored::Many{});
    }
    f(stored, typename Stored::Few{});
  };
  if constexpr (StoredWords<A, S, false>::kMayRound) {
    if (value_bytes<A>(layout) == 2) return with(StoredWords<A, S, true>{});
  }
  with(StoredWords<A, S, false>{});
}

///@{
/// y[s * y_stride + row - begin] = w[row] . x[s] for the rows of the range.
template <class A, class S>
inline void linear_of(float* y, std::size_t y_stride, const RowRange& w, const Tokens& x,
                      LinearScratch& scratch) {
  const ProductMatrix& m = *w.matrix;
  const std::size_t bytes = row_bytes_of<A, S>(m.stored);
  const std::size_t words = words_of<A>(bytes);
  constexpr std::size_t kPerBlock = kBlockWords / kSteps<A, S>;
  const std::size_t token_bytes = kPerWord<S> * value_bytes<A>(x.layout);  // per stored word
  with_words<A, S>(x.layout, x.count, [&](auto stored, auto kind) {
    using Stored = decltype(stored);
    using Words = decltype(kind);
    constexpr bool kExpand = !std::is_same_v<Words, typename Stored::Few>;
    constexpr bool kScaled = S::kScaleCols > 0;
    std::size_t row = w.begin;
#ifdef DS4_HAVE_AVX512
    if constexpr (kLanes<A> == 16 && !kExpand && requires(__m512i bits) { Words::of_bits(bits); }) {
      const bool fits = bytes % (kRowsAtOnce * kWord) == 0;
      if (m.panels == nullptr && x.count <= kFewTokens<A> && fits) {
        for (; row + kRowsAtOnce <= w.end; row += kRowsAtOnce) {
          for (std::size_t begin = 0; begin < words; begin += kPerBlock) {
            const std::size_t count = std::min(kPerBlock, words - begin);
            const std::byte* group = m.stored.values + row * bytes;
            StoredRows rows{group + begin * kWord, bytes, count,
                            group + kRowsAtOnce * (bytes + begin * kWord), nullptr};
            if constexpr (kScaled) {
              rows.scales = stored_scales<A, S>(m, row, kRowsAtOnce, begin, count, scratch);
            }
            multiply_rows<A, Words, kScaleGroup<S>>(x.count, y + (row - w.begin), y_stride, rows,
                                                    x.data + begin * token_bytes, x.stride,
                                                    begin == 0);
          }
        }
      }
    }
#endif
    while (row < w.end) {
      const std::size_t first = row / m.panel_rows * m.panel_rows;
      const std::size_t height = std::min(m.panel_rows, m.stored.rows - first);
      const std::size_t wanted = std::min(w.end, first + height) - row;
      for (std::size_t begin = 0; begin < words; begin += kPerBlock) {
        const std::size_t count = std::min(kPerBlock, words - begin);
        Block block = stored_block<A, S>(m, first, height, begin, count, scratch);
        block.skip = row - first;
        block.wanted = wanted;
        const std::byte* next = block.words + count * block.stride;
        const bool more = m.panels != nullptr && (row + wanted < w.end || begin + count < words);
        if constexpr (kExpand) block = expanded<A, typename Stored::Expander>(block, scratch);
        multiply_block<A, Words, kScaled>(y + (row - w.begin), y_stride, block,
                                          x.data + begin * token_bytes, x.stride, x.count,
                                          begin == 0, next, more ? count * height * kWord / 64 : 0);
      }
      row += wanted;
    }
  });
}
template <class A>
inline void linear(float* y, std::size_t y_stride, const RowRange& w, const Tokens& x,
                   LinearScratch& scratch) {
  Storages::with(w.matrix->stored.dtype, [&](auto storage) {
    linear_of<A, decltype(storage)>(y, y_stride, w, x, scratch);
  });
}
///@}

}  // namespace ds4::inline v0_1::simd
