// --model, --backend, --threads, --pin, --memory-budget and --exact: which model runs, and how.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <ds4/config/config_values.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/find_model.hpp>
#include <ds4/runtime/plugin.hpp>

#include "cli/verb.hpp"

namespace ds4::cli {

struct ModelChoice {
  std::string dir;      ///< empty: the model that comes with ds4
  std::string backend;  ///< one of compiled_models()
  std::size_t threads = 0;
  bool pin = false;
  std::optional<double> memory_budget = {};  ///< GB of weights
  std::optional<std::size_t> chunk = {};     ///< tokens of a pass over a prompt
  bool exact = false;
  bool deterministic = true;
};

/// Adds the options to a verb. Those that need one must be given a --model.
void add_model_options(Verb& verb, ModelChoice& choice, bool needs_model);

/// The folder of the chosen model. Throws ds4::Error if that is the default and it is not found.
std::filesystem::path model_dir(const ModelChoice& choice);

/// Loads the chosen model. Throws ds4::Error if it is not compiled in (the text then says what to
/// do about it) or cannot be loaded.
std::unique_ptr<AnyModel> load_model(const ModelChoice& choice);

/// The compiled model that runs the configuration of config_file, which may be a plugin. On a
/// terminal, one that is missing is offered to be compiled. Throws ds4::Error otherwise, which says
/// what to do about it.
CompiledModel find_compiled(const ConfigValues& config, const std::filesystem::path& config_file,
                            const std::string& backend, bool trainable = false);

/// What this program compiles plugins with, and where it looks for them.
PluginCompiler plugin_compiler();
PluginPlace plugin_place();

/// Compiles a configuration for a backend, unless it is there, with a line of progress. Throws
/// ds4::Error as add_plugin() does, and Quit if it is interrupted.
PluginFile add_configuration(const ConfigValues& config, const std::filesystem::path& config_file,
                             const std::string& backend, bool trainable);

}  // namespace ds4::cli
