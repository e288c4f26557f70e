// Reference kernels: softmax-gated pooling of a window of tokens to one compressed entry.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace ds4::inline v0_1::reference {

/// One slot of a window: a token's projection, its gate and the position bias that belongs to it.
template <class T>
struct PoolSlot {
  const T* kv;
  const T* gate;
  const T* ape;
};

/// out[c] = sum over slots of softmax(gate + ape)[c] * kv[c], the softmax per channel c < d.
/// Source: model.md 5.1.
template <class T>
void pool(T* out, const std::vector<PoolSlot<T>>& slots, std::size_t d) {
  for (std::size_t c = 0; c < d; ++c) {
    T top = slots[0].gate[c] + slots[0].ape[c];
    for (const auto& slot : slots) top = std::max(top, slot.gate[c] + slot.ape[c]);
    T sum = 0;
    T weighted = 0;
    for (const auto& slot : slots) {
      const T p = std::exp(slot.gate[c] + slot.ape[c] - top);
      sum += p;
      weighted += p * slot.kv[c];
    }
    out[c] = weighted / sum;
  }
}

/// Entry `w` of HCA: the m tokens of its own window. kv(t), gate(t) give token t's row [d], ape is
/// [m, d]. Source: model.md 5.1; paper 2.3.2.
template <class T, class Kv, class Gate>
void pool_window(T* out, std::size_t w, std::size_t m, std::size_t d, const T* ape, Kv&& kv,
                 Gate&& gate) {
  std::vector<PoolSlot<T>> slots;
  slots.reserve(m);
  for (std::size_t j = 0; j < m; ++j) {
    slots.push_back({kv(w * m + j), gate(w * m + j), ape + j * d});
  }
  pool(out, slots, d);
}

/// Entry `w` of CSA: 2m slots, the first halves (Ca) of window w - 1, then the second halves (Cb)
/// of window w. Rows and ape are 2d wide; window 0 has no Ca slots. Source: model.md 5.2.
template <class T, class Kv, class Gate>
void pool_overlapping(T* out, std::size_t w, std::size_t m, std::size_t d, const T* ape, Kv&& kv,
                      Gate&& gate) {
  std::vector<PoolSlot<T>> slots;
  slots.reserve(2 * m);
  for (std::size_t j = 0; w > 0 && j < m; ++j) {
    slots.push_back({kv((w - 1) * m + j), gate((w - 1) * m + j), ape + j * 2 * d});
  }
  for (std::size_t j = 0; j < m; ++j) {
    slots.push_back({kv(w * m + j) + d, gate(w * m + j) + d, ape + j * 2 * d + d});
  }
  pool(out, slots, d);
}

}  // namespace ds4::inline v0_1::reference
