// Rotary embedding: the two frequency tables, YaRN on the compress one.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>

#include <ds4/config/config.hpp>

namespace ds4::inline v0_1 {

/// Rotation per position of pair i, radians: theta^(-2i/r), interpolated by YaRN where `scaling`
/// has a factor above 1. Kept in float64: an angle is position * inv_freq, and float32 is off by
/// 2.5e-2 rad at position 1,048,575. Source: model.md 4.2 and 4.3.
template <std::size_t r>
std::array<double, r / 2> rotary_frequencies(double theta, const RopeScaling& scaling = {}) {
  std::array<double, r / 2> inv_freq{};
  for (std::size_t i = 0; i < r / 2; ++i) {
    inv_freq[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(r));
  }
  if (scaling.factor <= 1.0) return inv_freq;

  // The pair that turns `beta` times within the original context.
  const auto correction = [&](double beta) {
    return static_cast<double>(r) *
           std::log(scaling.original_max_position_embeddings / (beta * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(theta));
  };
  const double last = static_cast<double>(r) - 1.0;
  const double low = std::max(std::floor(correction(scaling.beta_fast)), 0.0);
  const double high = std::min(std::ceil(correction(scaling.beta_slow)), last);
  const double span = high == low ? 0.001 : high - low;  // the reference's guard
  for (std::size_t i = 0; i < r / 2; ++i) {
    const double g = 1.0 - std::clamp((static_cast<double>(i) - low) / span, 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / scaling.factor * (1.0 - g) + inv_freq[i] * g;
  }
  return inv_freq;
}

/// The frequencies of a layer: rope_theta, unscaled, for sliding layers; compress_rope_theta with
/// YaRN for everything in CSA and HCA layers. Source: model.md 4.2.
template <ModelConfig C>
std::array<double, C::qk_rope_head_dim / 2> rotary_frequencies(AttentionKind kind) {
  constexpr std::size_t r = C::qk_rope_head_dim;
  return kind == AttentionKind::sliding
             ? rotary_frequencies<r>(C::rope_theta)
             : rotary_frequencies<r>(C::compress_rope_theta, C::rope_scaling);
}

}  // namespace ds4::inline v0_1
