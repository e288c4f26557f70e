// Rows of matrices by index.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::reference::training {

/// Row `index` of data [rows, width].
template <class U>
U* row(U* data, std::int32_t index, std::size_t width) {
  return data + static_cast<std::size_t>(index) * width;
}

/// y += x for n values.
template <class T>
void add(T* y, const T* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] += x[i];
}

}  // namespace ds4::inline v0_1::reference::training
