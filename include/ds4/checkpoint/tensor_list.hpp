// Every tensor of a configuration known at run time: names and shapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>

namespace ds4::inline v0_1 {

/// What a tensor is in a checkpoint.
enum class TensorRole : std::uint8_t {
  expert,  ///< a matrix of a routed expert
  linear,  ///< another matrix that the release stores in 8 bits
  matrix,  ///< one that it keeps in BF16
  norm,    ///< a norm's weights
  vector,  ///< other small tensors: float32
  table,   ///< of the hash router: integers
};

/// A tensor of a model under the release's name.
struct TensorInfo {
  ///@{
  /// Name, shape, and what it is.
  std::string name;
  std::vector<std::size_t> shape;
  TensorRole role = TensorRole::matrix;
  ///@}
};

namespace detail {

/// Adds the tensors of one decoder layer; `prefix` ends in a dot.
inline void list_layer(std::vector<TensorInfo>& list, const ConfigValues& c,
                       const std::string& prefix, std::size_t ratio, RouterKind router) {
  const std::size_t D = c.hidden_size;
  const std::size_t N = c.hc_mult;
  const std::size_t H = c.num_attention_heads;
  const std::size_t d = c.head_dim;
  const std::size_t F = c.moe_intermediate_size;
  const std::size_t E = c.n_routed_experts;
  const auto matrix = [&](const std::string& name, std::size_t rows, std::size_t cols,
                          TensorRole role = TensorRole::matrix) {
    list.push_back({prefix + name, {rows, cols}, role});
  };
  const auto vector = [&](const std::string& name, std::vector<std::size_t> shape) {
    list.push_back({prefix + name, std::move(shape), TensorRole::vector});
  };
  const auto norm = [&](const std::string& name, std::size_t width) {
    list.push_back({prefix + name, {width}, TensorRole::norm});
  };
  const auto compressor = [&](const std::string& name, std::size_t width, std::size_t projected) {
    matrix(name + "wkv.weight", projected, D);
    matrix(name + "wgate.weight", projected, D);
    vector(name + "ape", {ratio, projected});
    norm(name + "norm.weight", width);
  };
  const auto expert = [&](const std::string& name, TensorRole role) {
    matrix(name + "w1.weight", F, D, role);
    matrix(name + "w2.weight", D, F, role);
    matrix(name + "w3.weight", F, D, role);
  };
  for (const std::string site : {"hc_attn_", "hc_ffn_"}) {
    vector(site + "fn", {(2 + N) * N, N * D});
    vector(site + "base", {(2 + N) * N});
    vector(site + "scale", {3});
  }
  norm("attn_norm.weight", D);
  norm("ffn_norm.weight", D);
  matrix("attn.wq_a.weight", c.q_lora_rank, D, TensorRole::linear);
  norm("attn.q_norm.weight", c.q_lora_rank);
  matrix("attn.wq_b.weight", H * d, c.q_lora_rank, TensorRole::linear);
  matrix("attn.wkv.weight", d, D, TensorRole::linear);
  norm("attn.kv_norm.weight", d);
  vector("attn.attn_sink", {H});
  matrix("attn.wo_a.weight", c.o_groups * c.o_lora_rank, H * d / c.o_groups, TensorRole::linear);
  matrix("attn.wo_b.weight", D, c.o_groups * c.o_lora_rank, TensorRole::linear);
  if (ratio != 0 && ratio == c.compress_rates.compressed_sparse_attention) {
    compressor("attn.compressor.", d, 2 * d);
    matrix("attn.indexer.wq_b.weight", c.index_n_heads * c.index_head_dim, c.q_lora_rank,
           TensorRole::linear);
    matrix("attn.indexer.weights_proj.weight", c.index_n_heads, D);
    compressor("attn.indexer.compressor.", c.index_head_dim, 2 * c.index_head_dim);
  } else if (ratio != 0) {
    compressor("attn.compressor.", d, d);
  }
  matrix("ffn.gate.weight", E, D);
  if (router == RouterKind::hash) {
    list.push_back(
        {prefix + "ffn.gate.tid2eid", {c.vocab_size, c.num_experts_per_tok}, TensorRole::table});
  } else {
    vector("ffn.gate.bias", {E});
  }
  for (std::size_t e = 0; e < E; ++e) {
    expert("ffn.experts." + std::to_string(e) + ".", TensorRole::expert);
  }
  expert("ffn.shared_experts.", TensorRole::linear);
}

}  // namespace detail

/// The drafter of a checkpoint of this configuration, an instance of its type or a ConfigValues.
/// One that allows for both, as the release's types do, is that of a newer release: DSpark.
template <class Config>
constexpr DrafterKind drafter_of(const Config& c) {
  if (c.dspark_stages > 0) return DrafterKind::dspark;
  return c.num_nextn_predict_layers > 0 ? DrafterKind::mtp : DrafterKind::none;
}

/// The tensors of a checkpoint of this configuration with this drafter, in the release's names,
/// without scales. Source: model.md 7.1.
inline std::vector<TensorInfo> list_tensors(const ConfigValues& c, DrafterKind drafter) {
  std::vector<TensorInfo> list;
  const std::size_t D = c.hidden_size;
  const std::size_t N = c.hc_mult;
  const auto hyper_head = [&](const std::string& prefix) {
    list.push_back({prefix + "hc_head_fn", {N, N * D}, TensorRole::vector});
    list.push_back({prefix + "hc_head_base", {N}, TensorRole::vector});
    list.push_back({prefix + "hc_head_scale", {1}, TensorRole::vector});
    list.push_back({prefix + "norm.weight", {D}, TensorRole::norm});
  };
  list.push_back({"embed.weight", {c.vocab_size, D}, TensorRole::matrix});
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    detail::list_layer(list, c, "layers." + std::to_string(i) + ".", c.compress_ratios[i],
                       i < c.num_hash_layers ? RouterKind::hash : RouterKind::learned);
  }
  hyper_head("");
  list.push_back({"head.weight", {c.vocab_size, D}, TensorRole::matrix});
  if (drafter == DrafterKind::mtp) {
    const std::string prefix = "mtp.0.";
    list.push_back({prefix + "e_proj.weight", {D, D}, TensorRole::linear});
    list.push_back({prefix + "h_proj.weight", {D, D}, TensorRole::linear});
    list.push_back({prefix + "enorm.weight", {D}, TensorRole::norm});
    list.push_back({prefix + "hnorm.weight", {D}, TensorRole::norm});
    detail::list_layer(list, c, prefix, 0, RouterKind::learned);
    hyper_head(prefix);
  }
  const std::size_t stages = drafter == DrafterKind::dspark ? c.dspark_stages : 0;
  for (std::size_t i = 0; i < stages; ++i) {
    const std::string prefix = "mtp." + std::to_string(i) + ".";
    if (i == 0) {
      list.push_back({prefix + "main_proj.weight",
                      {D, c.dspark_target_layer_ids.size() * D},
                      TensorRole::linear});
      list.push_back({prefix + "main_norm.weight", {D}, TensorRole::norm});
    }
    detail::list_layer(list, c, prefix, 0, RouterKind::learned);
    if (i + 1 < stages) continue;
    const std::size_t R = c.dspark_markov_rank;
    hyper_head(prefix);
    list.push_back(
        {prefix + "markov_head.markov_w1.weight", {c.vocab_size, R}, TensorRole::matrix});
    list.push_back(
        {prefix + "markov_head.markov_w2.weight", {c.vocab_size, R}, TensorRole::matrix});
    list.push_back({prefix + "confidence_head.proj.weight", {1, D + R}, TensorRole::matrix});
  }
  return list;
}
/// The same with the drafter that drafter_of() says.
inline std::vector<TensorInfo> list_tensors(const ConfigValues& c) {
  return list_tensors(c, drafter_of(c));
}

