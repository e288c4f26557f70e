// Attention of a pass's queries over the keys of their sequences.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/config/config.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/attention.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1::kokkos {

/// Attention, as in ds4::ops.
template <class Space>
class AttentionOperations {
 public:
  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<Element, H, d> out, RowsView<const Element, H, d> q,
              const Constants<Space, float, H>& sink, RowsView<const Index, TopK> picks,
              std::span<const Segment> segments, std::span<const Source> sources) {
    constexpr int kHeads = static_cast<int>(std::min<std::size_t>(H, 8));
    constexpr int kFewHeads = std::min(kHeads, 2);
    const std::int32_t* chosen = Kind == AttentionKind::csa ? raw(picks) : nullptr;
    const auto with = [&]<int Heads, bool Bf16>(std::size_t begin, std::size_t count) {
      attend_with<Heads, Bf16>(out, q, sink, chosen, static_cast<int>(TopK),
                               segments.subspan(begin, count), sources.subspan(begin, count),
                               static_cast<int>(W), static_cast<int>(Ratio));
    };
    // Teams that the space can run at the same time, roughly.
    const std::size_t threads = backend_of(this).threads();
    const std::size_t processors = kOnHost<Space> ? threads : threads / 1024;
    // Few queries: teams of fewer heads, so that there is one for every processor.
    const std::size_t teams = q.extent(0) * ((H + kHeads - 1) / kHeads);
    const bool few = teams < processors;
    for (std::size_t begin = 0, end = 0; begin < segments.size(); begin = end) {
      // Sequences whose rows are of one type.
      const DType dtype = sources[begin].window->dtype();
      while (end < segments.size() && sources[end].window->dtype() == dtype) ++end;
      const std::size_t n = end - begin;
      if (dtype == DType::bf16) {
        few ? with.template operator()<kFewHeads, true>(begin, n)
            : with.template operator()<kHeads, true>(begin, n);
      } else {
        few ? with.template operator()<kFewHeads, false>(begin, n)
            : with.template operator()<kHeads, false>(begin, n);
      }
    }
  }

 private:
  template <int Heads, bool Bf16, std::size_t H, std::size_t d, class Source>
  void attend_with(RowsView<Element, H, d> out, RowsView<const Element, H, d> q,
                   const Constants<Space, float, H>& sink, const std::int32_t* picks, int top_k,
                   std::span<const Segment> segments, std::span<const Source> sources, int W,
                   int ratio) {
    using Kernel = Attend<Space, static_cast<int>(d), Heads, Bf16>;
    const auto blocks = static_cast<std::size_t>(Kernel::head_blocks(static_cast<int>(H)));
    for (std::size_t i = 0; i < segments.size(); i += kSequences) {
      const std::size_t end = std::min(segments.size(), i + kSequences);
      Kernel kernel{raw(out),
                    raw(q),
                    raw(sink.data()),
                    picks,
                    top_k,
                    {},
                    static_cast<int>(segments[i].first),
                    static_cast<int>(H),
                    W,
                    ratio};
      std::size_t queries = 0;
      double keys = 0;  // that all queries see
      double rows = 0;  // that some query sees
      for (std::size_t j = i; j < end; ++j) {
        const Segment& segment = segments[j];
        const std::size_t last = segment.position + segment.count;
        kernel.sequences[j - i] = {sources[j].window->data(),
                                   sources[j].entries ? sources[j].entries->data() : nullptr,
                                   static_cast<std::uint32_t>(sources[j].window->first()),
                                   static_cast<std::uint32_t>(segment.position),
                                   static_cast<std::uint32_t>(segment.first),
                                   static_cast<std::uint32_t>(segment.count),
                                   segment.block};
        queries += segment.count;
        const std::size_t entries = ratio == 0 ? 0 : last / static_cast<std::size_t>(ratio);
        const std::size_t seen =
            std::min(last, static_cast<std::size_t>(W) + (segment.block ? segment.count : 0)) +
            (picks == nullptr ? entries : std::min(entries, static_cast<std::size_t>(top_k)));
        keys += static_cast<double>(segment.count * seen);
        rows += static_cast<double>(segment.count + seen);
      }
      const Cost cost{rows * d * (Bf16 ? 2 : 4) + 8.0 * static_cast<double>(queries * H * d),
                      4.0 * keys * H * d};
      backend_of(this).launch("ds4::attend", cost, queries * blocks, kTeam, Kernel::scratch(),
                              kernel);
    }
  }
};

}  // namespace ds4::inline v0_1::kokkos
