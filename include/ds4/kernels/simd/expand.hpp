// Words of weights in the form in which many tokens are multiplied with them. A panel's block is
// expanded into the first-level cache and multiplied from there, so memory delivers the packed form
// and nothing else.
#pragma once

#include <cstddef>
#include <cstring>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/words.hpp>

namespace ds4::inline v0_1::simd {

/// Words [words][kPanelRows], `in_stride` bytes from one to the next, as the rows of their steps:
/// Words::kSteps times as many words, kPanelRows * kWord bytes from one to the next. Reads up to
/// kPanelSlack behind the end.
template <class A, class Words>
inline void expand_words(std::byte* out, const std::byte* in, std::size_t in_stride,
                         std::size_t words) {
  constexpr std::size_t kStride = kPanelRows * kWord;
  for (std::size_t w = 0; w < words; ++w, in += in_stride, out += Words::kSteps * kStride) {
    DS4_UNROLL for (std::size_t v = 0; v < kStride; v += kLanes<A> * kWord) {
      const typename Words::Word word = Words::load(in + v);
      for_each_step<A, Words::kSteps>([&](auto step) {
        const typename Words::Rows rows = Words::template rows<step>(word);
        std::memcpy(out + step * kStride + v, &rows, sizeof rows);
      });
    }
  }
}

}  // namespace ds4::inline v0_1::simd
