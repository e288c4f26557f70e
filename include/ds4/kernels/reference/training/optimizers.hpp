// Training by the reference path: the optimizers' steps.
#pragma once

#include <cstddef>
#include <span>

#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>

namespace ds4::inline v0_1::reference::training {

/// AdamW and Muon; see ReferenceTraining.
template <class T>
class OptimizerOperations {
 public:
  ///@{
  /// Steps of the optimizers; see their headers.
  static void adamw_step(std::span<T> weights, std::span<const T> gradient, std::span<T> mean,
                         std::span<T> mean_square, std::size_t step, const AdamWOptions& options) {
    ds4::adamw_step(weights, gradient, mean, mean_square, step, options);
  }
  static void muon_steps(std::span<const MuonTarget<T>> targets, const MuonOptions& options) {
    for (const MuonTarget<T>& target : targets) muon_step(target, options);
  }
  ///@}
};

}  // namespace ds4::inline v0_1::reference::training
