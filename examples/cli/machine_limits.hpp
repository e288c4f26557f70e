// What the machine can do at best: read bandwidth and arithmetic rate, measured.
#pragma once

#include <cstddef>

namespace ds4::cli {

struct MachineLimits {
  double read_bytes_per_s;  ///< from an array far larger than the caches
  double f32_flops_per_s;   ///< float32 multiply-adds in registers, two operations each
  double
      bf16_flops_per_s;  ///< the same with BF16 inputs where there is an instruction, else float32
};

/// Measures with `threads` threads; takes about a second.
MachineLimits measure_limits(std::size_t threads);

}  // namespace ds4::cli
