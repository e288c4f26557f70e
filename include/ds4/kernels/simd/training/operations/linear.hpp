// Training: products with weights.
#pragma once

#include <cstddef>

#include <ds4/kernels/simd/training/operations/products.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd::training {

/// Linear maps; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class LinearOperations {
 public:
  ///@{
  /// The operations.
  void linear(float* y, std::size_t y_stride, const float* x, std::size_t x_stride, const float* w,
              std::size_t S, std::size_t outs, std::size_t ins) {
    Workers::Scratch scratch = tasks().scratch();
    float* const panels = scratch.array(kernels().panels_size(ins, outs));
    pack_transposed(tasks(), panels, w, outs, ins);
    multiply(tasks(), {y, y_stride, x, x_stride, panels, S, outs, ins, false});
  }
  void linear_backward(float* dx, bool add, float* dw, const float* dy, std::size_t y_stride,
                       const float* x, std::size_t x_stride, const float* w, std::size_t S,
                       std::size_t outs, std::size_t ins) {
    Workers::Scratch scratch = tasks().scratch();
    if (dx != nullptr) {
      float* const panels = scratch.array(kernels().panels_size(outs, ins));
      pack_rows(tasks(), panels, w, outs, ins);
      multiply(tasks(), {dx, x_stride, dy, y_stride, panels, S, ins, outs, add});
    }
    if (dw != nullptr) {
      multiply_transposed(tasks(), {dw, ins, {dy, y_stride}, {x, x_stride}, true}, outs, ins, S);
    }
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
