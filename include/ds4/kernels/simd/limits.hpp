// Loops that do nothing but read, or nothing but multiply: the machine's limits, to measure kernels
// against.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/panel.hpp>

namespace ds4::inline v0_1::simd {

/// Reads `bytes` at p, whole vectors; the result only keeps the compiler from leaving it out.
template <class A>
inline std::uint64_t read_all(const std::byte* p, std::size_t bytes) {
  using Bits = xsimd::batch<std::uint64_t, typename A::Xsimd>;
  constexpr std::size_t kBytes = Bits::size * sizeof(std::uint64_t);
  Bits sum(std::uint64_t{0});
  for (std::size_t i = 0; i + kBytes <= bytes; i += kBytes) {
    sum += Bits::load_unaligned(reinterpret_cast<const std::uint64_t*>(p + i));
  }
  std::uint64_t lanes[Bits::size];
  sum.store_unaligned(lanes);
  std::uint64_t total = 0;
  for (const std::uint64_t lane : lanes) total += lane;
  return total;
}

/// Multiplies and adds in registers, `rounds` times on as many accumulators as keep the units busy;
/// returns the operations done, two to a multiply-add.
template <class A>
inline double multiply_in_registers(std::size_t rounds, bool bf16) {
  constexpr std::size_t kAccumulators = kLanes<A> == 16 ? 24 : 12;
  alignas(64) std::byte zeros[64] = {};
  // An input that the compiler does not know: it could drop the loop otherwise.
  const volatile std::uint8_t unknown = 0;
  zeros[0] = std::byte{unknown};
  const auto run = [&](auto words, std::size_t per_word) {
    using Words = decltype(words);
    typename Words::Rows rows[Words::kSteps];
    Words::load_rows(rows, zeros);
    Batch<A> acc[kAccumulators];
    DS4_UNROLL for (std::size_t j = 0; j < kAccumulators; ++j) acc[j] = splat<A>(0.0f);
    for (std::size_t i = 0; i < rounds; ++i) {
      DS4_UNROLL for (std::size_t j = 0; j < kAccumulators; ++j) {
        acc[j] = Words::multiply_add(acc[j], rows[0], zeros);
#if defined(__x86_64__)
        asm volatile("" : "+v"(acc[j].data));
#elif defined(__aarch64__)
        asm volatile("" : "+w"(acc[j].data));
#endif
      }
    }
    float total = 0.0f;
    DS4_UNROLL for (std::size_t j = 0; j < kAccumulators; ++j) total += sum_lanes<A>(acc[j]);
    const volatile float sink = total;
    static_cast<void>(sink);
    return 2.0 * static_cast<double>(rounds * kAccumulators * kLanes<A> * per_word);
  };
  if constexpr (A::kDotsBf16) {
    if (bf16) return run(Bf16DotWords<A>{}, 2);
  }
  static_cast<void>(bf16);
  return run(F32Words<A>{}, 1);
}

}  // namespace ds4::inline v0_1::simd
