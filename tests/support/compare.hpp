// The one comparison of numbers in the tests.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

namespace ds4::test {

/// Checks |got - expected| <= atol + rtol * |expected| for every element; a NaN or a difference in
/// size fails. Reports the name, the worst element and how many are off. Returns the largest error.
template <class T, class U>
double check_close(std::string_view name, std::span<const T> got, std::span<const U> expected,
                   double atol, double rtol = 0.0) {
  INFO(std::string(name));
  REQUIRE(got.size() == expected.size());
  std::size_t off = 0;
  std::size_t worst = 0;
  double largest = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double want = static_cast<double>(expected[i]);
    const double error = std::abs(static_cast<double>(got[i]) - want);
    if (!(error <= atol + rtol * std::abs(want))) ++off;
    if (!(error <= largest)) {
      largest = error;
      worst = i;
    }
  }
  if (off > 0) {
    FAIL_CHECK(name << ": " << off << " of " << got.size() << " elements off; worst [" << worst
                    << "]: got " << got[worst] << ", expected " << expected[worst]);
  }
  CHECK(off == 0);
  return largest;
}

/// Standard deviation of the values, the unit in which errors of logits are stated.
template <class T>
double standard_deviation(std::span<const T> values) {
  double sum = 0.0;
  double squares = 0.0;
  for (const T value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const double n = static_cast<double>(values.size());
  return std::sqrt(squares / n - (sum / n) * (sum / n));
}

}  // namespace ds4::test
