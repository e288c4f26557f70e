// Loops that do nothing but read, or nothing but multiply: the machine's limits, to measure kernels
// against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/words.hpp>

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

/// Multiplies and adds in registers, `rounds` times on as many sums as keep the units busy; returns
/// the operations done, two to a multiply-add. bf16: with the instruction for it, if there is one.
template <class A>
inline double multiply_in_registers(std::size_t rounds, bool bf16) {
  // As many as leave a register for each operand.
  constexpr std::size_t kSums = A::kRegisters == 32 ? 24 : 12;
  // An input that the compiler does not know: it could work out the result otherwise.
  const volatile float unknown = 0.0f;
  alignas(64) float token[16];
  for (float& x : token) x = unknown;
  const auto* const x = reinterpret_cast<const std::byte*>(token);
  const auto run = [&](auto words, std::size_t per_word) {
    using Words = decltype(words);
    static_assert(Words::kSteps == 1);
    const typename Words::Word word = Words::load(x);
    const typename Words::Rows rows = Words::template rows<0>(word);
    const double products = static_cast<double>(rounds * kSums * kLanes<A> * per_word);
    // Sums that are arguments rather than an array, which a compiler may leave in memory.
    [&]<std::size_t... each>(std::index_sequence<each...>) {
      const auto repeat = [&](auto... sum) {
        for (std::size_t i = 0; i < rounds; ++i) {
          ((sum = Words::multiply_add(sum, rows, x)), ...);
        }
        const volatile float total = (sum_lanes<A>(sum) + ...);
        static_cast<void>(total);
      };
      repeat((static_cast<void>(each), splat<A>(unknown))...);
    }(std::make_index_sequence<kSums>{});
    return 2.0 * products;
  };
  if constexpr (A::kDotsBf16) {
    if (bf16) return run(Bf16DotWords<A>{}, 2);
  }
  static_cast<void>(bf16);
  return run(F32Words<A>{}, 1);
}

}  // namespace ds4::inline v0_1::simd
