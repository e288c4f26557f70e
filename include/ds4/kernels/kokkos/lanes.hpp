// How kernels cut their work for both kinds of spaces: a thread of a GPU has one lane of a vector, a
// thread of the host has all lanes of several.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::kokkos {

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

/// f(i) for i < n, shared by the threads of a team: neighbours on a GPU, a vector's loop on the host.
template <class Member, class F>
KOKKOS_INLINE_FUNCTION void for_each(const Member& team, int n, const F& f) {
  Kokkos::parallel_for(Kokkos::TeamVectorRange(team, n), f);
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
          for (int half = L / 2; half > 0; half /= 2) {
            for (int l = 0; l < half; ++l) part[l] += part[l + half];
          }
          total += part[0];
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

KOKKOS_INLINE_FUNCTION float sigmoid(float x) { return 1.0f / (1.0f + Kokkos::exp(-x)); }

/// sqrt(softplus(x)) without overflow.
KOKKOS_INLINE_FUNCTION float sqrt_softplus(float x) {
  return Kokkos::sqrt((x > 0.0f ? x : 0.0f) + Kokkos::log1p(Kokkos::exp(-Kokkos::fabs(x))));
}

}  // namespace ds4::kokkos
