// Reference kernel: rotary embedding.
#pragma once

#include <cmath>
#include <cstddef>

namespace ds4::inline v0_1::reference {

/// Tables of the cosine and sine of position * inv_freq, [S, pairs], for the positions first,
/// first + step, ... Angles in float64.
template <class T>
void rotary_table(T* cos, T* sin, std::size_t first, std::size_t step, std::size_t S,
                  const double* inv_freq, std::size_t pairs) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(first + s * step) * inv_freq[i];
      cos[s * pairs + i] = static_cast<T>(std::cos(angle));
      sin[s * pairs + i] = static_cast<T>(std::sin(angle));
    }
  }
}

/// Rotates the last 2 * pairs of each of the `heads` heads of d values of every token, in place, as
/// interleaved pairs; `inverse` rotates back. Source: model.md 4.1.
template <class T>
void rotate(T* x, const T* cos, const T* sin, std::size_t S, std::size_t heads, std::size_t d,
            std::size_t pairs, bool inverse) {
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t h = 0; h < heads; ++h) {
      T* pair = x + (s * heads + h) * d + (d - 2 * pairs);
      for (std::size_t i = 0; i < pairs; ++i, pair += 2) {
        const T c = cos[s * pairs + i];
        const T sn = inverse ? -sin[s * pairs + i] : sin[s * pairs + i];
        const T even = pair[0];
        const T odd = pair[1];
        pair[0] = even * c - odd * sn;
        pair[1] = odd * c + even * sn;
      }
    }
  }
}

}  // namespace ds4::inline v0_1::reference
