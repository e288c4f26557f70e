#include "cli/trainable_choice.hpp"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/runtime/any_trainable.hpp>
#include <ds4/runtime/compiled_model.hpp>

#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {

std::unique_ptr<AnyTrainable> make_trainable(const ConfigValues& config,
                                             const std::filesystem::path& config_file,
                                             const std::string& backend,
                                             const TrainableSource& source) {
  const CompiledModel model = find_compiled(config, config_file, backend, true);
  auto made = model.make_trainable(source);
  if (made == nullptr) {
    throw Error(detail::printable_path(config_file),
                "found " + model.config.name + " on backend " + backend +
                    ", expected a configuration that is compiled in with DSpark");
  }
  if (!source.dir.empty()) warn(Checkpoint::open(source.dir).warnings());
  return made;
}

void add_training_backend_options(Verb& verb, std::string& backend, std::size_t& threads) {
  backend = "simd";
  threads = default_threads();
  verb.add_option("--backend", backend, "How to compute: simd, reference")
      .capture_default_str()
      .one_of({"simd", "reference"});
  verb.add_option("--threads", threads, "Threads; the reference backend always uses one")
      .capture_default_str()
      .check(expect_count(1, kMostThreads));
}

}  // namespace ds4::cli
