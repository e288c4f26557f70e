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
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd {

/// Pointers to the kernels for training of one instruction set; see the functions of the same
/// names. `sum_copies` sets and `add_copies` adds.
struct TrainingKernels {
  const char* name;
  std::size_t tile_cols;
  decltype(&training::panels_size<Baseline>) panels_size;
  decltype(&training::transposed_scratch<Baseline>) transposed_scratch;
  decltype(&training::pack_transposed<Baseline>) pack_transposed;
  decltype(&training::pack_rows<Baseline>) pack_rows;
  decltype(&training::multiply<Baseline>) multiply;
  decltype(&training::multiply_transposed<Baseline>) multiply_transposed;
  decltype(&training::rms_norm<Baseline>) rms_norm;
  decltype(&training::rms_norm_backward<Baseline>) rms_norm_backward;
  decltype(&training::swiglu<Baseline>) swiglu;
  decltype(&training::rotate<Baseline>) rotate;
  decltype(&training::take_rows<Baseline>) take_rows;
  decltype(&training::add_rows<Baseline>) add_rows;
  decltype(&training::add_to_streams<Baseline>) add_to_streams;
  decltype(&training::add<Baseline>) add;
  decltype(&training::copy<Baseline>) copy;
  decltype(&training::zero<Baseline>) zero;
  decltype(&training::add_parts<Baseline>) add_parts;
  decltype(&training::sum_of_squares<Baseline>) sum_of_squares;
  decltype(&training::connection_scratch<Baseline>) connection_scratch;
  decltype(&training::connection_backward_scratch<Baseline>) connection_backward_scratch;
  decltype(&training::hyper_connection_weights<Baseline>) hyper_connection_weights;
  decltype(&training::hyper_connection_weights_backward<Baseline>)
      hyper_connection_weights_backward;
  decltype(&training::hyper_head_weights<Baseline>) hyper_head_weights;
  decltype(&training::hyper_head_weights_backward<Baseline>) hyper_head_weights_backward;
  decltype(&training::collapse_streams_backward<Baseline>) collapse_streams_backward;
  decltype(&training::mix_streams<Baseline>) mix_streams;
  decltype(&training::mix_streams_backward<Baseline>) mix_streams_backward;
  decltype(&training::pool_scratch<Baseline>) pool_scratch;
  decltype(&training::pool_entries<Baseline>) pool_entries;
  decltype(&training::pool_entries_backward<Baseline>) pool_entries_backward;
  decltype(&training::index_scratch<Baseline>) index_scratch;
  decltype(&training::index_scores<Baseline>) index_scores;
  decltype(&training::likely_best_scratch<Baseline>) likely_best_scratch;
  decltype(&training::likely_best<Baseline>) likely_best;
  decltype(&training::rank_best<Baseline>) rank_best;
  decltype(&training::index_loss_scratch<Baseline>) index_loss_scratch;
  decltype(&training::index_loss<Baseline>) index_loss;
  decltype(&training::attend<Baseline>) attend;
  decltype(&training::attend_backward<Baseline>) attend_backward;
  decltype(&training::route<Baseline>) route;
  decltype(&training::expert_weights_backward<Baseline>) expert_weights_backward;
  decltype(&training::balance_loss<Baseline>) balance_loss;
  decltype(&training::gather_rows<Baseline>) gather_rows;
  decltype(&training::scatter_rows<Baseline>) scatter_rows;
  decltype(&training::expert_activation_backward<Baseline>) expert_activation_backward;
  decltype(&training::cross_entropy<Baseline>) cross_entropy;
  decltype(&training::adamw_step<Baseline>) adamw_step;
  decltype(&training::combine<Baseline>) combine;
  decltype(&training::transpose<Baseline>) transpose;
  std::size_t (*attention_scratch)(const AttentionShape&);
  decltype(&training::swiglu_backward<Baseline, false>) swiglu_backward;
  decltype(&training::sum_copies<Baseline, false>) sum_copies;
  decltype(&training::sum_copies<Baseline, true>) add_copies;
};

/// The table of instruction set A. A translation unit that names it must be compiled with A's
/// flags.
template <class A>
const TrainingKernels& training_kernels() {
  static constexpr TrainingKernels table{A::kName,
                                         training::kTileCols<A>,
                                         &training::panels_size<A>,
                                         &training::transposed_scratch<A>,
                                         &training::pack_transposed<A>,
                                         &training::pack_rows<A>,
                                         &training::multiply<A>,
                                         &training::multiply_transposed<A>,
                                         &training::rms_norm<A>,
                                         &training::rms_norm_backward<A>,
                                         &training::swiglu<A>,
                                         &training::rotate<A>,
                                         &training::take_rows<A>,
                                         &training::add_rows<A>,
                                         &training::add_to_streams<A>,
                                         &training::add<A>,
                                         &training::copy<A>,
                                         &training::zero<A>,
                                         &training::add_parts<A>,
                                         &training::sum_of_squares<A>,
                                         &training::connection_scratch<A>,
                                         &training::connection_backward_scratch<A>,
                                         &training::hyper_connection_weights<A>,
                                         &training::hyper_connection_weights_backward<A>,
                                         &training::hyper_head_weights<A>,
                                         &training::hyper_head_weights_backward<A>,
                                         &training::collapse_streams_backward<A>,
                                         &training::mix_streams<A>,
                                         &training::mix_streams_backward<A>,
                                         &training::pool_scratch<A>,
                                         &training::pool_entries<A>,
                                         &training::pool_entries_backward<A>,
                                         &training::index_scratch<A>,
                                         &training::index_scores<A>,
                                         &training::likely_best_scratch<A>,
                                         &training::likely_best<A>,
                                         &training::rank_best<A>,
                                         &training::index_loss_scratch<A>,
                                         &training::index_loss<A>,
                                         &training::attend<A>,
                                         &training::attend_backward<A>,
                                         &training::route<A>,
                                         &training::expert_weights_backward<A>,
                                         &training::balance_loss<A>,
                                         &training::gather_rows<A>,
                                         &training::scatter_rows<A>,
                                         &training::expert_activation_backward<A>,
                                         &training::cross_entropy<A>,
                                         &training::adamw_step<A>,
                                         &training::combine<A>,
                                         &training::transpose<A>,
                                         &training::attention_scratch<A>,
                                         &training::swiglu_backward<A, false>,
                                         &training::sum_copies<A, false>,
                                         &training::sum_copies<A, true>};
  return table;
}

}  // namespace ds4::inline v0_1::simd
