// Attention: lanes share the queries and, where they are few, their heads.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/simd/attention.hpp>
#include <ds4/kernels/simd/scratch.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// The operation of attention. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class AttentionOperations {
 public:
  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<float, H, d> out, RowsView<const float, H, d> q,
              const Tensor<float, H>& sink, RowsView<const std::int32_t, TopK> picks,
              std::span<const Segment> segments, std::span<const Source> sources) {
    attend_heads<Kind, Ratio, W>(out, q, sink, picks, segments, sources, 0, H);
  }
  /// The same for the heads from `first_head` on, `heads` of them.
  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend_heads(RowsView<float, H, d> out, RowsView<const float, H, d> q,
                    const Tensor<float, H>& sink, RowsView<const std::int32_t, TopK> picks,
                    std::span<const Segment> segments, std::span<const Source> sources,
                    std::size_t first_head, std::size_t heads) {
    constexpr std::size_t kPadded = (d + 2 * kMaxLanes - 1) / (2 * kMaxLanes) * (2 * kMaxLanes);
    const std::size_t S = q.extent(0);
    // The work is cut into (token, group of heads) pairs; a few tokens' groups are small enough
    // that every lane has one.
    const std::size_t group =
        std::clamp<std::size_t>(S * heads / lane().lanes(), 1, std::min(H, kHeadGroup));
    const std::size_t groups = (heads + group - 1) / group;
    const auto mine = lane().part(S * groups, 1);
    Scratch memory = lane().scratch();
    std::size_t longest = 0;
    std::size_t block = 0;
    for (const Segment& segment : segments) {
      longest = std::max(longest, segment.position + segment.count);
      if (segment.block) block = std::max(block, segment.count);
    }
    const std::size_t most = W + block +
                             (Kind == AttentionKind::hca ? longest / std::max<std::size_t>(Ratio, 1)
                              : Kind == AttentionKind::csa ? TopK
                                                           : 0);
    const auto keys = memory.own<const std::byte*>(most);
    const AttentionScratch scratch{memory.own<float>(kHeadGroup * kKeyTile),
                                   memory.own<float>(H * kPadded), memory.own<float>(H),
                                   memory.own<float>(H),
                                   memory.own<std::byte>(H * kPadded * sizeof(float))};

    for (std::size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      const bool bf16 = sources[i].window->bf16();
      assert(sources[i].entries == nullptr || sources[i].entries->bf16() == bf16);
      const std::size_t begin = std::max(mine.begin, segment.first * groups);
      const std::size_t end = std::min(mine.end, (segment.first + segment.count) * groups);
      for (std::size_t item = begin; item < end;) {
        const std::size_t s = item / groups;
        const std::size_t next = std::min(end, (s + 1) * groups);
        [[maybe_unused]] const std::size_t t = segment.position + (s - segment.first);
        std::size_t count = 0;
        const Segment::Window seen = segment.window(s, W);
        for (std::size_t p = seen.begin; p < seen.end; ++p) {
          keys[count++] = sources[i].window->row(p);
        }
        if constexpr (Kind == AttentionKind::hca) {
          for (std::size_t w = 0; w < (t + 1) / Ratio; ++w) {
            keys[count++] = sources[i].entries->row(w);
          }
        } else if constexpr (Kind == AttentionKind::csa) {
          for (const std::int32_t w : picks[s].flat()) {
            if (w >= 0) keys[count++] = sources[i].entries->row(static_cast<std::size_t>(w));
          }
        }
        const std::size_t head = first_head + item % groups * group;
        const std::size_t last = first_head + std::min(heads, (next - s * groups) * group);
        lane().kernels().attend(out[s][head].data(), q[s][head].data(), sink.data() + head, keys,
                                count, last - head, d, bf16, lane().exact(), scratch);
        item = next;
      }
    }
    lane().wait_for_all();
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::simd
