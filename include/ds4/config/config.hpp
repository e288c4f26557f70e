// Compile-time configurations: what a configuration type states, Flash and Pro, and their checks.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// The three kinds of attention. Source: model.md 5.
enum class AttentionKind : std::uint8_t {
  sliding,  ///< the window alone
  csa,      ///< compressed sparse attention: overlapping windows and an indexer
  hca,      ///< heavily compressed attention: every compressed entry
};

/// How a layer picks its experts. Source: model.md 6.1.
enum class RouterKind : std::uint8_t {
  hash,     ///< a table from token id to experts
  learned,  ///< top-k of the router's scores plus bias
};

/// What guesses the tokens that a pass of the model then verifies.
enum class DrafterKind : std::uint8_t {
  none,
  mtp,     ///< the multi-token-prediction layer. Source: model.md 9
  dspark,  ///< DSpark: a block of tokens at once. Source: model.md 19
};

///@{
/// The name in texts: "sliding", "csa" or "hca"; "hash" or "learned"; "none", "mtp" or "dspark".
constexpr std::string_view name_of(AttentionKind kind) {
  return kind == AttentionKind::sliding ? "sliding" : kind == AttentionKind::csa ? "csa" : "hca";
}
constexpr std::string_view name_of(RouterKind kind) {
  return kind == RouterKind::hash ? "hash" : "learned";
}
constexpr std::string_view name_of(DrafterKind kind) {
  return kind == DrafterKind::none ? "none" : kind == DrafterKind::mtp ? "mtp" : "dspark";
}
///@}

/// YaRN interpolation of the compress rotary table (config.json: rope_scaling). factor 1 is none.
/// Source: model.md 4.3.
struct RopeScaling {
  ///@{
  /// Fields of rope_scaling, by their names.
  double factor = 1.0;
  double original_max_position_embeddings = 0.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  friend constexpr bool operator==(const RopeScaling&, const RopeScaling&) = default;
  ///@}
};

/// Tokens per compressed entry (config.json of transformers: compress_rates): the ratio of a layer
/// says which kind of attention it has.
struct CompressRates {
  ///@{
  /// Tokens per entry of CSA and of HCA.
  std::size_t compressed_sparse_attention = 4;
  std::size_t heavily_compressed_attention = 128;
  friend constexpr bool operator==(const CompressRates&, const CompressRates&) = default;
  ///@}
};

/// The fields of a configuration, once: X(type, name) for each, named as in config.json. The
/// concept ModelConfig, ConfigValues, its comparison and text, the reader of config.json and the
/// writer of headers are made of this list. The order is that of texts, and of the fingerprint of
/// saved states.
#define DS4_CONFIG_FIELDS(X)                           \
  X(std::size_t, vocab_size)                           \
  X(std::size_t, hidden_size)                          \
  X(std::size_t, num_hidden_layers)                    \
  X(std::size_t, num_attention_heads)                  \
  X(std::size_t, head_dim)                             \
  X(std::size_t, qk_rope_head_dim)                     \
  X(std::size_t, q_lora_rank)                          \
  X(std::size_t, o_groups)                             \
  X(std::size_t, o_lora_rank)                          \
  X(std::size_t, n_routed_experts)                     \
  X(std::size_t, num_experts_per_tok)                  \
  X(std::size_t, moe_intermediate_size)                \
  X(double, routed_scaling_factor)                     \
  X(double, swiglu_limit)                              \
  X(std::size_t, num_hash_layers)                      \
  X(std::size_t, index_n_heads)                        \
  X(std::size_t, index_head_dim)                       \
  X(std::size_t, index_topk)                           \
  X(std::size_t, sliding_window)                       \
  X(std::vector<std::size_t>, compress_ratios)         \
  X(CompressRates, compress_rates)                     \
  X(double, rope_theta)                                \
  X(double, compress_rope_theta)                       \
  X(RopeScaling, rope_scaling)                         \
  X(std::size_t, hc_mult)                              \
  X(std::size_t, hc_sinkhorn_iters)                    \
  X(double, hc_eps)                                    \
  X(double, rms_norm_eps)                              \
  X(std::size_t, max_position_embeddings)              \
  X(std::size_t, num_nextn_predict_layers)             \
  X(std::size_t, dspark_stages)                        \
  X(std::size_t, dspark_block_size)                    \
  X(std::size_t, dspark_noise_token_id)                \
  X(std::vector<std::size_t>, dspark_target_layer_ids) \
  X(std::size_t, dspark_markov_rank)

