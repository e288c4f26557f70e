// The greatest of some values, as greedy choice has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// The index of the greatest value, the lowest of equals; -1 if there is a NaN or +infinity, or no
/// finite value.
template <class T>
std::int32_t index_of_greatest(std::span<const T> values) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  std::int32_t best = -1;
  T most = -kInfinity;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] < kInfinity)) return -1;  // NaN as well
    if (values[i] > most) {
      most = values[i];
      best = static_cast<std::int32_t>(i);
    }
  }
  return best;
}

}  // namespace ds4::inline v0_1
