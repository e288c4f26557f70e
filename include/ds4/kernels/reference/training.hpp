// The reference path's kernels for training: every operation of a pass and its gradients.
#pragma once

#include <ds4/kernels/reference/training/attention.hpp>
#include <ds4/kernels/reference/training/compressor.hpp>
#include <ds4/kernels/reference/training/elementwise.hpp>
#include <ds4/kernels/reference/training/experts.hpp>
#include <ds4/kernels/reference/training/hyper_connection.hpp>
#include <ds4/kernels/reference/training/indexer.hpp>
#include <ds4/kernels/reference/training/linear.hpp>
#include <ds4/kernels/reference/training/loss.hpp>
#include <ds4/kernels/reference/training/optimizers.hpp>
#include <ds4/kernels/reference/training/router.hpp>

namespace ds4::inline v0_1 {

/// The kernels in T (float or double) on one thread: the oracle for the others, never tuned.
/// Gradients are added to what is there, unless a member says otherwise. Tensors are dense, row by
/// row, with the shapes of ds4::ops; names ending in `_backward` are of the operation without it.
template <class T = float>
class ReferenceTraining : public reference::training::LinearOperations<T>,
                          public reference::training::ElementwiseOperations<T>,
                          public reference::training::HyperConnectionOperations<T>,
                          public reference::training::CompressorOperations<T>,
                          public reference::training::IndexerOperations<T>,
                          public reference::training::AttentionOperations<T>,
                          public reference::training::RouterOperations<T>,
                          public reference::training::ExpertOperations<T>,
                          public reference::training::LossOperations<T>,
                          public reference::training::OptimizerOperations<T> {
 public:
  /// Of values and gradients.
  using Scalar = T;
  /// There is memory behind the pointers.
  static constexpr bool kDry = false;
};

}  // namespace ds4::inline v0_1
