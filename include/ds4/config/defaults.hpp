// What a model does unless it is told otherwise: the tokens of its passes, and those that a state
// can take back.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Tokens of a pass over a long prompt: as many as `bytes` of activations allow, 256 MiB unless
/// told, at least 64 and no more than `most`; more than 512 make no difference to the speed of
/// weights in memory.
template <class Config>
constexpr std::size_t prefill_chunk(const Config& c, std::size_t scalar_bytes = 4,
                                    std::size_t bytes = std::size_t{1} << 28,
                                    std::size_t most = 512) {
  // What a token takes: streams, queries and outputs, the inputs and hidden rows of its experts.
  const std::size_t values = 2 * c.hc_mult * c.hidden_size +
                             3 * c.num_attention_heads * c.head_dim + 4 * c.hidden_size +
                             c.num_experts_per_tok * (c.hidden_size + 3 * c.moe_intermediate_size);
  return std::clamp<std::size_t>(std::bit_floor(bytes / (scalar_bytes * values)), 64, most);
}

/// The most tokens of such a pass where weights are read from the disk in each, which takes as long
/// for one token as for many: nearly every expert is picked by some.
inline constexpr std::size_t kLargestPrefillChunk = 4096;

/// Tokens that a state can take back unless it is told otherwise.
inline constexpr std::size_t kDefaultRollbackLimit = 64;

}  // namespace ds4::inline v0_1
