// Reference kernel: the clamped SwiGLU activation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace ds4::inline v0_1::reference {

/// gate[i] <- silu(min(gate[i], limit)) * clamp(up[i], -limit, limit): the gate is clamped from
/// above only. Source: model.md 6.2.
template <class T>
void swiglu(T* gate, const T* up, std::size_t n, T limit) {
  for (std::size_t i = 0; i < n; ++i) {
    const T g = std::min(gate[i], limit);
    gate[i] = g / (T(1) + std::exp(-g)) * std::clamp(up[i], -limit, limit);
  }
}

}  // namespace ds4::inline v0_1::reference
