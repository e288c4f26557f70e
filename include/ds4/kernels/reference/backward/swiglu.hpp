// Reference kernel: gradients of the clamped SwiGLU activation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::reference {

/// Of y = silu(min(gate, limit)) * clamp(up, -limit, limit) for n values: dgate += and dup +=. What
/// is clamped has no gradient; what lies at a limit has. Source: model.md 14.6.
template <class T>
void swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, std::size_t n,
                     T limit) {
  for (std::size_t i = 0; i < n; ++i) {
    const T g = std::min(gate[i], limit);
    const T sigmoid = T(1) / (T(1) + std::exp(-g));
    const T silu = g * sigmoid;
    if (gate[i] <= limit) {
      const T slope = sigmoid + silu * (T(1) - sigmoid);
      dgate[i] += dy[i] * slope * std::clamp(up[i], -limit, limit);
    }
    if (up[i] >= -limit && up[i] <= limit) dup[i] += dy[i] * silu;
  }
}

}  // namespace ds4::inline v0_1::reference