namespace detail {

/// Whether a member of type T can stand for a field: a list may be any type with entries and a
/// size.
template <class T, class Field>
concept FieldOf = std::convertible_to<T, Field> ||
                  (std::same_as<Field, std::vector<std::size_t>> && requires(T list) {
                    { list[0] } -> std::convertible_to<std::size_t>;
                    { list.size() } -> std::convertible_to<std::size_t>;
                  });

}  // namespace detail

#define DS4_REQUIRED_FIELD(type, field) \
  {                                     \
    C::field                            \
  } -> detail::FieldOf<type>;
/// A configuration is a type with the static members of DS4_CONFIG_FIELDS, and a name.
/// compress_ratios has one entry per main layer: the release's extra last entries, 0, belong to the
/// drafter, whose layers are always of ratio 0 here.
///
/// What a drafter needs is compiled for the checkpoints that have it: a model reads one without,
/// too, and one with a drafter that the type does not have, whose tensors it sets aside.
/// num_nextn_predict_layers is 1 where a multi-token-prediction layer may be there, dspark_stages
/// the most stages that DSpark may have, and max_position_embeddings the most that a checkpoint may
/// say. dspark_stages is the number of prefixes mtp.k, which the release calls
/// n_mtp_layers.
template <class C>
concept ModelConfig = requires {
  { C::name } -> std::convertible_to<std::string_view>;
  DS4_CONFIG_FIELDS(DS4_REQUIRED_FIELD)
};
#undef DS4_REQUIRED_FIELD

namespace detail {

/// `lead`, then `count` times the pair (128, 4): the schedule of the released models.
template <std::size_t Count, std::size_t Lead>
consteval auto with_pairs(std::array<std::size_t, Lead> lead) {
  std::array<std::size_t, Lead + 2 * Count> ratios{};
  for (std::size_t i = 0; i < Lead; ++i) ratios[i] = lead[i];
  for (std::size_t i = 0; i < Count; ++i) {
    ratios[Lead + 2 * i] = 128;
    ratios[Lead + 2 * i + 1] = 4;
  }
  return ratios;
}

/// The ids of the last `Count` layers.
template <std::size_t Count>
consteval auto last_layers(std::size_t num_hidden_layers) {
  std::array<std::size_t, Count> ids{};
  for (std::size_t i = 0; i < Count; ++i) ids[i] = num_hidden_layers - Count + i;
  return ids;
}

/// What both released models have in common.
struct ReleaseConfig {
  static constexpr std::size_t vocab_size = 129280;
  static constexpr std::size_t head_dim = 512;
  static constexpr std::size_t qk_rope_head_dim = 64;
  static constexpr std::size_t o_lora_rank = 1024;
  static constexpr std::size_t num_experts_per_tok = 6;
  static constexpr double swiglu_limit = 10.0;
  static constexpr std::size_t num_hash_layers = 3;
  static constexpr std::size_t index_n_heads = 64;
  static constexpr std::size_t index_head_dim = 128;
  static constexpr std::size_t sliding_window = 128;
  static constexpr CompressRates compress_rates{};
  static constexpr double rope_theta = 10000.0;
  static constexpr double compress_rope_theta = 160000.0;
  static constexpr RopeScaling rope_scaling{16.0, 65536.0, 32.0, 1.0};
  static constexpr std::size_t hc_mult = 4;
  static constexpr std::size_t hc_sinkhorn_iters = 20;
  static constexpr double hc_eps = 1e-6;
  static constexpr double rms_norm_eps = 1e-6;
  static constexpr std::size_t max_position_embeddings = 1048576;
  static constexpr std::size_t num_nextn_predict_layers = 1;
  static constexpr std::size_t dspark_stages = 3;
  static constexpr std::size_t dspark_block_size = 5;
  static constexpr std::size_t dspark_noise_token_id = 128799;
};

}  // namespace detail

