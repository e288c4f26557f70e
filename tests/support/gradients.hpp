// Gradients of a model in training, compared with what they are the gradients of.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace ds4::test {

/// A copy of all gradients of a ds4::TrainableModel or ds4::TrainableDrafter.
template <class Model>
auto gradients_of(Model& model) {
  std::vector<std::vector<typename Model::Scalar>> gradients;
  for (const auto& weight : model.weights().list()) {
    gradients.emplace_back(weight.gradient.begin(), weight.gradient.end());
  }
  return gradients;
}

/// Whether found is within `tolerance` of the norm of expected; an expert without tokens has zeros.
template <class Found, class Expected>
bool is_within(double tolerance, const Found& found, const Expected& expected) {
  double distance = 0.0;
  double norm = 0.0;
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto want = static_cast<double>(expected[i]);
    distance += std::pow(static_cast<double>(found[i]) - want, 2);
    norm += want * want;
  }
  return distance <= tolerance * tolerance * norm;
}

/// Checks the gradients that the model has of its `wanted` weights, float64, against the slope of
/// loss() along a random direction, by central differences; returns how many. The step is small
/// enough that no choice of experts or entries changes; a slope's rounding error is then about
/// 1e-16 of the loss by the step.
template <class Model, class Loss, class Wanted>
std::size_t check_slopes(Model& model, Loss&& loss, Wanted&& wanted) {
  constexpr double kStep = 1e-6;
  const auto gradients = gradients_of(model);
  std::mt19937 generator(7);
  std::normal_distribution<double> normal;
  std::size_t compared = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    auto& weight = model.weights().list()[i];
    if (!wanted(weight)) continue;
    const std::vector<double> before(weight.values.begin(), weight.values.end());
    std::vector<double> direction(before.size());
    double norm = 0.0;
    for (double& value : direction) norm += std::pow(value = normal(generator), 2);
    double slope = 0.0;
    for (std::size_t j = 0; j < direction.size(); ++j) {
      direction[j] /= std::sqrt(norm);
      slope += direction[j] * gradients[i][j];
    }
    const auto loss_at = [&](double step) {
      for (std::size_t j = 0; j < direction.size(); ++j) {
        weight.values[j] = before[j] + step * direction[j];
      }
      return loss();
    };
    const double difference = (loss_at(kStep) - loss_at(-kStep)) / (2.0 * kStep);
    std::copy(before.begin(), before.end(), weight.values.begin());
    CAPTURE(weight.name);
    CHECK(std::abs(difference - slope) < 1e-8 + 1e-5 * std::abs(slope));
    ++compared;
  }
  return compared;
}

}  // namespace ds4::test
