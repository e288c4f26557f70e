#include "cli/cost.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config_values.hpp>

namespace ds4::cli {

TokenCost weight_cost(const Checkpoint& checkpoint, const ConfigValues& config) {
  TokenCost cost{0.0, 0.0, false};
  double reduced = 0.0;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    const std::string& name = tensor.name;
    if (name.starts_with("mtp.")) continue;
    double share = 1.0;
    if (name == "embed.weight" || name.ends_with("tid2eid")) {
      share = 1.0 / static_cast<double>(config.vocab_size);
    } else if (name.find(".ffn.experts.") != std::string::npos) {
      share = static_cast<double>(config.num_experts_per_tok) /
              static_cast<double>(config.n_routed_experts);
    }
    cost.weight_bytes += share * static_cast<double>(tensor.data.size());
    const bool matrix = tensor.shape.size() == 2 && name != "embed.weight" &&
                        !name.ends_with("tid2eid") && !name.ends_with(".scale") &&
                        !name.ends_with("ape");
    if (!matrix) continue;
    double elements = share;
    for (const std::size_t extent : tensor.shape) elements *= static_cast<double>(extent);
    if (tensor.dtype == DType::i8) elements *= 2.0;  // packed FP4
    cost.matrix_flops += 2.0 * elements;
    if (tensor.dtype != DType::f32) reduced += 2.0 * elements;
  }
  cost.reduced_matrices = reduced > cost.matrix_flops / 2.0;
  return cost;
}

double attention_flops(const ConfigValues& config, std::size_t context) {
  double flops = 0.0;
  for (const std::size_t ratio : config.compress_ratios) {
    std::size_t keys = std::min(context + 1, config.sliding_window);
    if (ratio != 0) {
      const std::size_t entries = (context + 1) / ratio;
      if (ratio == config.compress_rates.compressed_sparse_attention) {
        keys += std::min(entries, config.index_topk);
        flops += 2.0 * static_cast<double>(config.index_n_heads * config.index_head_dim) *
                 static_cast<double>(entries);
      } else {
        keys += entries;
      }
    }
    flops += 4.0 * static_cast<double>(config.num_attention_heads * config.head_dim) *
             static_cast<double>(keys);
  }
  return flops;
}

}  // namespace ds4::cli
