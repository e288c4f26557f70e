// Reference kernel: RMS norm.
#pragma once

#include <cmath>
#include <cstddef>

namespace ds4::inline v0_1::reference {

/// y[i, :] = weight * x[i, :] / sqrt(mean(x[i, :]^2) + eps) for `rows` rows of n values; a null
/// weight is the unweighted form. y may be x. Source: model.md 2.1.
template <class T>
void rms_norm(T* y, const T* x, const T* weight, std::size_t rows, std::size_t n, T eps) {
  for (std::size_t i = 0; i < rows; ++i, x += n, y += n) {
    T sum = 0;
    for (std::size_t c = 0; c < n; ++c) sum += x[c] * x[c];
    const T scale = T(1) / std::sqrt(sum / static_cast<T>(n) + eps);
    for (std::size_t c = 0; c < n; ++c)
      y[c] = x[c] * scale * (weight != nullptr ? weight[c] : T(1));
  }
}

}  // namespace ds4::inline v0_1::reference
