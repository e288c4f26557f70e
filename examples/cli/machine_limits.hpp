// What the machine can do at best, measured: read bandwidth and arithmetic rate.
#pragma once

#include <cstddef>

#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/team.hpp>

namespace ds4::cli {

/// Reads an array far larger than the caches. The bandwidth of a virtual machine drifts within
/// seconds, so it is measured again beside each thing that is compared with it.
class ReadLimit {
 public:
  explicit ReadLimit(std::size_t threads);

  /// The best of a few readings; takes some hundredths of a second.
  double bytes_per_s();

 private:
  simd::Team team_;
  simd::MemoryBlock memory_;
};

/// Multiply-adds in registers, two operations each: float32, or BF16 inputs where there is an
/// instruction for them.
double flops_per_s(std::size_t threads, bool bf16);

}  // namespace ds4::cli
