// Configurations by name: those of the releases, or those in files.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/releases.hpp>

namespace ds4::cli {

/// What an option that takes such a name says of it.
inline constexpr const char* kNamedConfigs =
    "flash, pro (the releases of April 2026), flash-0731, pro-0813, flash-base, flash-vision-exp, "
    "or a config.json";

/// The configuration that `name` stands for: a released checkpoint's, see released_config(), or
/// that of a config.json or its folder, where the tensors say what the file leaves to them. Throws
/// ds4::Error as read_config does.
inline ConfigValues named_config(const std::string& name) {
  if (auto released = released_config(name)) return *released;
  std::error_code error;
  const std::filesystem::path path(name);
  if (!std::filesystem::is_directory(path, error)) return read_config(path);
  ConfigValues config = read_config(path / "config.json");
  if (config.has_dspark && config.dspark_stages == 0) {
    for (const char* file : {"model.safetensors", "model.safetensors.index.json"}) {
      if (!std::filesystem::exists(path / file, error)) continue;
      complete_drafter(config, Checkpoint::open(path));
      break;
    }
  }
  return config;
}

}  // namespace ds4::cli
