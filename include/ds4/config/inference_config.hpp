// The configuration of the release's own inference code as a config.json.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

namespace ds4::inline v0_1::detail {

/// The fields of inference/config.json, which comes with a release beside config.json, under the
/// names of config.json; nothing if the object is not of that form, by its `dim` and no
/// model_type. What it does not state is what ModelArgs of that code has: norm_eps and hc_eps 1e-6,
/// one shared expert and one key/value head. It knows no max_position_embeddings: YaRN's
/// original_seq_len times rope_factor, which config.json of all releases agrees with.
inline std::optional<nlohmann::json> release_form(const nlohmann::json& root) {
  if (!root.contains("dim") || root.contains("model_type")) return std::nullopt;
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"dim", "hidden_size"},
      {"moe_inter_dim", "moe_intermediate_size"},
      {"n_layers", "num_hidden_layers"},
      {"n_hash_layers", "num_hash_layers"},
      {"n_mtp_layers", "num_nextn_predict_layers"},
      {"n_heads", "num_attention_heads"},
      {"n_activated_experts", "num_experts_per_tok"},
      {"score_func", "scoring_func"},
      {"route_scale", "routed_scaling_factor"},
      {"rope_head_dim", "qk_rope_head_dim"},
      {"window_size", "sliding_window"},
      {"norm_eps", "rms_norm_eps"},
      {"rope_factor", "rope_scaling.factor"},
      {"original_seq_len", "rope_scaling.original_max_position_embeddings"},
      {"beta_fast", "rope_scaling.beta_fast"},
      {"beta_slow", "rope_scaling.beta_slow"},
  };
  nlohmann::json form = root;
  form.erase("rope_scaling");
  for (const auto& [from, to] : kNames) {
    const auto field = form.find(from);
    if (field == form.end()) continue;
    nlohmann::json value = std::move(*field);
    form.erase(field);
    const std::string path(to);
    const std::size_t dot = path.find('.');
    (dot == path.npos ? form[path] : form[path.substr(0, dot)][path.substr(dot + 1)]) =
        std::move(value);
  }
  form["model_type"] = "deepseek_v4";
  form["num_key_value_heads"] = 1;
  form.emplace("n_shared_experts", 1);
  form.emplace("rms_norm_eps", 1e-6);
  form.emplace("hc_eps", 1e-6);
  if (form.contains("rope_scaling")) {
    nlohmann::json& scaling = form["rope_scaling"];
    scaling["type"] = "yarn";
    const auto length = scaling.find("original_max_position_embeddings");
    const auto factor = scaling.find("factor");
    if (length != scaling.end() && length->is_number_unsigned() && factor != scaling.end() &&
        factor->is_number()) {
      const double positions = length->get<double>() * factor->get<double>();
      if (positions >= 0.0 && positions < 2147483648.0) {
        form["max_position_embeddings"] = static_cast<std::size_t>(positions);
      }
    }
  }
  return std::optional<nlohmann::json>(std::in_place, std::move(form));
}

}  // namespace ds4::inline v0_1::detail
