// Configurations by name: those of the release, or those in files.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>

namespace ds4::cli {

/// The configuration that `name` stands for: "flash", "pro", a config.json or its folder. Throws
/// ds4::Error as read_config does.
inline ConfigValues named_config(const std::string& name) {
  if (name == "flash") return config_values<Flash>();
  if (name == "pro") return config_values<Pro>();
  std::error_code error;
  if (std::filesystem::is_directory(name, error)) {
    return read_config(std::filesystem::path(name) / "config.json");
  }
  return read_config(name);
}

}  // namespace ds4::cli
