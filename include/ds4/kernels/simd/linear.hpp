// Linear layers: rows of a weight, block by block, against the tokens of a pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/simd/expand.hpp>
#include <ds4/kernels/simd/in_place.hpp>
#include <ds4/kernels/simd/panel.hpp>

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

/// Whether rows of this storage are multiplied as BF16; the others as float32.
template <class A>
inline bool multiplied_as_bf16(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f8_e4m3 || dtype == DType::i8;
}

/// The layout for rows of this storage. `exact` keeps activations in float32.
template <class A>
inline Layout layout_for([[maybe_unused]] DType dtype, [[maybe_unused]] bool exact) {
  const bool fp4 = dtype == DType::i8;
#ifdef DS4_HAVE_AVX512
  if (kLanes<A> == 16 && multiplied_as_bf16<A>(dtype) && !exact) {
    return fp4 ? Layout::bf16_fp4 : Layout::bf16;
  }
#endif
  return fp4 ? Layout::f32_fp4 : Layout::f32;
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

/// Bytes of a stored row.
template <class A>
inline std::size_t row_bytes(const StoredMatrix& matrix) {
  switch (matrix.dtype) {
    case DType::bf16:
    case DType::f16:
      return matrix.cols * 2;
    case DType::f8_e4m3:
      return matrix.cols;
    case DType::i8:
      return (matrix.cols + 1) / 2;
    default:
      return matrix.cols * 4;
  }
}

/// Bytes of a row of FP4's scales if they are codes that panels hold, else 0.
template <class A>
inline std::size_t scale_codes(const StoredMatrix& m) {
  const bool packed = m.dtype == DType::i8 && m.scale_dtype == DType::f8_e8m0;
  return packed ? (m.cols + StoredMatrix::kFp4Block - 1) / StoredMatrix::kFp4Block : 0;
}

/// Bytes of a row in a panel.
template <class A>
inline std::size_t panel_row_bytes(const StoredMatrix& m) {
  return (words_of<A>(row_bytes<A>(m)) + words_of<A>(scale_codes<A>(m))) * kWord;
}

/// Bytes of the matrix in panels, the slack behind the last one included.
template <class A>
inline std::size_t panel_bytes(const StoredMatrix& m) {
  return m.rows * panel_row_bytes<A>(m) + kPanelSlack;
}

/// Writes the rows [begin, end) of a matrix in panels of panel_rows rows; the last one has what is
/// left. `out` is where the matrix begins, and `begin` begins a panel.
template <class A>
inline void store_in_panels(std::byte* out, const StoredMatrix& m, std::size_t panel_rows,
                            std::size_t begin, std::size_t end) {
  const std::size_t bytes = row_bytes<A>(m);
  const std::size_t codes = scale_codes<A>(m);
  for (std::size_t row = begin; row < end; row += panel_rows) {
    const std::size_t height = std::min(panel_rows, m.rows - row);
    std::byte* panel = out + row * panel_row_bytes<A>(m);
    pack_words<A>(panel, height * kWord, m.values + row * bytes, bytes, bytes, height);
    pack_words<A>(panel + words_of<A>(bytes) * height * kWord, height * kWord,
                  m.scales + row * codes, codes, codes, height);
  }
}

/// Scratch memory of one lane's products.
struct LinearScratch {
  alignas(64) std::byte words[kBlockWords * kPanelRows * kWord + kPanelSlack];
  alignas(64) std::byte packed[kBlockWords / 2 * kPanelRows * kWord + kPanelSlack];
  alignas(64) float scales[kBlockWords * 2 / StoredMatrix::kFp4Block * kPanelRows];
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
/// [groups][kPanelRows], one group for each FP8 or FP4 block of scales, NaN and all.
template <class A>
inline void expand_scales(float* out, const StoredMatrix& m, std::size_t first, std::size_t height,
                          std::size_t channel, std::size_t channels) {
  const bool fp4 = m.dtype == DType::i8;
  const std::size_t width = fp4 ? StoredMatrix::kFp4Block : StoredMatrix::kFp8Block;
  const std::size_t blocks = (m.cols + width - 1) / width;
  const std::size_t groups = (channels + width - 1) / width;
  for (std::size_t g = 0; g < groups; ++g) {
    float scale = 0.0f;
    for (std::size_t r = 0; r < height; ++r) {
      const std::size_t row = first + r;
      if (fp4 || r == 0 || row % StoredMatrix::kFp8Block == 0) {
        const std::size_t at =
            (fp4 ? row : row / StoredMatrix::kFp8Block) * blocks + channel / width + g;
        if (m.scale_dtype == DType::f8_e8m0) {
          scale = scale_of_code<A>(m.scales[at]);
        } else {
          std::memcpy(&scale, m.scales + at * sizeof(float), sizeof(float));
        }
      }
      out[g * kPanelRows + r] = scale;
    }
  }
}

/// The same from words of four codes, `stride` bytes from one to the next.
template <class A>
inline void expand_scale_codes(float* out, const std::byte* words, std::size_t stride,
                               std::size_t height, std::size_t groups) {
  for (std::size_t g = 0; g < groups; ++g, out += kPanelRows) {
    const std::byte* codes = words + g / kWord * stride;
#ifdef DS4_HAVE_AVX512
    if constexpr (kLanes<A> == 16) {
      for (std::size_t r = 0; r < height; r += 16) {
        const __m512i code =
            _mm512_and_si512(_mm512_srli_epi32(_mm512_loadu_si512(codes + r * kWord),
                                               static_cast<unsigned>(g % kWord * 8)),
                             _mm512_set1_epi32(0xff));
        __m512i bits = _mm512_slli_epi32(code, 23);
        bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(code, code),
                                     _mm512_set1_epi32(0x400000));
        bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(255)),
                                     _mm512_set1_epi32(0x7fc00000));
        _mm512_storeu_si512(out + r, bits);
      }
      continue;
    }
#endif
    for (std::size_t r = 0; r < height; ++r) {
      out[r] = scale_of_code<A>(codes[r * kWord + g % kWord]);
    }
  }
}

