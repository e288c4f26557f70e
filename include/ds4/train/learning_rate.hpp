// How the learning rate of a training run rises and falls.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// How the learning rate falls behind the warm-up.
enum class Decay : std::uint8_t {
  constant,  ///< not at all
  linear,    ///< on a line
  cosine,    ///< on half a cosine wave
};

/// A learning rate that rises over the first steps on a line from 0 and falls to a share of its
/// peak at the end of the run. Source: model.md 16.6.
struct LearningRate {
  double peak = 1e-3;             ///< the largest
  std::size_t warmup_steps = 20;  ///< steps of the rise
  Decay decay = Decay::cosine;    ///< see above
  double final_share = 0.1;       ///< of the peak, at the end

  /// That of step `step`, from 1 on, in a run of which the share `progress`, 0 to 1, is done.
  double at(std::size_t step, double progress) const {
    double factor = 1.0;
    if (step <= warmup_steps) {
      factor = static_cast<double>(step) / static_cast<double>(warmup_steps);
    } else if (decay != Decay::constant) {
      const double done = std::clamp(progress, 0.0, 1.0);
      const double left =
          decay == Decay::linear ? 1.0 - done : 0.5 + 0.5 * std::cos(std::numbers::pi * done);
      factor = final_share + (1.0 - final_share) * left;
    }
    return peak * factor;
  }
};

}  // namespace ds4::inline v0_1
