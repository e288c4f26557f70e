// AdamW: Adam with decoupled weight decay.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Settings of AdamW. Source: model.md 16.2; Loshchilov and Hutter, arXiv 1711.05101; the values of
/// arXiv 2606.19348.
struct AdamWOptions {
  double learning_rate = 1e-3;  ///< of this step
  double beta1 = 0.9;           ///< what is kept of the mean gradient from step to step
  double beta2 = 0.95;          ///< what is kept of its mean square
  double epsilon = 1e-8;        ///< added to the root of the mean square
  double weight_decay = 0.1;    ///< the share of the weights that a step of learning rate 1 takes
};

/// One step, number `step` from 1 on: moves the weights against their gradient. mean and
/// mean_square are the optimizer's state, zeros before the first step; all have the same size.
template <class T>
void adamw_step(std::span<T> weights, std::span<const T> gradient, std::span<T> mean,
                std::span<T> mean_square, std::size_t step, const AdamWOptions& options = {}) {
  const double bias1 = 1.0 - std::pow(options.beta1, static_cast<double>(step));
  const double bias2 = 1.0 - std::pow(options.beta2, static_cast<double>(step));
  const auto beta1 = static_cast<T>(options.beta1);
  const auto beta2 = static_cast<T>(options.beta2);
  const auto kept = static_cast<T>(1.0 - options.learning_rate * options.weight_decay);
  const auto rate = static_cast<T>(options.learning_rate / bias1);
  const auto root = static_cast<T>(std::sqrt(bias2));
  const auto epsilon = static_cast<T>(options.epsilon);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const T g = gradient[i];
    mean[i] = beta1 * mean[i] + (T(1) - beta1) * g;
    mean_square[i] = beta2 * mean_square[i] + (T(1) - beta2) * g * g;
    weights[i] = weights[i] * kept - rate * mean[i] / (std::sqrt(mean_square[i]) / root + epsilon);
  }
}

}  // namespace ds4::inline v0_1
