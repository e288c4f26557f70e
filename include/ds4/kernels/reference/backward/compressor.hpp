// Reference kernel: gradients of the softmax-gated pooling of a window.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <ds4/kernels/reference/compressor.hpp>

namespace ds4::inline v0_1::reference {

/// Where the gradients of a PoolSlot go.
template <class T>
struct PoolSlotGradient {
  T* kv;
  T* gate;
  T* ape;
};

/// Of `pool`: from dout [d] to the gradients of every slot, +=. A token's projections have slots in
/// its own window and, where windows overlap, in the next one; both add to its gradient. Source:
/// model.md 14.5.
template <class T>
void pool_backward(const std::vector<PoolSlotGradient<T>>& gradients, const T* dout,
                   const std::vector<PoolSlot<T>>& slots, std::size_t d) {
  std::vector<T> p(slots.size());
  for (std::size_t c = 0; c < d; ++c) {
    T top = slots[0].gate[c] + slots[0].ape[c];
    for (const auto& slot : slots) top = std::max(top, slot.gate[c] + slot.ape[c]);
    T sum = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      sum += p[i] = std::exp(slots[i].gate[c] + slots[i].ape[c] - top);
    }
    T out = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      p[i] /= sum;
      out += p[i] * slots[i].kv[c];
    }
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const T gate = dout[c] * p[i] * (slots[i].kv[c] - out);
      gradients[i].kv[c] += dout[c] * p[i];
      gradients[i].gate[c] += gate;
      gradients[i].ape[c] += gate;
    }
  }
}

}  // namespace ds4::inline v0_1::reference
