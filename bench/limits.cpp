// What the machine can do at best, measured in the same run as what is compared with it: memory
// bandwidth, which bounds decoding, and arithmetic, which bounds prompts. A limit is the rate of
// the best repetition within a second, whatever --benchmark_min_time says.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/team.hpp>
#include <ds4/kernels/simd/weight_pool.hpp>

#include "support.hpp"

namespace ds4::bench {
namespace {

/// Repeats f(), which returns how many bytes or operations it did; the best rate per second.
template <class F>
double best_rate(benchmark::State& state, F&& f) {
  using Clock = std::chrono::steady_clock;
  double best = 0.0;
  for (auto _ : state) {
    const auto start = Clock::now();
    const double done = f();
    best = std::max(best, done / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

void set_limit(benchmark::State& state, double bytes_per_s, double flops_per_s) {
  state.counters["GB/s"] = bytes_per_s / 1e9;
  state.counters["GFLOP/s"] = flops_per_s / 1e9;
}

/// Reads memory beyond the caches from front to back, each thread its part.
class Read {
 public:
  Read() {
    for (std::size_t i = 0; i < kBytes; i += kPiece) pieces_[i / kPiece] = pool_.allocate(kPiece);
  }

  void run(benchmark::State& state) {
    const simd::Kernels& kernels = simd::chosen_kernels();
    std::atomic<std::uint64_t> sum = 0;
    const double rate = best_rate(state, [&] {
      team_.run([&](std::size_t lane, std::size_t lanes) {
        const std::size_t bytes = kPiece / lanes / 4096 * 4096;
        for (std::byte* piece : pieces_) sum += kernels.read_all(piece + lane * bytes, bytes);
      });
      return product(kBytes);
    });
    benchmark::DoNotOptimize(sum.load());
    set_limit(state, rate, 0.0);
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 30;
  static constexpr std::size_t kPiece = std::size_t{1} << 27;

  simd::Team team_{{.threads = threads}};
  simd::WeightPool pool_;  // huge pages, as the weights are on
  std::byte* pieces_[kBytes / kPiece];
};

/// Multiplies and adds in registers.
class Multiply {
 public:
  explicit Multiply(bool bf16) : bf16_(bf16) {}

  void run(benchmark::State& state) {
    constexpr std::size_t kRounds = 200'000;
    const simd::Kernels& kernels = simd::chosen_kernels();
    const double rate = best_rate(state, [&] {
      double flops = 0.0;
      team_.run([&](std::size_t lane, std::size_t lanes) {
        const double done = kernels.multiply_in_registers(kRounds, bf16_);
        if (lane == 0) flops = done * static_cast<double>(lanes);
      });
      return flops;
    });
    set_limit(state, 0.0, rate);
  }

 private:
  simd::Team team_{{.threads = threads}};
  bool bf16_;
};

}  // namespace

void add_limits() {
  add<Read>("limits/read")->MinTime(1.0);
  add<Multiply>("limits/multiply/f32", false)->MinTime(1.0);
  if (simd::chosen_kernels().layout_for(DType::bf16, false) == simd::Layout::bf16) {
    add<Multiply>("limits/multiply/bf16", true)->MinTime(1.0);  // there is an instruction for it
  }
}

}  // namespace ds4::bench
