#include "cli/machine_limits.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include <sys/mman.h>

#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/team.hpp>

namespace ds4::cli {
namespace {

template <class F>
double best_seconds(int repetitions, F&& f) {
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(std::size_t threads) {
  const simd::Kernels& kernels = simd::chosen_kernels();
  simd::Team team(threads);

  constexpr std::size_t kBytes = std::size_t{1} << 30;
  constexpr std::size_t kHugePage = std::size_t{1} << 21;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kHugePage}); }
  };
  const std::unique_ptr<std::byte, Free> memory(
      static_cast<std::byte*>(::operator new(kBytes, std::align_val_t{kHugePage})));
  ::madvise(memory.get(), kBytes, MADV_HUGEPAGE);
  const auto part = [&](std::size_t lane, std::size_t lanes) {
    const std::size_t bytes = kBytes / lanes / 4096 * 4096;
    return std::pair(memory.get() + lane * bytes, bytes);
  };
  team.run([&](std::size_t lane, std::size_t lanes) {
    const auto [begin, bytes] = part(lane, lanes);
    std::fill_n(begin, bytes, std::byte{1});
  });
  std::uint64_t sink = 0;
  const double read = best_seconds(5, [&] {
    team.run([&](std::size_t lane, std::size_t lanes) {
      const auto [begin, bytes] = part(lane, lanes);
      const std::uint64_t sum = kernels.read_all(begin, bytes);
      if (lane == 0) sink += sum;
    });
  });

  const auto rate = [&](bool bf16) {
    constexpr std::size_t kRounds = 200'000;
    double flops = 0.0;
    const double seconds = best_seconds(5, [&] {
      team.run([&](std::size_t lane, std::size_t lanes) {
        const double done = kernels.multiply_in_registers(kRounds, bf16);
        if (lane == 0) flops = done * static_cast<double>(lanes);
      });
    });
    return flops / seconds;
  };
  return {static_cast<double>(kBytes) / read, rate(false), rate(true)};
}

}  // namespace ds4::cli
