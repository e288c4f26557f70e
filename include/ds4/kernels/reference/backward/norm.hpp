// Reference kernel: gradients of the RMS norm.
#pragma once

#include <cmath>
#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::reference {

/// Of y = weight * x / sqrt(mean(x^2) + eps) for `rows` rows of n values: dx += and, where there is
/// a weight, dweight +=. weight and dweight may be null. Source: model.md 14.2.
template <class T>
void rms_norm_backward(T* dx, T* dweight, const T* dy, const T* x, const T* weight,
                       std::size_t rows, std::size_t n, T eps) {
  for (std::size_t i = 0; i < rows; ++i, x += n, dx += n, dy += n) {
    T sum = 0;
    for (std::size_t c = 0; c < n; ++c) sum += x[c] * x[c];
    const T scale = T(1) / std::sqrt(sum / static_cast<T>(n) + eps);
    T dot = 0;  // of the gradient behind the weight with x
    for (std::size_t c = 0; c < n; ++c) dot += dy[c] * (weight ? weight[c] : T(1)) * x[c];
    const T along = dot * scale * scale * scale / static_cast<T>(n);
    for (std::size_t c = 0; c < n; ++c) {
      dx[c] += dy[c] * (weight ? weight[c] : T(1)) * scale - along * x[c];
      if (dweight) dweight[c] += dy[c] * x[c] * scale;
    }
  }
}

}  // namespace ds4::inline v0_1::reference
