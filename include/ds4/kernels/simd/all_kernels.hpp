// All kernels of one instruction set: what each of the sources that ds4_add_simd_kernels() adds to
// a target provides.
#pragma once

#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd {

/// Those of inference, and those for training, of the same instruction set.
struct AllKernels {
  const Kernels* inference;
  const TrainingKernels* training;
};

/// Those of instruction set A. A translation unit that names it must be compiled with A's flags.
template <class A>
AllKernels all_kernels() {
  return {&kernels<A>(), &training_kernels<A>()};
}

}  // namespace ds4::inline v0_1::simd