/// For configuration types without DSpark to derive from.
struct NoDspark {
  ///@{
  /// See ModelConfig.
  static constexpr std::size_t dspark_stages = 0;
  static constexpr std::size_t dspark_block_size = 0;
  static constexpr std::size_t dspark_noise_token_id = 0;
  static constexpr std::array<std::size_t, 0> dspark_target_layer_ids{};
  static constexpr std::size_t dspark_markov_rank = 0;
  ///@}
};

/// DeepSeek-V4-Flash: 284 G parameters, 13 G active per token. Source: model.md 1.
struct Flash : detail::ReleaseConfig {
  ///@{
  /// See ModelConfig.
  static constexpr std::string_view name = "flash";
  static constexpr std::size_t hidden_size = 4096;
  static constexpr std::size_t num_hidden_layers = 43;
  static constexpr std::size_t num_attention_heads = 64;
  static constexpr std::size_t q_lora_rank = 1024;
  static constexpr std::size_t o_groups = 8;
  static constexpr std::size_t n_routed_experts = 256;
  static constexpr std::size_t moe_intermediate_size = 2048;
  static constexpr double routed_scaling_factor = 1.5;
  static constexpr std::size_t index_topk = 512;
  static constexpr auto compress_ratios =
      detail::with_pairs<20>(std::array<std::size_t, 3>{0, 0, 4});
  static constexpr auto dspark_target_layer_ids = detail::last_layers<3>(num_hidden_layers);
  static constexpr std::size_t dspark_markov_rank = 256;
  ///@}
};

/// DeepSeek-V4-Flash-Vision-Exp, which reads text as Flash does, but for the epsilon of its norms.
struct FlashVision : Flash {
  ///@{
  /// See ModelConfig.
  static constexpr std::string_view name = "flash-vision";
  static constexpr double rms_norm_eps = 1e-20;
  ///@}
};

/// DeepSeek-V4-Pro: 1.6 T parameters, 49 G active per token. Source: model.md 1.
struct Pro : detail::ReleaseConfig {
  ///@{
  /// See ModelConfig.
  static constexpr std::string_view name = "pro";
  static constexpr std::size_t hidden_size = 7168;
  static constexpr std::size_t num_hidden_layers = 61;
  static constexpr std::size_t num_attention_heads = 128;
  static constexpr std::size_t q_lora_rank = 1536;
  static constexpr std::size_t o_groups = 16;
  static constexpr std::size_t n_routed_experts = 384;
  static constexpr std::size_t moe_intermediate_size = 3072;
  static constexpr double routed_scaling_factor = 2.5;
  static constexpr std::size_t index_topk = 1024;
  static constexpr auto compress_ratios =
      detail::with_pairs<29>(std::array<std::size_t, 3>{128, 128, 4});
  static constexpr auto dspark_target_layer_ids = detail::last_layers<3>(num_hidden_layers);
  static constexpr std::size_t dspark_markov_rank = 512;
  ///@}
};

