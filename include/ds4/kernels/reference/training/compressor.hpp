// Training by the reference path: the compressors' pooling.
#pragma once

#include <cstddef>
#include <vector>

#include <ds4/kernels/reference/backward/compressor.hpp>
#include <ds4/kernels/reference/compressor.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::reference::training {

/// Pooling; see ReferenceTraining.
template <class T>
class CompressorOperations {
 public:
  ///@{
  /// Entries [count, width] from projections [tokens, P] of a sequence and ape [ratio, P], P being
  /// width, or twice that where windows overlap; neither normed nor rotated.
  static void pool_entries(T* entries, const T* kv, const T* gate, const T* ape,
                           const PoolShape& shape) {
    std::vector<PoolSlot> slots;
    for (std::size_t w = 0; w < shape.count; ++w) {
      fill_slots(slots, w, kv, gate, ape, shape);
      reference::pool(entries + w * shape.width, slots, shape.width);
    }
  }
  static void pool_entries_backward(T* dkv, T* dgate, T* dape, const T* dentries, const T* kv,
                                    const T* gate, const T* ape, const PoolShape& shape) {
    std::vector<PoolSlot> slots;
    std::vector<reference::PoolSlotGradient<T>> gradients;
    for (std::size_t w = 0; w < shape.count; ++w) {
      fill_slots(slots, w, kv, gate, ape, shape);
      gradients.clear();
      for (const PoolSlot& slot : slots) {
        gradients.push_back(
            {dkv + (slot.kv - kv), dgate + (slot.gate - gate), dape + (slot.ape - ape)});
      }
      reference::pool_backward(gradients, dentries + w * shape.width, slots, shape.width);
    }
  }
  ///@}

 private:
  using PoolSlot = reference::PoolSlot<T>;

  static void fill_slots(std::vector<PoolSlot>& slots, std::size_t w, const T* kv, const T* gate,
                         const T* ape, const PoolShape& shape) {
    const std::size_t m = shape.ratio;
    const std::size_t width = shape.overlapping ? 2 * shape.width : shape.width;
    const auto slot = [&](std::size_t token, std::size_t j, std::size_t half) {
      const std::size_t at = token * width + half;
      slots.push_back({kv + at, gate + at, ape + j * width + half});
    };
    slots.clear();
    for (std::size_t j = 0; shape.overlapping && w > 0 && j < m; ++j) slot((w - 1) * m + j, j, 0);
    const std::size_t own = shape.overlapping ? shape.width : 0;
    for (std::size_t j = 0; j < m; ++j) slot(w * m + j, j, own);
  }
};

}  // namespace ds4::inline v0_1::reference::training
