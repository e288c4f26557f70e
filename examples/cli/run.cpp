// ds4 run: continues a prompt and streams the text.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <ds4/config_values.hpp>
#include <ds4/error.hpp>
#include <ds4/sampler.hpp>
#include <ds4/tokenizer.hpp>

#include "cli/any_model.hpp"
#include "cli/io.hpp"
#include "cli/memory_use.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/verbs.hpp"

namespace ds4::cli {
namespace {

struct RunOptions {
  ModelChoice model;
  std::string prompt;
  std::string prompt_file;
  std::size_t max_tokens = 256;
  SamplerOptions sampler;
  std::optional<std::uint64_t> seed;
};

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string tokens_per_second(std::size_t tokens, double seconds) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f tokens/s",
                seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0);
  return text;
}

/// The prompt's tokens behind the begin-of-sequence token, which the tokenizer does not add.
std::vector<std::int32_t> read_prompt(const RunOptions& options, const ConfigValues& config,
                                      const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = tokenizer.encode(
      options.prompt_file.empty() ? options.prompt : read_file(options.prompt_file));
  if (config.bos_token_id) {
    const auto bos = static_cast<std::int32_t>(*config.bos_token_id);
    if (ids.empty() || ids.front() != bos) ids.insert(ids.begin(), bos);
  } else if (ids.empty()) {
    throw Error("config.json", "found no bos_token_id, expected one or a prompt to begin with");
  }
  return ids;
}

void run(RunOptions options) {
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const ConfigValues& config = model->config();
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  const std::vector<std::int32_t> prompt = read_prompt(options, config, tokenizer);
  if (!options.seed) options.seed = std::random_device{}();
  options.sampler.seed = *options.seed;
  Sampler sampler(options.sampler);
  StreamDecoder decoder(tokenizer);
  catch_interrupts();

  AnyState state = model->new_state();
  const Stopwatch prompt_time;
  Logits logits = model->prefill(state, prompt);
  const double prompt_seconds = prompt_time.seconds();

  // The last token is not taken in, hence one more than the context has room for.
  const std::size_t room = config.max_position_embeddings - prompt.size() + 1;
  const std::size_t max_tokens = std::min(options.max_tokens, room);
  std::size_t generated = 0;
  std::size_t decoded = 0;
  const Stopwatch decode_time;
  while (generated < max_tokens && !interrupted()) {
    const std::int32_t id = sampler(logits.values);
    if (std::ranges::find(config.eos_token_ids, static_cast<std::size_t>(id)) !=
        config.eos_token_ids.end()) {
      break;
    }
    print(decoder.push(id));
    if (++generated == max_tokens) break;
    logits = model->decode(state, id);
    ++decoded;
  }
  const double decode_seconds = decode_time.seconds();
  print(decoder.finish());
  if (output_is_terminal()) print("\n");

  std::string summary = "prompt: " + std::to_string(prompt.size()) + " tokens, " +
                        tokens_per_second(prompt.size(), prompt_seconds) +
                        "; generation: " + std::to_string(generated) + " tokens, " +
                        tokens_per_second(decoded, decode_seconds);
  if (options.sampler.temperature > 0) summary += "; seed " + std::to_string(*options.seed);
  if (interrupted()) summary += "; interrupted";
  summary += "\nmemory: " + to_string(sequence_memory(*model, options.model, state, prompt.size(),
                                                      prompt.size() + decoded));
  print_error(summary + "\n");
  if (interrupted()) throw Quit{};
}

}  // namespace

void add_run(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App& verb = *app.add_subcommand("run", "Continue a prompt and stream the text");
  add_model_options(verb, options->model, false);
  auto* prompt = verb.add_option("--prompt", options->prompt,
                                 "Text to continue; without one the model begins. The "
                                 "begin-of-sequence token is put in front");
  verb.add_option("--prompt-file", options->prompt_file, "File with the text to continue")
      ->excludes(prompt)
      ->check(expect_path());
  verb.add_option("--max-tokens", options->max_tokens, "Tokens to generate at most")
      ->capture_default_str()
      ->check(expect_count(0));
  verb.add_option("--temperature", options->sampler.temperature,
                  "0 always takes the likeliest token")
      ->capture_default_str()
      ->check(expect<float>("a finite number of at least 0",
                            [](float value) { return value >= 0 && std::isfinite(value); }));
  verb.add_option("--top-p", options->sampler.top_p,
                  "Draw from the fewest tokens whose probability reaches this")
      ->capture_default_str()
      ->check(expect<float>("a number above 0 and at most 1",
                            [](float value) { return value > 0 && value <= 1; }));
  verb.add_option("--top-k", options->sampler.top_k,
                  "Draw from this many of the likeliest tokens; 0: from all")
      ->capture_default_str()
      ->check(expect_count(0));
  verb.add_option("--seed", options->seed, "For the same text again; default: a random one")
      ->check(expect_seed());
  verb.callback([options] { run(*options); });
}

}  // namespace ds4::cli
