// What operations cost, and the parts of the model that costs are stated for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Parts of the model whose costs are stated apart.
enum class Component : std::uint8_t { attention, indexer, experts, hyper_connections, head, rest };
/// How many there are.
inline constexpr std::size_t kComponents = 6;

/// What an operation, or its way back, costs: two operations to a product and sum, and of all else
/// a few to a value, where a root or an exponential is one.
struct OperationCost {
  std::size_t elementwise = 0;            ///< operations that are not products'
  std::size_t products = 0;               ///< operations of products with weights or with keys
  const void* weight = nullptr;           ///< the weight that is multiplied with or looked up, or
  Component component = Component::rest;  ///< without one, what the products are part of
};

namespace detail {

/// The sum over i = 1 .. n of min(i / ratio, most).
constexpr std::size_t sum_of_entries(std::size_t n, std::size_t ratio, std::size_t most) {
  const std::size_t rising = std::min(n, ratio * most);
  const std::size_t whole = rising / ratio;  // 0 takes all that follows to 0
  const std::size_t rest = rising % ratio;
  return ratio * (whole * (whole - 1) / 2) + whole * (rest + 1) + (n - rising) * most;
}

}  // namespace detail

}  // namespace ds4::inline v0_1
