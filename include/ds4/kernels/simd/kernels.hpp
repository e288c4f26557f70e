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

// The kernels: one is named here, and in the header that has it.
#define DS4_KERNELS(kernel) \
  kernel(layout_for);       \
  kernel(token_stride);     \
  kernel(lay_out);          \
  kernel(linear);           \
  kernel(row_bytes);        \
  kernel(panel_bytes);      \
  kernel(store_in_panels);  \
  kernel(rms_norm);         \
  kernel(swiglu);           \
  kernel(rotate_pairs);     \
  kernel(sinkhorn);         \
  kernel(collapse_streams); \
  kernel(mix_streams);      \
  kernel(add_scaled);       \
  kernel(pool);             \
  kernel(attend);           \
  kernel(store_bf16);       \
  kernel(store_key);        \
  kernel(lay_out_query);    \
  kernel(score_block);      \
  kernel(read_all);         \
  kernel(multiply_in_registers);

/// Pointers to the kernels of one instruction set; see the functions of the same names.
struct Kernels {
  const char* name;
#define DS4_KERNEL(kernel) decltype(&simd::kernel<Baseline>) kernel
  DS4_KERNELS(DS4_KERNEL)
#undef DS4_KERNEL
};

/// The table of instruction set A. A translation unit that names it must be compiled with A's
/// flags.
template <class A>
const Kernels& kernels() {
#define DS4_KERNEL(kernel) table.kernel = &simd::kernel<A>
  static constexpr Kernels kTable = [] {
    Kernels table{};
    table.name = A::kName;
    DS4_KERNELS(DS4_KERNEL)
    return table;
  }();
#undef DS4_KERNEL
  return kTable;
}

#undef DS4_KERNELS

#ifndef DS4_SIMD_COMPILED
/// See dispatch.hpp. Not inlined: units with other flags have to agree.
[[gnu::noinline]] inline const Kernels& chosen_kernels() { return kernels<Native>(); }
#endif

}  // namespace ds4::inline v0_1::simd