/// The rows [begin, end) of a weight.
struct RowRange {
  const ProductMatrix* matrix;
  std::size_t begin;
  std::size_t end;
};

/// Steps of BF16 or float32 words that a stored word takes.
template <class A>
inline std::size_t steps_of(DType dtype) {
  return dtype == DType::i8 ? 4 : dtype == DType::f8_e4m3 || dtype == DType::f16 ? 2 : 1;
}

/// The scales of the words [begin, begin + count) of the rows [first, first + height) as
/// [groups][kPanelRows], or null if the storage has none. A panel's words are asked for from first
/// to last.
template <class A>
inline const float* stored_scales(const ProductMatrix& m, std::size_t first, std::size_t height,
                                  std::size_t begin, std::size_t count, LinearScratch& scratch) {
  const StoredMatrix& stored = m.stored;
  const bool fp4 = stored.dtype == DType::i8;
  if (!fp4 && stored.dtype != DType::f8_e4m3) return nullptr;
  const std::size_t width = fp4 ? StoredMatrix::kFp4Block : StoredMatrix::kFp8Block;
  const std::size_t per_word = fp4 ? 8 : 4;
  const std::size_t channel = begin * per_word;
  const std::size_t channels = std::min(count * per_word, stored.cols - channel);
  const std::size_t codes = scale_codes<A>(stored);
  if (codes == 0) {
    expand_scales<A>(scratch.scales, stored, first, height, channel, channels);
    return scratch.scales;
  }
  const std::size_t group = channel / width;
  const std::size_t groups = (channels + width - 1) / width;
  const std::byte* words = nullptr;
  std::size_t stride = height * kWord;
  if (m.panels != nullptr) {
    words = m.panels + first * panel_row_bytes<A>(stored) +
            (words_of<A>(row_bytes<A>(stored)) + group / kWord) * stride;
  } else {
    constexpr std::size_t kCodes = kScaleWords * kWord;
    stride = kPanelRows * kWord;
    if (group % kCodes == 0) {  // these serve the next words too
      pack_words<A>(scratch.codes, stride, stored.scales + first * codes + group, codes,
                    std::min(kCodes, codes - group), height);
    }
    words = scratch.codes + group % kCodes / kWord * stride;
  }
  expand_scale_codes<A>(scratch.scales, words, stride, height, groups);
  return scratch.scales;
}

/// The words [begin, begin + count) of the rows [first, first + height) as they are stored, with
/// their scales; see stored_scales about the order.
template <class A>
inline Block stored_block(const ProductMatrix& m, std::size_t first, std::size_t height,
                          std::size_t begin, std::size_t count, LinearScratch& scratch) {
  const StoredMatrix& stored = m.stored;
  const std::size_t bytes = row_bytes<A>(stored);
  Block block{};
  block.count = count;
  block.height = height;
  if (m.panels != nullptr) {
    block.stride = height * kWord;
    block.words = m.panels + first * panel_row_bytes<A>(stored) + begin * block.stride;
  } else {
    std::byte* out = steps_of<A>(stored.dtype) == 1 ? scratch.words : scratch.packed;
    block.stride = kPanelRows * kWord;
    block.words = out;
    pack_words<A>(out, block.stride, stored.values + first * bytes + begin * kWord, bytes,
                  std::min(count * kWord, bytes - begin * kWord), height,
                  stored.values + (first + height) * bytes + begin * kWord * height);
  }
  block.scales = stored_scales<A>(m, first, height, begin, count, scratch);
  block.group = block.scales == nullptr     ? count
                : stored.dtype == DType::i8 ? StoredMatrix::kFp4Block / 8
                                            : StoredMatrix::kFp8Block / 4;
  return block;
}

