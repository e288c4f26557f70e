// The weights that a model starts training from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/core/random_stream.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

/// Random weights, a function of the seed: matrices of this standard deviation; norms and the mHC
/// scales 1; sinks and all biases 0. Hash tables name random experts, each of a token's once.
/// Source: model.md 18.
template <class T>
void initialise(TrainedWeights<T>& weights, std::uint64_t seed, double deviation = 0.02) {
  for (TrainedWeight<T>& weight : weights.list()) {
    const std::string_view name = weight.name;
    const bool ones = name.ends_with("norm.weight") || name.ends_with("_scale");
    const bool zeros = weight.shape.size() == 1 || name.ends_with("ape");
    if (ones || zeros) {
      std::ranges::fill(weight.values, ones ? T(1) : T(0));
      continue;
    }
    detail::RandomStream random(seed, name);
    float normal[4];
    for (std::size_t i = 0; i < weight.values.size(); ++i) {
      if (i % 4 == 0) random.normal(normal);
      weight.values[i] = static_cast<T>(deviation * static_cast<double>(normal[i % 4]));
    }
  }
  for (const auto& table : weights.tables()) {
    detail::RandomStream random(seed, table.name);
    const std::size_t k = table.picks.size() / table.rows;
    std::vector<std::int32_t> experts(table.experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (std::size_t row = 0; row < table.rows; ++row) {
      detail::draw(random, std::span(experts), k);
      std::copy_n(experts.begin(), k, table.picks.begin() + static_cast<std::ptrdiff_t>(row * k));
    }
  }
}

}  // namespace ds4::inline v0_1