namespace check {

// One template per relation, its parameters named after the fields: a failing assertion states the
// relation, and the instantiation that the compiler quotes states every field's value.

template <std::size_t num_attention_heads, std::size_t o_groups>
consteval void heads_form_groups() {
  static_assert(o_groups > 0 && num_attention_heads % (o_groups > 0 ? o_groups : 1) == 0,
                "ds4::ModelConfig: num_attention_heads must be a multiple of o_groups");
}
template <std::size_t qk_rope_head_dim>
consteval void rotary_pairs() {
  static_assert(
      qk_rope_head_dim % 2 == 0 && qk_rope_head_dim > 0,
      "ds4::ModelConfig: qk_rope_head_dim must be even and not 0, values rotate in pairs");
}
template <std::size_t qk_rope_head_dim, std::size_t head_dim>
consteval void rotary_fits_head() {
  static_assert(qk_rope_head_dim <= head_dim,
                "ds4::ModelConfig: qk_rope_head_dim must not exceed head_dim");
}
template <std::size_t qk_rope_head_dim, std::size_t index_head_dim>
consteval void rotary_fits_indexer() {
  static_assert(qk_rope_head_dim <= index_head_dim,
                "ds4::ModelConfig: qk_rope_head_dim must not exceed index_head_dim");
}
template <std::size_t num_experts_per_tok, std::size_t n_routed_experts>
consteval void enough_experts() {
  static_assert(num_experts_per_tok <= n_routed_experts && num_experts_per_tok > 0,
                "ds4::ModelConfig: num_experts_per_tok must be 1 to n_routed_experts");
}
template <std::size_t compress_ratios_size, std::size_t num_hidden_layers>
consteval void one_ratio_per_layer() {
  static_assert(compress_ratios_size == num_hidden_layers,
                "ds4::ModelConfig: compress_ratios must have num_hidden_layers entries");
}
template <std::size_t num_hash_layers, std::size_t num_hidden_layers>
consteval void hash_layers_fit() {
  static_assert(num_hash_layers <= num_hidden_layers,
                "ds4::ModelConfig: num_hash_layers must not exceed num_hidden_layers");
}
template <std::size_t num_nextn_predict_layers>
consteval void at_most_one_extra_layer() {
  static_assert(num_nextn_predict_layers <= 1,
                "ds4::ModelConfig: num_nextn_predict_layers must be 0 or 1");
}
template <std::size_t compressed_sparse_attention, std::size_t heavily_compressed_attention>
consteval void rates_tell_kinds_apart() {
  static_assert(compressed_sparse_attention != heavily_compressed_attention &&
                    compressed_sparse_attention > 0 && heavily_compressed_attention > 0,
                "ds4::ModelConfig: compress_rates must be two different ratios above 0");
}
template <std::size_t layer, std::size_t compress_ratio, std::size_t compressed_sparse_attention,
          std::size_t heavily_compressed_attention>
consteval void ratio_has_kind() {
  static_assert(compress_ratio == 0 || compress_ratio == compressed_sparse_attention ||
                    compress_ratio == heavily_compressed_attention,
                "ds4::ModelConfig: compress_ratios must hold 0 or one of compress_rates");
}
template <std::size_t vocab_size, std::size_t hidden_size, std::size_t num_hidden_layers,
          std::size_t head_dim, std::size_t q_lora_rank, std::size_t o_lora_rank,
          std::size_t moe_intermediate_size, std::size_t index_n_heads, std::size_t index_topk,
          std::size_t sliding_window, std::size_t hc_mult, std::size_t hc_sinkhorn_iters>
consteval void nothing_is_empty() {
  static_assert(vocab_size > 0 && hidden_size > 0 && num_hidden_layers > 0 && head_dim > 0 &&
                    q_lora_rank > 0 && o_lora_rank > 0 && moe_intermediate_size > 0 &&
                    index_n_heads > 0 && index_topk > 0 && sliding_window > 0 && hc_mult > 0 &&
                    hc_sinkhorn_iters > 0,
                "ds4::ModelConfig: every size must be at least 1");
}
template <std::size_t dspark_stages, std::size_t dspark_block_size, std::size_t dspark_markov_rank,
          std::size_t dspark_target_layer_ids_size>
consteval void dspark_is_whole() {
  static_assert(
      dspark_stages == 0 ||
          (dspark_block_size > 0 && dspark_markov_rank > 0 && dspark_target_layer_ids_size > 0),
      "ds4::ModelConfig: with dspark_stages above 0, dspark_block_size, dspark_markov_rank "
      "and the entries of dspark_target_layer_ids must be at least 1");
}
template <std::size_t dspark_noise_token_id, std::size_t vocab_size>
consteval void noise_is_a_token() {
  static_assert(dspark_noise_token_id < vocab_size,
                "ds4::ModelConfig: dspark_noise_token_id must be below vocab_size");
}
template <std::size_t dspark_target_layer_id, std::size_t num_hidden_layers>
consteval void target_is_a_layer() {
  static_assert(dspark_target_layer_id < num_hidden_layers,
                "ds4::ModelConfig: dspark_target_layer_ids must be below num_hidden_layers");
}
template <std::size_t dspark_target_layer_id, std::size_t next_dspark_target_layer_id>
consteval void targets_ascend() {
  static_assert(dspark_target_layer_id < next_dspark_target_layer_id,
                "ds4::ModelConfig: dspark_target_layer_ids must be strictly increasing");
}
template <ModelConfig C, std::size_t I = 0>
consteval bool targets_are_layers() {
  if constexpr (I < C::dspark_target_layer_ids.size()) {
    target_is_a_layer<C::dspark_target_layer_ids[I], C::num_hidden_layers>();
    if constexpr (I > 0) {
      targets_ascend<C::dspark_target_layer_ids[I - 1], C::dspark_target_layer_ids[I]>();
    }
    return targets_are_layers<C, I + 1>();
  }
  return true;
}
template <ModelConfig C>
consteval void reals() {
  static_assert(C::rope_theta > 1.0 && C::compress_rope_theta > 1.0,
                "ds4::ModelConfig: rope_theta and compress_rope_theta must exceed 1");
  static_assert(C::rms_norm_eps >= 0.0 && C::hc_eps >= 0.0,
                "ds4::ModelConfig: rms_norm_eps and hc_eps must not be negative");
  static_assert(C::swiglu_limit > 0.0, "ds4::ModelConfig: swiglu_limit must be positive");
  static_assert(C::rope_scaling.factor >= 1.0,
                "ds4::ModelConfig: rope_scaling.factor must be at least 1");
}

template <ModelConfig C, std::size_t Layer = 0>
consteval bool ratios_have_kinds() {
  if constexpr (Layer < C::compress_ratios.size()) {
    ratio_has_kind<Layer, C::compress_ratios[Layer], C::compress_rates.compressed_sparse_attention,
                   C::compress_rates.heavily_compressed_attention>();
    return ratios_have_kinds<C, Layer + 1>();
  }
  return true;
}

}  // namespace check