/// The block with words that are multiplied in one step each.
template <class A>
inline Block expanded(Block block, DType dtype, LinearScratch& scratch) {
  constexpr std::size_t kStride = kPanelRows * kWord;
  const std::size_t steps = steps_of<A>(dtype);
  if (steps == 1) return block;
  if (dtype == DType::i8) {
    expand_fp4<A>(scratch.words, block.words, block.stride, block.count);
  } else if (dtype == DType::f8_e4m3) {
    expand_fp8<A>(scratch.words, block.words, block.stride, block.count);
  } else {
    for (std::size_t word = 0; word < block.count; ++word) {
      for (std::size_t i = 0; i < 2 * block.height; ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, block.words + word * block.stride + i * 2, sizeof bits);
        const float value = f16_to_float(bits);
        std::memcpy(scratch.words + (2 * word + i % 2) * kStride + i / 2 * kWord, &value, kWord);
      }
    }
  }
  block.words = scratch.words;
  block.stride = kStride;
  block.count *= steps;
  block.group *= steps;
  return block;
}

/// Tokens up to which packed rows are expanded in registers.
inline constexpr std::size_t kFewTokens = 4;

/// Calls f with the way to multiply rows of this storage; whether blocks are expanded for it; and
/// whether they have scales.
template <class A, class F>
inline void with_words(DType dtype, Layout layout, [[maybe_unused]] std::size_t tokens, F&& f) {
  constexpr std::false_type no;
  constexpr std::true_type yes;
  if (!multiplied_as_bf16<A>(dtype)) return f(F32Words<A>{}, yes, no);
  const auto with = [&](auto words) {
    const bool scaled = dtype != DType::bf16;
#ifdef DS4_HAVE_AVX512
    if constexpr (kLanes<A> == 16) {
      if (scaled && tokens <= kFewTokens) {
        if (dtype == DType::i8) return f(PackedWords<Fp4Codes, decltype(words)>{}, no, yes);
        return f(PackedWords<Fp8Codes, decltype(words)>{}, no, yes);
      }
    }
#endif
    if (scaled) return f(words, yes, yes);
    f(words, yes, no);
  };
#ifdef DS4_HAVE_AVX512
  if constexpr (kLanes<A> == 16) {
    if (value_bytes<A>(layout) == 2) return with(Bf16DotWords<A>{});
  }
#endif
  static_cast<void>(layout);
  with(Bf16Words<A>{});
}

/// y[s * y_stride + row - begin] = w[row] . x[s] for the rows of the range.
template <class A>
inline void linear(float* y, std::size_t y_stride, const RowRange& w, const Tokens& x,
                   LinearScratch& scratch) {
  const ProductMatrix& m = *w.matrix;
  const DType dtype = m.stored.dtype;
  const std::size_t bytes = row_bytes<A>(m.stored);
  const std::size_t words = words_of<A>(bytes);
  const std::size_t steps = steps_of<A>(dtype);
  const std::size_t per_block = kBlockWords / steps;
  const bool pairs = multiplied_as_bf16<A>(dtype) && value_bytes<A>(x.layout) == 4;
  const std::size_t token_bytes = steps * (pairs ? 8 : 4);  // of a token, per stored word
  with_words<A>(dtype, x.layout, x.count, [&](auto kind, auto expand, auto scaled) {
    using Words = decltype(kind);
    constexpr bool kScaled = decltype(scaled)::value;
    std::size_t row = w.begin;
#ifdef DS4_HAVE_AVX512
    if constexpr (kLanes<A> == 16 && decltype(expand)::value != kScaled) {
      const bool fits = bytes % (kRowsAtOnce * kWord) == 0 && dtype != DType::f16;
      if (m.panels == nullptr && x.count <= kFewTokens && fits) {
        for (; row + kRowsAtOnce <= w.end; row += kRowsAtOnce) {
          for (std::size_t begin = 0; begin < words; begin += per_block) {
            const std::size_t count = std::min(per_block, words - begin);
            const std::byte* group = m.stored.values + row * bytes;
            const StoredRows rows{group + begin * kWord, bytes, count,
                                  group + kRowsAtOnce * (bytes + begin * kWord),
                                  stored_scales<A>(m, row, kRowsAtOnce, begin, count, scratch)};
            multiply_rows<A, Words, kScaled>(x.count, y + (row - w.begin), y_stride, rows,
                                             x.data + begin * token_bytes, x.stride, begin == 0);
          }
        }
      }
    }
#endif
    while (row < w.end) {
      const std::size_t first = row / m.panel_rows * m.panel_rows;
      const std::size_t height = std::min(m.panel_rows, m.stored.rows - first);
      const std::size_t wanted = std::min(w.end, first + height) - row;
      for (std::size_t begin = 0; begin < words; begin += per_block) {
        const std::size_t count = std::min(per_block, words - begin);
        Block block = stored_block<A>(m, first, height, begin, count, scratch);
        block.skip = row - first;
        block.wanted = wanted;
        const std::byte* next = block.words + count * block.stride;
        const bool more = m.panels != nullptr && (row + wanted < w.end || begin + count < words);
        if constexpr (expand) block = expanded<A>(block, dtype, scratch);
        multiply_block<A, Words, kScaled>(y + (row - w.begin), y_stride, block,
                                          x.data + begin * token_bytes, x.stride, x.count,
                                          begin == 0, next, more ? count * height * kWord / 64 : 0);
      }
      row += wanted;
    }
  });
}

}  // namespace ds4::inline v0_1::simd
