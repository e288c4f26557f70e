// Reading config.json, in the release's form and in transformers', without guessing.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include <ds4/config/config_values.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// The configuration in the value of a config.json; see read_config().
ConfigValues config_from_json(std::string_view where, const nlohmann::json& root);

}  // namespace detail

/// The configuration that a config.json states, in the release's form or transformers'. Optional
/// are bos_token_id, eos_token_id, num_nextn_predict_layers (absent: 0), rope_scaling (absent or
/// null: none) and, beside compress_ratios, compress_rates. Throws one ds4::Error that names all
/// fields that are missing, of another type, contradictory or of a value that ds4 does not support;
/// then all that do not fit together, as checked_config() says of a type.
/// Source: model.md 1.
ConfigValues read_config(const std::filesystem::path& config_json_file);

/// The text of a config.json that read_config reads back as the same values.
std::string config_json(const ConfigValues& values);

}  // namespace ds4::inline v0_1

#ifndef DS4_COMPILED
#include <ds4/config/config_json_definitions.hpp>
#endif
