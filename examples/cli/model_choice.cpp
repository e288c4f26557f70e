#include "cli/model_choice.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/find_model.hpp>
#include <ds4/runtime/plugin.hpp>

#include "cli/io.hpp"
#include "cli/options.hpp"
#include "cli/progress.hpp"
#include "cli/ranks.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {

namespace fs = std::filesystem;

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
  const std::vector<std::string> backends = backends_of(compiled_models());
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
  verb.add_option(
          "--chunk", choice.chunk,
          "Tokens of a pass over a long prompt; unless told, at most 512, and more where weights "
          "are larger than memory: a pass reads them from the disk once, however many tokens it "
          "has")
      .check(expect_count(1));
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

PluginCompiler plugin_compiler() {
  PluginCompiler compiler;
  std::vector<fs::path> places{DS4_INCLUDE_DIR};
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    places.insert(places.begin(),
                  (program.parent_path() / DS4_INSTALLED_INCLUDE_DIR).lexically_normal());
  }
  for (const fs::path& place : places) {
    if (!compiler.headers.empty() || !fs::exists(place / "ds4/model.hpp", error)) continue;
    compiler.headers = place;
  }
  compiler.flags = include_flags(DS4_PLUGIN_INCLUDES);
  return compiler;
}

PluginFile add_configuration(const ConfigValues& config, const fs::path& config_file,
                             const std::string& backend, bool trainable) {
  const PluginCompiler compiler = plugin_compiler();
  if (compiler.headers.empty()) {
    throw Error("add",
                "expected the headers of ds4 to compile with, found none: install them "
                "(Debian's libds4-dev, or cmake --install)");
  }
  PluginKey key{config, backend, trainable};
  key.config.name = plugin_name(config_file);
  catch_interrupts();
  const bool show = error_is_terminal();
  int shown = -1;
  const auto progress = [&](double seconds) {
    if (show && static_cast<int>(seconds) != shown) {
      shown = static_cast<int>(seconds);
      print_error("\rcompiling " + key.config.name + " for " + backend + ": " +
                  std::to_string(shown) + " s, of about 60");
    }
    return !interrupted();
  };
  struct Line {  // also if it fails
    bool show;
    ~Line() {
      if (show) print_error("\r\x1b[K");
    }
  } const line{show};
  try {
    return add_plugin(plugin_folder(true), key, compiler, progress);
  } catch (const Stopped&) {
    throw Quit{};
  }
}

PluginPlace plugin_place() {
  PluginPlace place{.headers = plugin_compiler().headers};
  place.host.guards_faults = true;
  return place;
}

namespace {

/// Asks on the terminal; true for yes.
bool offers(const fs::path& config_file, const std::string& backend) {
  if (!input_is_terminal() || !error_is_terminal()) return false;
  print_error("no compiled-in model has the configuration of " +
              ds4::detail::printable_path(config_file) + "; compile it for " + backend +
              " now, once, in about a minute? [y/n] ");
  std::string line;
  return read_line(line) == Input::line && (line == "y" || line == "yes");
}

}  // namespace

CompiledModel find_compiled(const ConfigValues& config, const fs::path& config_file,
                            const std::string& backend, bool trainable) {
  const PluginPlace place = plugin_place();
  if (auto found = look_for_model(config, backend, place, trainable)) return *found;
  if (!place.headers.empty() && can_be_plugin(backend) && offers(config_file, backend)) {
    return load_plugin(add_configuration(config, config_file, backend, trainable), place.host);
  }
  refuse_model(config, backend, config_file, trainable);
}

std::unique_ptr<AnyModel> load_model(const ModelChoice& choice) {
  const fs::path dir = model_dir(choice);
  const fs::path config_file = dir / "config.json";
  const CompiledModel model = find_compiled(read_config(config_file), config_file, choice.backend);
  std::optional<std::size_t> budget;
  if (choice.memory_budget) budget = static_cast<std::size_t>(*choice.memory_budget * 1e9);
  const auto bar = std::make_shared<ProgressBar>();
  auto loaded = load_compiled(
      model, dir,
      {.threads = choice.threads,
       .pin = choice.pin,
       .exact = choice.exact,
       .memory_budget = budget,
       .prefill_chunk = choice.chunk,
       .progress = [bar](std::size_t done, std::size_t total) { bar->show(done, total); },
       .note = [](const std::string& line) { complain("ds4: " + line); }});
  warn(loaded->checkpoint().warnings());
  return loaded;
}

}  // namespace ds4::cli
