// ds4 synth: writes a random checkpoint of any configuration.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include <ds4/checkpoint/synth.hpp>
#include <ds4/dtype.hpp>

#include "cli/io.hpp"
#include "cli/options.hpp"
#include "cli/verbs.hpp"

namespace ds4::cli {
namespace {

struct SynthOptions {
  std::string config;
  std::string format = "bf16";
  std::uint64_t seed = 1;
  std::string out;
};

void synth(const SynthOptions& options) {
  int shown = -1;
  synthesise(options.config, options.format == "f32" ? DType::f32 : DType::bf16, options.seed,
             options.out, [&](std::size_t written, std::size_t total) {
               const int percent = static_cast<int>(100.0 * static_cast<double>(written) /
                                                    static_cast<double>(total));
               if (!error_is_terminal() || percent == shown) return;
               shown = percent;
               print_error("\r" + std::to_string(percent) + " % of " +
                           std::to_string(total / 1000000) + " MB" + (percent == 100 ? "\n" : ""));
             });
}

}  // namespace

void add_synth(CLI::App& app) {
  auto options = std::make_shared<SynthOptions>();
  CLI::App& verb = *app.add_subcommand(
      "synth", "Write a random checkpoint of a configuration, for tests and benchmarks");
  verb.add_option("CONFIG", options->config, "A config.json")->required()->check(expect_path());
  verb.add_option("--format", options->format, "Storage of the matrices")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  verb.add_option("--seed", options->seed, "The same seed gives the same checkpoint")
      ->capture_default_str();
  verb.add_option("--out", options->out, "Folder to write; made if it is missing")->required();
  verb.callback([options] { synth(*options); });
}

}  // namespace ds4::cli
