// ds4 add: compiles a configuration once. ds4 models: what is compiled.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/plugin.hpp>

#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

namespace fs = std::filesystem;

std::string megabytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

struct AddOptions {
  std::string config;
  std::vector<std::string> backends{"simd"};
  bool trainable = false;
};

void add(const AddOptions& options) {
  fs::path file = options.config;
  std::error_code error;
  if (fs::is_directory(file, error)) file /= "config.json";
  const ConfigValues config = read_config(file);
  for (const std::string& backend : options.backends) {
    const NearestModel nearest = nearest_model(compiled_models(), config, backend);
    const bool trains = !options.trainable || nearest.model->make_trainable != nullptr;
    if (nearest.differences.empty() && trains) {
      print(nearest.model->config.name + " on " + backend + ": compiled in\n");
      continue;
    }
    const PluginFile added = add_configuration(config, file, backend, options.trainable);
    print(added.name + " on " + backend + ": " + ds4::detail::printable_path(added.path) + ", " +
          megabytes(added.bytes) + "\n");
  }
}

void add_add_options(Verb& verb) {
  auto options = std::make_shared<AddOptions>();
  verb.add_option("CONFIG", options->config, "A config.json, or the folder of a checkpoint")
      .required()
      .check(expect_path());
  verb.add_option("--backends", options->backends, "What to compile it for: simd, reference")
      .capture_default_str()
      .delimiter(',')
      .one_of({"simd", "reference"});
  verb.add_flag("--trainable", options->trainable, "For training and gradients as well");
  verb.callback([options] { add(*options); });
}

struct ModelsOptions {
  std::string remove;
};

void list_models() {
  std::string text;
  for (const CompiledModel& model : compiled_models()) {
    text += model.config.name + "  " + std::string(model.backend) +
            (model.make_trainable != nullptr ? "-trainable" : "") + "  compiled in\n";
  }
  for (const PluginFile& file : list_plugins(plugin_folder())) {
    text += file.name + "  " + file.kind + "  " + megabytes(file.bytes) + "  " +
            ds4::detail::printable_path(file.path) + "\n";
  }
  print(text);
}

void remove_models(const std::string& name) {
  std::size_t removed = 0;
  for (const PluginFile& file : list_plugins(plugin_folder())) {
    if (name != file.name && name != "all") continue;
    std::error_code error;
    fs::remove(file.path, error);
    if (error) ds4::detail::throw_errno(file.path, "remove", error.value());
    ++removed;
    print("removed " + ds4::detail::printable_path(file.path) + "\n");
  }
  if (removed == 0) {
    throw Error("--remove", "expected the name of a model in the cache, or all, found " +
                                ds4::detail::in_quotes(name));
  }
}

void add_models_options(Verb& verb) {
  auto options = std::make_shared<ModelsOptions>();
  verb.add_option("--remove", options->remove, "Remove those of this name from the cache, or all");
  verb.callback([options] {
    if (options->remove.empty()) {
      list_models();
    } else {
      remove_models(options->remove);
    }
  });
}

const VerbRegistration kAdd(70, "add", "Compile a configuration, once, for every verb to find",
                            add_add_options);
const VerbRegistration kModels(71, "models", "List the models that are compiled in or added",
                               add_models_options);

}  // namespace

}  // namespace ds4::cli
