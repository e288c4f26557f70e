// The kernels for training with vectors and threads.
#pragma once

#include <cstddef>

#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/training/operations/attention.hpp>
#include <ds4/kernels/simd/training/operations/compressor.hpp>
#include <ds4/kernels/simd/training/operations/elementwise.hpp>
#include <ds4/kernels/simd/training/operations/experts.hpp>
#include <ds4/kernels/simd/training/operations/hyper_connection.hpp>
#include <ds4/kernels/simd/training/operations/indexer.hpp>
#include <ds4/kernels/simd/training/operations/linear.hpp>
#include <ds4/kernels/simd/training/operations/loss.hpp>
#include <ds4/kernels/simd/training/operations/optimizers.hpp>
#include <ds4/kernels/simd/training/operations/router.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1 {

/// Settings of the kernels for training.
struct SimdTrainingOptions {
  std::size_t threads = 0;  ///< 0: usable_processors()
  /// The instruction set; see simd/dispatch.hpp.
  const simd::TrainingKernels* kernels = &simd::chosen_training_kernels();
};

/// The operations of ReferenceTraining in float32, with vectors and threads; see there. A copy is a
/// handle to the same threads and scratch memory; one operation at a time may run on them. Sums are
/// cut into parts by the sizes alone, so results do not depend on the number of threads. A process
/// that fork() makes has none of the threads: once they have run, an operation is a ds4::Error
/// there.
class SimdTraining : public simd::training::Tasks,
                     public simd::training::LinearOperations<SimdTraining>,
                     public simd::training::ElementwiseOperations<SimdTraining>,
                     public simd::training::HyperConnectionOperations<SimdTraining>,
                     public simd::training::CompressorOperations<SimdTraining>,
                     public simd::training::IndexerOperations<SimdTraining>,
                     public simd::training::AttentionOperations<SimdTraining>,
                     public simd::training::RouterOperations<SimdTraining>,
                     public simd::training::ExpertOperations<SimdTraining>,
                     public simd::training::LossOperations<SimdTraining>,
                     public simd::training::OptimizerOperations<SimdTraining> {
 public:
  /// Of values and gradients.
  using Scalar = float;
  /// There is memory behind the pointers.
  static constexpr bool kDry = false;

  /// Takes its threads.
  explicit SimdTraining(const SimdTrainingOptions& options = {})
      : Tasks(*options.kernels, options.threads) {}
};

}  // namespace ds4::inline v0_1
