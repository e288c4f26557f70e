// --model, --backend, --threads, --pin, --memory-budget and --exact: which model runs, and how.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config_values.hpp>

#include "cli/any_model.hpp"
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

/// The compiled-in model nearest to a configuration, and in what that differs from it. Throws
/// ds4::Error for a backend that none is compiled in on.
struct NearestModel {
  const CompiledModel* model;
  std::vector<FieldDifference> differences;  ///< none: this model runs it
};
NearestModel nearest_model(const ConfigValues& config, std::string_view backend);

/// The model, if it has the configuration that config_file states. Throws ds4::Error otherwise,
/// which says what to do about it.
const CompiledModel& expect_compiled_in(const NearestModel& nearest,
                                        const std::filesystem::path& config_file);

/// The first differences in words, and the command that adds the configuration to the program.
std::string differences_in_words(const NearestModel& nearest);
std::string command_that_adds(const std::filesystem::path& config_file);

/// The backends of compiled_models(); the first one is the default.
std::vector<std::string> backend_names();

}  // namespace ds4::cli
