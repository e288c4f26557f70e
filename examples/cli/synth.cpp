// ds4 synth: writes a random checkpoint of any configuration.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <ds4/checkpoint/synth.hpp>
#include <ds4/config/config_values.hpp>

#include "cli/named_config.hpp"
#include "cli/options.hpp"
#include "cli/progress.hpp"
#include "cli/storage_formats.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct SynthOptions {
  std::string config;
  std::string format = "bf16";
  std::size_t layers = 0;  // 0: all
  std::uint64_t seed = 1;
  std::string out;
};

void synth(const SynthOptions& options) {
  ConfigValues config = named_config(options.config);
  if (options.layers > 0) config = truncated(std::move(config), options.layers);
  ProgressBar bar;
  synthesise(config, kStorageFormats.at(options.format), options.seed, options.out,
             [&](std::size_t written, std::size_t total) { bar.show(written, total); });
}

void add_options(Verb& verb) {
  auto options = std::make_shared<SynthOptions>();
  verb.add_option("CONFIG", options->config, kNamedConfigs).required().check(expect_path());
  verb.add_option("--layers", options->layers,
                  "The first layers only: the schedule's prefix and some of its pairs; DSpark, "
                  "which then reads the last of these, stays")
      .check(expect_count(1));
  verb.add_option("--format", options->format, "Storage of the matrices")
      .capture_default_str()
      .one_of({"f32", "bf16", "release", "base"});
  verb.add_option("--seed", options->seed, "The same seed gives the same checkpoint")
      .capture_default_str()
      .check(expect_seed());
  verb.add_option("--out", options->out, "Folder to write; made if it is missing")
      .required()
      .check(expect_path());
  verb.callback([options] { synth(*options); });
}

const VerbRegistration kSynth(
    90, "synth", "Write a random checkpoint of a configuration, for tests and benchmarks",
    add_options);

}  // namespace

}  // namespace ds4::cli
