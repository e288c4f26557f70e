// Results that are no numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

namespace ds4::cli {

/// "" if all values are finite, else e.g. "NaN in 12 of 256 values"; infinities are named where
/// there is no NaN.
inline std::string not_finite(std::span<const float> values) {
  const auto is_nan = [](float value) { return std::isnan(value); };
  const auto is_infinite = [](float value) { return std::isinf(value); };
  const auto nans = std::ranges::count_if(values, is_nan);
  const auto count = nans > 0 ? nans : std::ranges::count_if(values, is_infinite);
  if (count == 0) return "";
  return std::string(nans > 0 ? "NaN" : "infinity") + " in " + std::to_string(count) + " of " +
         std::to_string(values.size()) + " values";
}

}  // namespace ds4::cli
