// A configuration at run time: the members of a configuration type as values, to compare and print.
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>

namespace ds4::inline v0_1 {

/// What a configuration type states (see ModelConfig), and what only a config.json does.
struct ConfigValues {
  std::string name;  ///< of the configuration type; a file has none
  ///@{
  /// See ModelConfig; compress_ratios are those of the main layers.
  std::size_t vocab_size = 0;
  std::size_t hidden_size = 0;
  std::size_t num_hidden_layers = 0;
  std::size_t num_attention_heads = 0;
  std::size_t head_dim = 0;
  std::size_t qk_rope_head_dim = 0;
  std::size_t q_lora_rank = 0;
  std::size_t o_groups = 0;
  std::size_t o_lora_rank = 0;
  std::size_t n_routed_experts = 0;
  std::size_t num_experts_per_tok = 0;
  std::size_t moe_intermediate_size = 0;
  double routed_scaling_factor = 0.0;
  double swiglu_limit = 0.0;
  std::size_t num_hash_layers = 0;
  std::size_t index_n_heads = 0;
  std::size_t index_head_dim = 0;
  std::size_t index_topk = 0;
  std::size_t sliding_window = 0;
  std::vector<std::size_t> compress_ratios;
  CompressRates compress_rates;
  double rope_theta = 0.0;
  double compress_rope_theta = 0.0;
  RopeScaling rope_scaling;
  std::size_t hc_mult = 0;
  std::size_t hc_sinkhorn_iters = 0;
  double hc_eps = 0.0;
  double rms_norm_eps = 0.0;
  std::size_t max_position_embeddings = 0;
  std::size_t num_nextn_predict_layers = 0;
  ///@}

  ///@{
  /// Token ids, where the file states them.
  std::optional<std::size_t> bos_token_id;
  std::vector<std::size_t> eos_token_ids;
  ///@}
  bool has_dspark = false;  ///< the file announces the dspark drafter, which ds4 does not run
};

/// The list of fields, once: calls f(name, a.field, b.field, ...) for every field that `values`
/// must agree in. Each of them is a ConfigValues or an instance of a configuration type.
template <class F, class... Values>
constexpr void visit_fields(F&& f, Values&&... values) {
  f("vocab_size", values.vocab_size...);
  f("hidden_size", values.hidden_size...);
  f("num_hidden_layers", values.num_hidden_layers...);
  f("num_attention_heads", values.num_attention_heads...);
  f("head_dim", values.head_dim...);
  f("qk_rope_head_dim", values.qk_rope_head_dim...);
  f("q_lora_rank", values.q_lora_rank...);
  f("o_groups", values.o_groups...);
  f("o_lora_rank", values.o_lora_rank...);
  f("n_routed_experts", values.n_routed_experts...);
  f("num_experts_per_tok", values.num_experts_per_tok...);
  f("moe_intermediate_size", values.moe_intermediate_size...);
  f("routed_scaling_factor", values.routed_scaling_factor...);
  f("swiglu_limit", values.swiglu_limit...);
  f("num_hash_layers", values.num_hash_layers...);
  f("index_n_heads", values.index_n_heads...);
  f("index_head_dim", values.index_head_dim...);
  f("index_topk", values.index_topk...);
  f("sliding_window", values.sliding_window...);
  f("compress_ratios", values.compress_ratios...);
  f("compress_rates.compressed_sparse_attention",
    values.compress_rates.compressed_sparse_attention...);
  f("compress_rates.heavily_compressed_attention",
    values.compress_rates.heavily_compressed_attention...);
  f("rope_theta", values.rope_theta...);
  f("compress_rope_theta", values.compress_rope_theta...);
  f("rope_scaling.factor", values.rope_scaling.factor...);
  f("rope_scaling.original_max_position_embeddings",
    values.rope_scaling.original_max_position_embeddings...);
  f("rope_scaling.beta_fast", values.rope_scaling.beta_fast...);
  f("rope_scaling.beta_slow", values.rope_scaling.beta_slow...);
  f("hc_mult", values.hc_mult...);
  f("hc_sinkhorn_iters", values.hc_sinkhorn_iters...);
  f("hc_eps", values.hc_eps...);
  f("rms_norm_eps", values.rms_norm_eps...);
  f("max_position_embeddings", values.max_position_embeddings...);
  f("num_nextn_predict_layers", values.num_nextn_predict_layers...);
}

namespace detail {

inline std::string field_text(std::size_t value) { return std::to_string(value); }

/// The shortest text that reads back as the same double.
inline std::string field_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return {buffer, end};
}

inline std::string field_text(const std::vector<std::size_t>& values) {
  std::string text;
  for (const std::size_t value : values) text += (text.empty() ? "" : ", ") + field_text(value);
  return "[" + text + "]";
}

}  // namespace detail

/// The values of configuration C; the members that only a file has stay empty.
template <ModelConfig C>
ConfigValues config_values() {
  ConfigValues values;
  values.name = std::string_view(C::name);
  visit_fields(
      [](std::string_view, auto& to, const auto& from) {
        if constexpr (std::is_same_v<decltype(to), std::vector<std::size_t>&>) {
          for (std::size_t i = 0; i < from.size(); ++i)
            to.push_back(static_cast<std::size_t>(from[i]));
        } else {
          to = static_cast<std::remove_reference_t<decltype(to)>>(from);
        }
      },
      values, C{});
  return values;
}

/// One line "field: value" for every field.
inline std::string to_string(const ConfigValues& values) {
  std::string text;
  visit_fields(
      [&](std::string_view field, const auto& value) {
        text.append(field).append(": ").append(detail::field_text(value)).append("\n");
      },
      values);
  return text;
}

/// A field in which a file and a compiled configuration differ; for a list, one entry of it.
struct FieldDifference {
  std::string field;     ///< its name, with an index for an entry of a list
  std::string found;     ///< in the file
  std::string expected;  ///< as compiled
};

/// The fields in which two configurations differ, all of them: name and token ids do not count.
/// Lists of equal length are compared entry by entry ("compress_ratios[3]").
inline std::vector<FieldDifference> compare(const ConfigValues& file,
                                            const ConfigValues& compiled) {
  std::vector<FieldDifference> differences;
  const auto check = [&](std::string field, const auto& found, const auto& expected) {
    if (found == expected) return;
    differences.push_back(
        {std::move(field), detail::field_text(found), detail::field_text(expected)});
  };
  visit_fields(
      [&](std::string_view field, const auto& found, const auto& expected) {
        if constexpr (requires { found.size(); }) {
          if (found.size() == expected.size()) {
            for (std::size_t i = 0; i < found.size(); ++i) {
              check(std::string(field) + "[" + std::to_string(i) + "]", found[i], expected[i]);
            }
            return;
          }
        }
        check(std::string(field), found, expected);
      },
      file, compiled);
  return differences;
}

}  // namespace ds4::inline v0_1
