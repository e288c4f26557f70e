// Products with packed matrices: of a few tokens, of many, and of the experts' tokens.
//
// Differs from the reference: a row's sum is cut into parts of kChunk columns, each summed in the
// order of its columns, and the parts are added in theirs. All kernels here do so: a token's result
// does not depend on how many tokens came with it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/bf16_pairs.hpp>
#include <ds4/kernels/kokkos/jobs.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/multiply_few.hpp>
#include <ds4/kernels/kokkos/multiply_many.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// Up to this many tokens are multiplied straight from the packed words.
inline constexpr std::int32_t kFewTokens = 4;

/// Launches the product of some jobs, whose tiles hold up to `tokens` tokens, and matrices of this
/// storage. Unless `exact`, tokens may be rounded as the weights are.
template <class Space, class Jobs>
void multiply(const Launcher<Space>& launcher, std::string_view label, const Cost& cost,
              const Jobs& jobs, Storage storage, std::int32_t cols, std::int32_t tokens,
              bool exact) {
  // A panel alone keeps one team busy: on the host, its chunks are spread over the threads.
  const int chunks = (cols + kChunk<Space> - 1) / kChunk<Space>;
  const int host_team =
      jobs.teams() == 1 && kOnHost<Space> ? std::min(chunks, launcher.space().concurrency()) : 1;
  const auto with = [&]<Storage S, bool Pairs>() {
    if (tokens == 1) {
      using Kernel = MultiplyFew<Space, S, 1, Pairs, Jobs>;
      launcher.launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(cols),
                      Kernel{jobs}, host_team);
    } else if (tokens <= kFewTokens) {
      using Kernel = MultiplyFew<Space, S, kFewTokens, Pairs, Jobs>;
      launcher.launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(cols),
                      Kernel{jobs}, host_team);
    } else {
      using Kernel = MultiplyMany<Space, S, Pairs, Jobs>;
      launcher.launch(label, cost, jobs.teams(), Kernel::kTeamSize, Kernel::scratch(),
                      Kernel{jobs});
    }
  };
  switch (storage) {
    case Storage::f32:
      return with.template operator()<Storage::f32, false>();
    case Storage::bf16:
      if constexpr (kHasBf16Pairs<Space>) {
        if (!exact) return with.template operator()<Storage::bf16, true>();
      }
      return with.template operator()<Storage::bf16, false>();
    case Storage::fp8:
      return with.template operator()<Storage::fp8, false>();
    case Storage::fp4:
      return with.template operator()<Storage::fp4, false>();
  }
}

/// Tokens to a team's tile, for a pass of so many.
template <class Space>
constexpr std::int32_t tile_tokens(std::int32_t tokens) {
  if (tokens <= kFewTokens) return tokens == 1 ? 1 : kFewTokens;
  using Kernel = MultiplyMany<Space, Storage::f32, false, DenseJobs>;
  if (!kOnHost<Space>) return Kernel::kTile;
  // As few tiles as possible, all of nearly the same size.
  const std::int32_t tiles = (tokens + Kernel::kTile - 1) / Kernel::kTile;
  const std::int32_t even = (tokens + tiles - 1) / tiles;
  return (even + Kernel::T - 1) / Kernel::T * Kernel::T;
}

}  // namespace ds4::inline v0_1::kokkos
