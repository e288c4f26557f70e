// The published checkpoints' configurations by name, without their files.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>

namespace ds4::inline v0_1 {

/// A configuration that allows for either drafter, with the one that a checkpoint has.
inline ConfigValues with_drafter(ConfigValues config, DrafterKind drafter) {
  if (drafter != DrafterKind::mtp) config.num_nextn_predict_layers = 0;
  if (drafter != DrafterKind::dspark) {
    config.has_dspark = false;
    config.dspark_stages = config.dspark_block_size = config.dspark_noise_token_id = 0;
    config.dspark_markov_rank = 0;
    config.dspark_target_layer_ids.clear();
  }
  return config;
}

/// What the config.json of a published checkpoint states: flash-2026-04 and pro-2026-04, for short
/// flash and pro, with the multi-token-prediction layer; flash-base; flash-0731, pro-0813 and
/// flash-vision-exp with DSpark. Nothing for another name.
inline std::optional<ConfigValues> released_config(std::string_view name) {
  const auto release = [](ConfigValues config, DrafterKind drafter, const char* expert_dtype) {
    config = with_drafter(std::move(config), drafter);
    config.expert_dtype = expert_dtype;
    config.bos_token_id = 0;
    config.eos_token_ids = {1};
    return config;
  };
  if (name == "flash" || name == "flash-2026-04") {
    return release(config_values<Flash>(), DrafterKind::mtp, "fp4");
  }
  if (name == "pro" || name == "pro-2026-04") {
    return release(config_values<Pro>(), DrafterKind::mtp, "fp4");
  }
  if (name == "flash-base") return release(config_values<Flash>(), DrafterKind::mtp, "fp8");
  if (name == "flash-0731") return release(config_values<Flash>(), DrafterKind::dspark, "fp4");
  if (name == "pro-0813") return release(config_values<Pro>(), DrafterKind::dspark, "fp4");
  if (name == "flash-vision-exp") {
    ConfigValues config = release(config_values<FlashVision>(), DrafterKind::dspark, "fp4");
    config.vision = VisionSizes{
        .n_layers = 32, .dim = 1024, .inter_dim = 2816, .patch_size = 14, .downsample_ratio = 3};
    return config;
  }
  return std::nullopt;
}

}  // namespace ds4::inline v0_1
