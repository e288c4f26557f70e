// The kernels of one instruction set as a table: what a backend calls, whichever set it is.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/attention.hpp>
#include <ds4/kernels/simd/elementwise.hpp>
#include <ds4/kernels/simd/indexer.hpp>
#include <ds4/kernels/simd/limits.hpp>
#include <ds4/kernels/simd/linear.hpp>

namespace ds4::inline v0_1::simd {

/// Pointers to the kernels of one instruction set; see the functions of the same names.
struct Kernels {
  const char* name;
  decltype(&layout_for<Baseline>) layout_for;
  decltype(&token_stride<Baseline>) token_stride;
  decltype(&lay_out<Baseline>) lay_out;
  decltype(&linear<Baseline>) linear;
  decltype(&row_bytes<Baseline>) row_bytes;
  decltype(&panel_bytes<Baseline>) panel_bytes;
  decltype(&store_in_panels<Baseline>) store_in_panels;
  decltype(&rms_norm<Baseline>) rms_norm;
  decltype(&swiglu<Baseline>) swiglu;
  decltype(&rotate_pairs<Baseline>) rotate_pairs;
  decltype(&sinkhorn<Baseline>) sinkhorn;
  decltype(&collapse_streams<Baseline>) collapse_streams;
  decltype(&mix_streams<Baseline>) mix_streams;
  decltype(&add_scaled<Baseline>) add_scaled;
  decltype(&pool<Baseline>) pool;
  decltype(&attend<Baseline>) attend;
  decltype(&store_bf16<Baseline>) store_bf16;
  decltype(&store_key<Baseline>) store_key;
  decltype(&lay_out_query<Baseline>) lay_out_query;
  decltype(&score_block<Baseline>) score_block;
  decltype(&read_all<Baseline>) read_all;
  decltype(&multiply_in_registers<Baseline>) multiply_in_registers;
};

/// The table of instruction set A. A translation unit that names it must be compiled with A's
/// flags.
template <class A>
const Kernels& kernels() {
  static constexpr Kernels table{A::kName,
                                 &layout_for<A>,
                                 &token_stride<A>,
                                 &lay_out<A>,
                                 &linear<A>,
                                 &row_bytes<A>,
                                 &panel_bytes<A>,
                                 &store_in_panels<A>,
                                 &rms_norm<A>,
                                 &swiglu<A>,
                                 &rotate_pairs<A>,
                                 &sinkhorn<A>,
                                 &collapse_streams<A>,
                                 &mix_streams<A>,
                                 &add_scaled<A>,
                                 &pool<A>,
                                 &attend<A>,
                                 &store_bf16<A>,
                                 &store_key<A>,
                                 &lay_out_query<A>,
                                 &score_block<A>,
                                 &read_all<A>,
                                 &multiply_in_registers<A>};
  return table;
}

}  // namespace ds4::inline v0_1::simd
