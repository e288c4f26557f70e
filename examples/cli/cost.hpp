// What a token costs: bytes of weights read and operations done, from a checkpoint and its
// configuration.
#pragma once

#include <cstddef>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config_values.hpp>

namespace ds4::cli {

struct TokenCost {
  double weight_bytes;    ///< read to decode one token, scales included
  double matrix_flops;    ///< two per weight that a token meets
  bool reduced_matrices;  ///< whether most of them are stored in less than float32
};

/// The cost of the weights, MTP layer apart: all of them but the embedding, of which a token reads
/// a row, and the routed experts, of which it meets num_experts_per_tok.
TokenCost weight_cost(const Checkpoint& checkpoint, const ConfigValues& config);

}  // namespace ds4::cli
