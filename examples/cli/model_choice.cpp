#include "cli/model_choice.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>

#include "cli/any_model.hpp"
#include "cli/io.hpp"
#include "cli/options.hpp"
#include "cli/ranks.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {

namespace fs = std::filesystem;

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const CompiledModel& model : compiled_models()) {
    if (std::ranges::find(names, model.backend) == names.end()) names.emplace_back(model.backend);
  }
  return names;
}

namespace {

#ifdef DS4_CLI_MPI
constexpr std::string_view kOfRanks = "mpi";

std::string default_backend(const std::vector<std::string>& backends) {
  return is_on_ranks() ? std::string(kOfRanks) : backends.front();
}
std::unique_ptr<AnyModel> load_compiled(const CompiledModel& model, const fs::path& dir,
                                        const BackendOptions& options) {
  return model.backend == kOfRanks ? load_on_ranks(model, dir, options) : model.load(dir, options);
}
#else
std::string default_backend(const std::vector<std::string>& backends) { return backends.front(); }
std::unique_ptr<AnyModel> load_compiled(const CompiledModel& model, const fs::path& dir,
                                        const BackendOptions& options) {
  return model.load(dir, options);
}
#endif

}  // namespace

void add_model_options(Verb& verb, ModelChoice& choice, bool needs_model) {
  const std::vector<std::string> backends = backend_names();
  std::string available;
  for (const auto& name : backends) available += (available.empty() ? "" : ", ") + name;
  choice.backend = default_backend(backends);
  choice.threads = default_threads();

  const Option model =
      verb.add_option("--model", choice.dir, "Folder of the checkpoint").check(expect_path());
  if (needs_model) model.required();
  verb.add_option("--backend", choice.backend, "How to compute: " + available)
      .capture_default_str()
      .check([=](const std::string& name) {
        const bool known = std::ranges::find(backends, name) != backends.end();
        return known ? "" : "expected one of " + available + ", found " + detail::in_quotes(name);
      });
  verb.add_option(
          "--threads", choice.threads,
          "At most so many threads: unless told, one per core that the process may use; the "
          "reference backend always uses one")
      .capture_default_str()
      .check(expect_count(1, kMostThreads));
  verb.add_flag("--pin", choice.pin,
                "Keep each thread on one processor (simd): for a machine where nothing else runs");
  verb.add_option("--memory-budget", choice.memory_budget,
                  "GB of weights to keep in memory: those that every token reads, then the experts "
                  "used most; the others stay in the files. Unless told, all or none")
      .check(expect<double>("a number from 0 to 1e6",
                            [](double gb) { return gb >= 0.0 && gb <= 1e6; }));
  verb.add_flag("--exact", choice.exact,
                "Activations and state in float32, also where weights are stored in less");
  verb.add_flag("--deterministic,!--no-deterministic", choice.deterministic,
                "The same logits for any split, batch and number of threads; both backends always "
                "compute so");
}

fs::path model_dir(const ModelChoice& choice) {
  if (!choice.dir.empty()) return choice.dir;
  std::vector<fs::path> places{DS4_DEFAULT_MODEL_DIR};
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    const fs::path folder = program.parent_path();
    places.insert(places.begin(), (folder / DS4_INSTALLED_MODEL_DIR).lexically_normal());
    // The build folder has been moved, or copied to another machine.
    places.push_back(folder / "models/austen");
    places.push_back(folder.parent_path() / "models/austen");
  }
  for (const fs::path& place : places) {
    if (fs::exists(place / "config.json", error)) return place;
  }
  throw Error("--model", "expected the folder of a checkpoint, as the default " +
                             detail::printable_path(places.front()) + " does not exist");
}

NearestModel nearest_model(const ConfigValues& config, std::string_view backend) {
  NearestModel nearest{nullptr, {}};
  bool drafts = false;  // the nearest has the configuration's drafter
  for (const CompiledModel& model : compiled_models()) {
    if (model.backend != backend) continue;
    auto differences = compare(config, model.config);
    const bool own_drafts = config.has_dspark ? model.config.has_dspark
                                              : model.config.num_nextn_predict_layers >=
                                                    config.num_nextn_predict_layers;
    const bool is_nearer = differences.size() != nearest.differences.size()
                               ? differences.size() < nearest.differences.size()
                               : own_drafts && !drafts;
    if (nearest.model == nullptr || is_nearer) {
      nearest = {&model, std::move(differences)};
      drafts = own_drafts;
    }
  }
  if (nearest.model == nullptr) {
    throw Error("--backend", "found " + std::string(backend) + ", which is not compiled in");
  }
  return nearest;
}

std::string differences_in_words(const NearestModel& nearest) {
  constexpr std::size_t kShown = 4;
  const auto& all = nearest.differences;
  std::string text;
  for (std::size_t i = 0; i < std::min(all.size(), kShown); ++i) {
    text += (i == 0 ? "" : "; ") + all[i].field + ": found " + all[i].found + ", expected " +
            all[i].expected;
  }
  if (all.size() > kShown) text += "; and " + std::to_string(all.size() - kShown) + " more";
  return text;
}

std::string command_that_adds(const fs::path& config_file) {
  const fs::path path = fs::absolute(config_file).lexically_normal();
  return "cmake -B build -DDS4_MODEL_CONFIGS=\"" + detail::printable_path(path) + "\"";
}

const CompiledModel& expect_compiled_in(const NearestModel& nearest, const fs::path& config_file) {
  if (!nearest.differences.empty()) {
    throw Error(detail::printable_path(config_file),
                "no compiled-in model has this configuration; the nearest, " +
                    nearest.model->config.name + ", differs in " + differences_in_words(nearest) +
                    "; to add it: " + command_that_adds(config_file));
  }
  return *nearest.model;
}

std::unique_ptr<AnyModel> load_model(const ModelChoice& choice) {
  const fs::path dir = model_dir(choice);
  const fs::path config_file = dir / "config.json";
  const CompiledModel& model =
      expect_compiled_in(nearest_model(read_config(config_file), choice.backend), config_file);
  std::optional<std::size_t> budget;
  if (choice.memory_budget) budget = static_cast<std::size_t>(*choice.memory_budget * 1e9);
  auto loaded = load_compiled(model, dir,
                              {.threads = choice.threads,
                               .pin = choice.pin,
                               .exact = choice.exact,
                               .memory_budget = budget});
  warn(loaded->checkpoint().warnings());
  return loaded;
}

}  // namespace ds4::cli
