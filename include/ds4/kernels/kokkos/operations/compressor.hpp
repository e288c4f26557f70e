// The compressors: softmax-gated pooling of windows of tokens. The equations are those of
// kernels/reference/compressor.hpp.
#pragma once

#include <cstddef>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/logs.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// entries[j, :] of the windows first, first + 1, ...; a team per entry, a channel per thread. kv
/// and gate are rows [Projected] of the tokens from `row` on, ape [Ratio, Projected]. Overlapping:
/// the first halves of window w - 1, then the second halves of window w; window 0 has no first
/// halves.
template <class Space, int Ratio, bool Overlapping>
struct PoolEntries {
  float* entries;
  const float* kv;
  const float* gate;
  const float* ape;
  std::size_t kv_row;    ///< the token of kv's first row
  std::size_t gate_row;  ///< and of gate's
  std::size_t first;
  int width;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t w = first + static_cast<std::size_t>(team.league_rank());
    const std::size_t d = static_cast<std::size_t>(width);
    const std::size_t projected = Overlapping ? 2 * d : d;
    const bool before = Overlapping && w > 0;
    const std::size_t token = before ? (w - 1) * Ratio : w * Ratio;
    const float* kvs = kv + (token - kv_row) * projected;
    const float* gates = gate + (token - gate_row) * projected;
    float* out = entries + static_cast<std::size_t>(team.league_rank()) * d;
    const int slots = before ? 2 * Ratio : Ratio;
    for_each(team, width, [&](int c) {
      // Where slot i is: the tokens lie one behind the other, the halves differ.
      const auto half = [&](int i) {
        return static_cast<std::size_t>(c) + (Overlapping && (!before || i >= Ratio) ? d : 0);
      };
      const auto logit = [&](int i) {
        return gates[static_cast<std::size_t>(i) * projected + half(i)] +
               ape[static_cast<std::size_t>(i % Ratio) * projected + half(i)];
      };
      float top = logit(0);
      for (int i = 1; i < slots; ++i) top = max_of(top, logit(i));
      float sum = 0.0f;
      float weighted = 0.0f;
      for (int i = 0; i < slots; ++i) {
        const float p = exp_of(logit(i) - top);
        sum += p;
        weighted += p * kvs[static_cast<std::size_t>(i) * projected + half(i)];
      }
      out[c] = weighted / sum;
    });
  }
};

/// Pooling of windows, as in ds4::ops.
template <class Space>
class CompressorOperations {
 public:
  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<Element, Width> entries, std::size_t first,
                    const RowLog<Space, Projected>& kv, const RowLog<Space, Projected>& gate,
                    const Constants<Space, float, Ratio, Projected>& ape) {
    backend_of(this).launch("ds4::pool_entries",
                            moves(entries.size() * (2 * Ratio * Projected / Width + 1)),
                            entries.extent(0), kTeam, 0,
                            PoolEntries<Space, static_cast<int>(Ratio), Overlapping>{
                                raw(entries), reinterpret_cast<const float*>(kv.data()),
                                reinterpret_cast<const float*>(gate.data()), raw(ape.data()),
                                kv.first(), gate.first(), first, static_cast<int>(Width)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
