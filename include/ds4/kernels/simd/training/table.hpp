// The kernels for training of one instruction set as a table; see ../kernels.hpp.
#pragma once

#include <cstddef>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/training/attention.hpp>
#include <ds4/kernels/simd/training/compressor.hpp>
#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/experts.hpp>
#include <ds4/kernels/simd/training/hyper_connection.hpp>
#include <ds4/kernels/simd/training/indexer.hpp>
#include <ds4/kernels/simd/training/loss.hpp>
#include <ds4/kernels/simd/training/norm.hpp>
#include <ds4/kernels/simd/training/optimizers.hpp>
#include <ds4/kernels/simd/training/product.hpp>
#include <ds4/kernels/simd/training/router.hpp>

namespace ds4::inline v0_1::simd {

// The kernels: one is named here, and in the header that has it.
#define DS4_TRAINING_KERNELS(kernel)         \
  kernel(panels_size);                       \
  kernel(transposed_scratch);                \
  kernel(pack_transposed);                   \
  kernel(pack_rows);                         \
  kernel(multiply);                          \
  kernel(multiply_transposed);               \
  kernel(rms_norm);                          \
  kernel(rms_norm_backward);                 \
  kernel(swiglu);                            \
  kernel(rotate);                            \
  kernel(take_rows);                         \
  kernel(add_rows);                          \
  kernel(add_to_streams);                    \
  kernel(add);                               \
  kernel(copy);                              \
  kernel(zero);                              \
  kernel(add_parts);                         \
  kernel(sum_of_squares);                    \
  kernel(swiglu_backward);                   \
  kernel(sum_copies);                        \
  kernel(add_copies);                        \
  kernel(connection_scratch);                \
  kernel(connection_backward_scratch);       \
  kernel(hyper_connection_weights);          \
  kernel(hyper_connection_weights_backward); \
  kernel(hyper_head_weights);                \
  kernel(hyper_head_weights_backward);       \
  kernel(collapse_streams_backward);         \
  kernel(mix_streams);                       \
  kernel(mix_streams_backward);              \
  kernel(pool_scratch);                      \
  kernel(pool_entries);                      \
  kernel(pool_entries_backward);             \
  kernel(index_scratch);                     \
  kernel(index_scores);                      \
  kernel(likely_best_scratch);               \
  kernel(likely_best);                       \
  kernel(rank_best);                         \
  kernel(index_loss_scratch);                \
  kernel(index_loss);                        \
  kernel(attend);                            \
  kernel(attend_backward);                   \
  kernel(attention_scratch);                 \
  kernel(route);                             \
  kernel(expert_weights_backward);           \
  kernel(balance_loss);                      \
  kernel(gather_rows);                       \
  kernel(scatter_rows);                      \
  kernel(expert_activation_backward);        \
  kernel(cross_entropy);                     \
  kernel(draft_loss);                        \
  kernel(adamw_step);                        \
  kernel(combine);                           \
  kernel(transpose);

/// Pointers to the kernels for training of one instruction set; see the functions of the same
/// names.
struct TrainingKernels {
  const char* name;
  std::size_t tile_cols;  ///< kTileCols
#define DS4_KERNEL(kernel) decltype(&training::kernel<Baseline>) kernel
  DS4_TRAINING_KERNELS(DS4_KERNEL)
#undef DS4_KERNEL
};

/// The table of instruction set A. A translation unit that names it must be compiled with A's
/// flags.
template <class A>
const TrainingKernels& training_kernels() {
#define DS4_KERNEL(kernel) table.kernel = &training::kernel<A>
  static constexpr TrainingKernels kTable = [] {
    TrainingKernels table{};
    table.name = A::kName;
    table.tile_cols = training::kTileCols<A>;
    DS4_TRAINING_KERNELS(DS4_KERNEL)
    return table;
  }();
#undef DS4_KERNEL
  return kTable;
}

#undef DS4_TRAINING_KERNELS

#ifndef DS4_SIMD_TRAINING_COMPILED
/// See dispatch.hpp. Not inlined: units with other flags have to agree.
[[gnu::noinline]] inline const TrainingKernels& chosen_training_kernels() {
  return training_kernels<Native>();
}
#endif

}  // namespace ds4::inline v0_1::simd
