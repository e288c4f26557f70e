// Kernels for the machine that the program finds itself on.
//
// The definitions come from sources that the CMake function ds4_add_simd_kernels() adds to a
// target, one per instruction set, each compiled with that set's flags. A program without them uses
// kernels<Native>() and training_kernels<Native>(), which its own flags choose.
#pragma once

#include <string_view>
#include <vector>

namespace ds4::inline v0_1::simd {

struct Kernels;
struct TrainingKernels;

/// The names of the instruction sets that were compiled in, the best first, whether or not this
/// machine can run them.
std::vector<std::string_view> compiled_sets();

///@{
/// The kernels that were compiled in and that this machine can run, the best first.
std::vector<const Kernels*> available_kernels();
std::vector<const TrainingKernels*> available_training_kernels();
///@}

///@{
/// The best of them; or, if the environment variable DS4_SIMD names one ("avx512", "avx2",
/// "baseline"), that one. Throws ds4::Error if it names none that can run here.
const Kernels& chosen_kernels();
const TrainingKernels& chosen_training_kernels();
///@}

}  // namespace ds4::inline v0_1::simd
