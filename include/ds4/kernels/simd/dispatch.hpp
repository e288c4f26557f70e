// Kernels for the machine that the program finds itself on.
//
// The definitions come from sources that ds4_add_model(... BACKENDS simd) and
// ds4_add_simd_kernels(<target> [TRAINING]) add to a target, one per instruction set, each compiled
// with that set's flags; the sources of it and of what links it are compiled with DS4_SIMD_COMPILED
// and, where the kernels for training are there, DS4_SIMD_TRAINING_COMPILED. Without these macros a
// program has chosen_kernels() and chosen_training_kernels() alone, from kernels.hpp and
// training/table.hpp: those of the best set that its own flags allow.
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
/// "neon_bf16", "baseline"), that one. Throws ds4::Error if it names none that can run here.
const Kernels& chosen_kernels();
const TrainingKernels& chosen_training_kernels();
///@}

}  // namespace ds4::inline v0_1::simd
