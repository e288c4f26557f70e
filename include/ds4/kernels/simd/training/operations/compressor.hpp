// Training: the compressors' pooling.
#pragma once

#include <cstddef>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Pooling; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class CompressorOperations {
 public:
  ///@{
  /// The operations.
  void pool_entries(float* entries, const float* kv, const float* gate, const float* ape,
                    const PoolShape& shape) {
    constexpr std::size_t kStep = 1;  // entries are few and large
    const std::size_t cost = Tasks::kExpCost * shape.ratio * shape.width;
    tasks().by_rows(
        shape.count, cost, kernels().pool_scratch(shape),
        [&](std::size_t begin, std::size_t end, float* scratch) {
          kernels().pool_entries(entries, kv, gate, ape, shape, begin, end, scratch);
        },
        kStep);
  }
  void pool_entries_backward(float* dkv, float* dgate, float* dape, const float* dentries,
                             const float* kv, const float* gate, const float* ape,
                             const PoolShape& shape) {
    const std::size_t biases = shape.ratio * (shape.overlapping ? 2 * shape.width : shape.width);
    tasks().sum_by_rows(shape.count, Tasks::kExpCost * shape.ratio * shape.width, {{dape, biases}},
                        kernels().pool_scratch(shape),
                        [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                          kernels().pool_entries_backward(dkv, dgate, sums, dentries, kv, gate, ape,
                                                          shape, begin, end, scratch);
                        });
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