/// True for a consistent configuration; otherwise the program does not compile and the message
/// names the fields and their values. Source: model.md 1.2.
template <ModelConfig C>
consteval bool checked_config() {
  check::nothing_is_empty<C::vocab_size, C::hidden_size, C::num_hidden_layers, C::head_dim,
                          C::q_lora_rank, C::o_lora_rank, C::moe_intermediate_size,
                          C::index_n_heads, C::index_topk, C::sliding_window, C::hc_mult,
                          C::hc_sinkhorn_iters>();
  check::heads_form_groups<C::num_attention_heads, C::o_groups>();
  check::rotary_pairs<C::qk_rope_head_dim>();
  check::rotary_fits_head<C::qk_rope_head_dim, C::head_dim>();
  check::rotary_fits_indexer<C::qk_rope_head_dim, C::index_head_dim>();
  check::enough_experts<C::num_experts_per_tok, C::n_routed_experts>();
  check::one_ratio_per_layer<C::compress_ratios.size(), C::num_hidden_layers>();
  check::hash_layers_fit<C::num_hash_layers, C::num_hidden_layers>();
  check::at_most_one_extra_layer<C::num_nextn_predict_layers>();
  check::rates_tell_kinds_apart<C::compress_rates.compressed_sparse_attention,
                                C::compress_rates.heavily_compressed_attention>();
  check::dspark_is_whole<C::dspark_stages, C::dspark_block_size, C::dspark_markov_rank,
                         C::dspark_target_layer_ids.size()>();
  if constexpr (C::dspark_stages > 0) {
    check::noise_is_a_token<C::dspark_noise_token_id, C::vocab_size>();
    check::targets_are_layers<C>();
  }
  check::reals<C>();
  return check::ratios_have_kinds<C>();
}

/// The kind of attention of a layer with this compress ratio.
template <ModelConfig C>
constexpr AttentionKind attention_kind(std::size_t compress_ratio) {
  if (compress_ratio == 0) return AttentionKind::sliding;
  return compress_ratio == C::compress_rates.compressed_sparse_attention ? AttentionKind::csa
                                                                         : AttentionKind::hca;
}

/// The router of main layer `layer`: the first num_hash_layers are hash-routed.
template <ModelConfig C>
constexpr RouterKind router_kind(std::size_t layer) {
  return layer < C::num_hash_layers ? RouterKind::hash : RouterKind::learned;
}

}  // namespace ds4::inline v0_1
