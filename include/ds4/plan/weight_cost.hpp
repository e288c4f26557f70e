// What the weights of a checkpoint cost a pass: bytes read and operations done.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>

namespace ds4::inline v0_1 {

/// What reading and multiplying weights takes.
struct WeightCost {
  double bytes = 0.0;  ///< as stored, each weight that is needed read once, scales included
  double flops = 0.0;  ///< two per weight that a token meets
  bool reduced_matrices = false;  ///< whether most of them are stored in less than float32
};

/// The cost of the weights, MTP layer apart, whose names start with `prefix`, to a pass of `tokens`
/// tokens that together meet `experts` routed experts of each layer (0: those of one token). All
/// weights are needed but the embedding and the hash tables, of which a token reads a row, and the
/// other routed experts.
inline WeightCost weight_cost(const Checkpoint& checkpoint, const ConfigValues& config,
                              std::string_view prefix = "", std::size_t tokens = 1,
                              std::size_t experts = 0) {
  const auto count = static_cast<double>(tokens);
  const auto E = static_cast<double>(config.n_routed_experts);
  const auto k = static_cast<double>(config.num_experts_per_tok);
  const double met = experts > 0 ? static_cast<double>(experts) : k;
  const auto tensors = checkpoint.tensors();
  WeightCost cost;
  double reduced = 0.0;
  for (auto at = std::ranges::lower_bound(tensors, prefix, {}, &StoredTensor::name);
       at != tensors.end() && at->name.starts_with(prefix); ++at) {
    const std::string& name = at->name;
    if (name.starts_with("mtp.")) continue;
    const bool rows = name == "embed.weight" || name.ends_with("tid2eid");
    const bool expert = name.find(".ffn.experts.") != std::string::npos;
    const auto stored = static_cast<double>(at->data.size());
    cost.bytes += rows     ? stored * count / static_cast<double>(config.vocab_size)
                  : expert ? stored * met / E
                           : stored;
    const bool matrix =
        at->shape.size() == 2 && !rows && !name.ends_with(".scale") && !name.ends_with("ape");
    if (!matrix) continue;
    double elements = count * (expert ? k / E : 1.0);
    for (const std::size_t extent : at->shape) elements *= static_cast<double>(extent);
    if (matrix_storage(at->dtype) == StoredFp4::kDType) elements *= 2.0;
    cost.flops += 2.0 * elements;
    if (at->dtype != DType::f32) reduced += 2.0 * elements;
  }
  cost.reduced_matrices = reduced > cost.flops / 2.0;
  return cost;
}

}  // namespace ds4::inline v0_1
