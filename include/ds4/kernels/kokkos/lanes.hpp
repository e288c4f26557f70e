// How kernels cut their work for both kinds of spaces: a thread of a GPU has one lane of a vector,
// a thread of the host has all lanes of several.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// Values that a thread handles side by side, by loops that host compilers turn into vectors.
template <class Space>
inline constexpr int kLanes = kOnHost<Space> ? 32 : 1;

/// Teams of GPUs have this many threads, unless a kernel says otherwise.
inline constexpr int kTeam = 128;

/// a * b + c, rounded once wherever that is one instruction: on a machine all kernels round alike.
KOKKOS_INLINE_FUNCTION float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__) || \
    defined(__SYCL_DEVICE_ONLY__) || defined(__ARM_FEATURE_FMA)
  return Kokkos::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// By value, unlike Kokkos::min and max: device code has no address of a constexpr variable.
template <class T>
KOKKOS_INLINE_FUNCTION constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
KOKKOS_INLINE_FUNCTION constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

/// The fast memory of a team, as the launch asked for it.
template <class T, class Space, class Member>
KOKKOS_INLINE_FUNCTION T* fast_memory(const Member& team, std::size_t bytes) {
  constexpr int level = kScratchLevel<Space>;
  return static_cast<T*>(team.team_scratch(level).get_shmem(static_cast<int>(bytes)));
}

/// f(i) for i < n, shared by the threads of a team: neighbours on a GPU, a vector's loop on the
/// host.
template <class Member, class F>
KOKKOS_INLINE_FUNCTION void for_each(const Member& team, int n, const F& f) {
  Kokkos::parallel_for(Kokkos::TeamVectorRange(team, n), f);
}

/// The sum of n values side by side, a power of two of them.
template <int n>
KOKKOS_INLINE_FUNCTION float sum_lanes(const float (&part)[n]) {
  if constexpr (n == 1) {
    return part[0];
  } else {
    float half[n / 2];
    for (int l = 0; l < n / 2; ++l) half[l] = part[l] + part[l + n / 2];
    return sum_lanes(half);
  }
}

/// The sum of f(i) for i < n, for all threads of the team. The order of the terms depends on the
/// size of the team alone.
template <class Space, class Member, class F>
KOKKOS_INLINE_FUNCTION float sum_of(const Member& team, int n, const F& f) {
  constexpr int L = kLanes<Space>;
  float sum = 0.0f;
  Kokkos::parallel_reduce(
      Kokkos::TeamThreadRange(team, (n + L - 1) / L),
      [&](int block, float& total) {
        const int begin = block * L;
        if (begin + L <= n) {
          float part[L];
          for (int l = 0; l < L; ++l) part[l] = f(begin + l);
          total += sum_lanes(part);
        } else {
          for (int i = begin; i < n; ++i) total += f(i);
        }
      },
      sum);
  return sum;
}

/// A number that is larger for a larger value, and for equal values for the lower index: the
/// greatest of several is one maximum. NaN comes first.
KOKKOS_INLINE_FUNCTION std::uint64_t order_key(float value, std::uint32_t index) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value + 0.0f);  // -0 is 0
  const std::uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<std::uint64_t>(ordered) << 32 | (0xffffffffu - index);
}
KOKKOS_INLINE_FUNCTION std::uint32_t index_of(std::uint64_t key) {
  return 0xffffffffu - static_cast<std::uint32_t>(key);
}

/// exp(x) to 2 units in the last place, by operations that loops of vectors have; results below the
/// normal numbers are 0.
KOKKOS_INLINE_FUNCTION float exp_of(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
  const float shifted = multiply_add(x, 0x1.715476p0f, kRound);
  const float n = shifted - kRound;
  float r = multiply_add(n, -0x1.62e4p-1f, x);  // x - n ln 2, in two steps
  r = multiply_add(n, -0x1.7f7d1cp-20f, r);
  float p = 0x1.6c16c2p-10f;  // 1/720, 1/120, ...
  p = multiply_add(p, r, 0x1.111112p-7f);
  p = multiply_add(p, r, 0x1.555556p-5f);
  p = multiply_add(p, r, 0x1.555556p-3f);
  p = multiply_add(p, r, 0.5f);
  p = multiply_add(p, r, 1.0f);
  p = multiply_add(p, r, 1.0f);
  const float power =
      std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + (127u << 23));
  const float result = x > 88.0f ? std::bit_cast<float>(0x7f800000u) : p * power;
  return x < -87.0f ? 0.0f : result;
}

KOKKOS_INLINE_FUNCTION float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

/// sqrt(softplus(x)) without overflow.
KOKKOS_INLINE_FUNCTION float sqrt_softplus(float x) {
  return Kokkos::sqrt((x > 0.0f ? x : 0.0f) + Kokkos::log1p(exp_of(-Kokkos::fabs(x))));
}

}  // namespace ds4::inline v0_1::kokkos
