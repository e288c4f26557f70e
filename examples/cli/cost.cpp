#include "cli/cost.hpp"

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

}  // namespace ds4::cli
