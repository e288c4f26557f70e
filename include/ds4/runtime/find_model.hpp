// Which compiled model runs a configuration: one of the program, or a plugin.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/plugin.hpp>

namespace ds4::inline v0_1 {

/// Whether plugins are compiled for a backend of this name.
inline bool can_be_plugin(std::string_view backend) {
  return backend == "simd" || backend == "reference";
}

/// Where plugins are looked for, and who loads them.
struct PluginPlace {
  std::filesystem::path headers;    ///< see PluginCompiler; empty: there are no plugins
  PluginHost host = plugin_host();  ///< what they are given
};

/// The model of compiled_models() that runs a configuration on a backend, or the plugin that does;
/// none if there is neither. `trainable`: one that trains as well. Throws ds4::Error for a backend
/// that nothing is compiled on, and if a plugin cannot be loaded.
inline std::optional<CompiledModel> look_for_model(const ConfigValues& config,
                                                   std::string_view backend,
                                                   const PluginPlace& place,
                                                   bool trainable = false) {
  const NearestModel nearest = nearest_model(compiled_models(), config, backend);
  const bool trains = nearest.model->make_trainable != nullptr;
  if (nearest.differences.empty() && (trains || !trainable)) return *nearest.model;
  if (place.headers.empty() || !can_be_plugin(backend)) return std::nullopt;
  const std::uint64_t headers = headers_checksum(place.headers);
  for (const bool with_training : {true, false}) {
    if (trainable && !with_training) continue;
    const PluginKey key{config, std::string(backend), with_training};
    const auto file = find_plugin(plugin_folder(), plugin_fingerprint(key, headers));
    if (file) return load_plugin(*file, place.host);
  }
  return std::nullopt;
}

/// The command that compiles the configuration of a file: ds4 add "DIR/config.json" ...
inline std::string command_that_adds(const std::filesystem::path& config_file,
                                     std::string_view backend, bool trainable = false) {
  std::error_code error;
  const auto path = std::filesystem::absolute(config_file, error).lexically_normal();
  return "ds4 add \"" + detail::printable_path(path) + "\"" +
         (backend == "simd" ? "" : " --backends " + std::string(backend)) +
         (trainable ? " --trainable" : "");
}

/// Throws ds4::Error: no model has the configuration that `config_file` states. With the nearest
/// one, in what that differs, and the command that adds it, if one can.
[[noreturn]] inline void refuse_model(const ConfigValues& config, std::string_view backend,
                                      const std::filesystem::path& config_file,
                                      bool trainable = false) {
  const NearestModel nearest = nearest_model(compiled_models(), config, backend);
  const std::string found = nearest.differences.empty()
                                ? "no model of this configuration is compiled for training"
                                : "no compiled-in model has this configuration; the nearest, " +
                                      nearest.model->config.name + ", differs in " +
                                      differences_in_words(nearest);
  std::error_code error;
  const bool can_be_added = can_be_plugin(backend) && std::filesystem::exists(config_file, error);
  throw Error(
      detail::printable_path(config_file),
      found + (can_be_added ? "; to add it: " + command_that_adds(config_file, backend, trainable)
                            : ", expected one that is compiled in"));
}

/// As look_for_model, of the configuration that `config_file` states, and as refuse_model if there
/// is none.
inline CompiledModel find_model(const ConfigValues& config, std::string_view backend,
                                const std::filesystem::path& config_file, const PluginPlace& place,
                                bool trainable = false) {
  if (const auto found = look_for_model(config, backend, place, trainable)) return *found;
  refuse_model(config, backend, config_file, trainable);
}

}  // namespace ds4::inline v0_1
