// The compressors' pooling: each lane takes its share of the entries.
#pragma once

#include <array>
#include <cstddef>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/logs.hpp>

namespace ds4::inline v0_1::simd {

/// The operation of the compressors. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class CompressorOperations {
 public:
  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<float, Width> entries, std::size_t first, const TailLog<Projected>& kv,
                    const TailLog<Projected>& gate, const Tensor<float, Ratio, Projected>& ape) {
    constexpr std::size_t kSlots = Overlapping ? 2 * Ratio : Ratio;
    lane().for_each(entries.extent(0), [&](std::size_t j) {
      std::array<const float*, kSlots> kvs;
      std::array<const float*, kSlots> gates;
      std::array<const float*, kSlots> apes;
      const std::size_t w = first + j;
      std::size_t slots = 0;
      const auto add = [&](std::size_t window, std::size_t offset) {
        for (std::size_t i = 0; i < Ratio; ++i, ++slots) {
          kvs[slots] = kv.row(window * Ratio + i) + offset;
          gates[slots] = gate.row(window * Ratio + i) + offset;
          apes[slots] = ape[i].data() + offset;
        }
      };
      if constexpr (Overlapping) {
        if (w > 0) add(w - 1, 0);
        add(w, Width);
      } else {
        add(w, 0);
      }
      lane().kernels().pool(entries[j].data(), kvs.data(), gates.data(), apes.data(), slots, Width);
    });
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::simd
