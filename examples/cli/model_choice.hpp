// --model, --backend, --threads, --pin, --memory-budget and --exact: which model runs, and how.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>

#include "cli/verb.hpp"

namespace ds4::cli {

struct ModelChoice {
  std::string dir;      ///< empty: the model that comes with ds4
  std::string backend;  ///< one of compiled_models()
  std::size_t threads = 0;
  bool pin = false;
  std::optional<double> memory_budget = {};  ///< GB of weights
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

/// The model, if it has the configuration that config_file states. Throws ds4::Error otherwise,
/// which says what to do about it.
const CompiledModel& expect_compiled_in(const NearestModel& nearest,
                                        const std::filesystem::path& config_file);

/// The command that adds the configuration to the program.
std::string command_that_adds(const std::filesystem::path& config_file);

}  // namespace ds4::cli
