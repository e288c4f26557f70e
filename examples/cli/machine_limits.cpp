#include "cli/machine_limits.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/kernels.hpp>

namespace ds4::cli {
namespace {

constexpr std::size_t kBytes = std::size_t{1} << 29;

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

/// Calls f(begin, bytes) on every thread with its share of the memory.
template <class F>
void on_parts(simd::Team& team, std::byte* memory, F&& f) {
  team.run([&](std::size_t lane, std::size_t lanes) {
    const std::size_t bytes = kBytes / lanes / 4096 * 4096;
    f(memory + lane * bytes, bytes);
  });
}

}  // namespace

ReadLimit::ReadLimit(std::size_t threads)
    : team_({.threads = threads}), memory_(simd::allocate_block(kBytes)) {
  on_parts(team_, memory_.get(),
           [](std::byte* begin, std::size_t bytes) { std::fill_n(begin, bytes, std::byte{1}); });
}

double ReadLimit::bytes_per_s() {
  const simd::Kernels& kernels = simd::chosen_kernels();
  const double seconds = best_seconds(3, [&] {
    on_parts(team_, memory_.get(), [&](const std::byte* begin, std::size_t bytes) {
      const volatile std::uint64_t sum = kernels.read_all(begin, bytes);
      static_cast<void>(sum);
    });
  });
  return static_cast<double>(kBytes) / seconds;
}

double flops_per_s(std::size_t threads, bool bf16) {
  constexpr std::size_t kRounds = 200'000;
  simd::Team team({.threads = threads});
  double flops = 0.0;
  const double seconds = best_seconds(5, [&] {
    team.run([&](std::size_t lane, std::size_t lanes) {
      const double done = simd::chosen_kernels().multiply_in_registers(kRounds, bf16);
      if (lane == 0) flops = done * static_cast<double>(lanes);
    });
  });
  return flops / seconds;
}

}  // namespace ds4::cli