/// The tensors that a checkpoint with a vision part has beside those of list_tensors() with this
/// drafter, all in BF16 or F32: none of them does anything to text. The gates take bias_vl for the
/// ids of images alone, and a hash layer its table whatever its bias says. Names and number follow
/// from the configuration; none without a vision part.
inline std::vector<TensorInfo> list_vision_tensors(const ConfigValues& c, DrafterKind drafter) {
  std::vector<TensorInfo> list;
  if (!c.vision) return list;
  const VisionSizes& v = *c.vision;
  const std::size_t D = c.hidden_size;
  const auto matrix = [&](const std::string& name, std::size_t rows, std::size_t cols) {
    list.push_back({name + ".weight", {rows, cols}, TensorRole::matrix});
  };
  const auto vector = [&](const std::string& name, std::size_t width) {
    list.push_back({name, {width}, TensorRole::norm});  // in BF16, as norms are
  };
  matrix("vision.patch_embed.proj", v.dim, 3 * v.patch_size * v.patch_size);
  vector("vision.patch_embed.proj.bias", v.dim);
  for (std::size_t i = 0; i < v.n_layers; ++i) {
    const std::string block = "vision.blocks." + std::to_string(i) + ".";
    vector(block + "norm1.weight", v.dim);
    matrix(block + "attn.wqkv", 3 * v.dim, v.dim);
    vector(block + "attn.wqkv.bias", 3 * v.dim);
    matrix(block + "attn.wo", v.dim, v.dim);
    vector(block + "attn.wo.bias", v.dim);
    vector(block + "norm2.weight", v.dim);
    matrix(block + "mlp.w1", 2 * v.inter_dim, v.dim);
    matrix(block + "mlp.w2", v.dim, v.inter_dim);
  }
  vector("vision.norm.weight", v.dim);
  matrix("aligner.w1", D, v.dim * v.downsample_ratio * v.downsample_ratio);
  vector("aligner.w1.bias", D);
  matrix("aligner.w2", D, D);
  vector("aligner.w2.bias", D);
  for (const char* name : {"image_start", "image_end", "image_newline", "image_pad"}) {
    vector(name, D);
  }
  const auto bias = [&](const std::string& layer, const char* name) {
    list.push_back({layer + "ffn.gate." + name, {c.n_routed_experts}, TensorRole::vector});
  };
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    bias(layer, "bias_vl");
    if (i < c.num_hash_layers) bias(layer, "bias");
  }
  const std::size_t stages = drafter == DrafterKind::dspark ? c.dspark_stages
                             : drafter == DrafterKind::mtp  ? 1
                                                            : 0;
  for (std::size_t i = 0; i < stages; ++i) bias("mtp." + std::to_string(i) + ".", "bias_vl");
  return list;
}

}  // namespace ds4::inline v0_1
