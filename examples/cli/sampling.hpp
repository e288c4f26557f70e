// --temperature, --top-p, --top-k and --seed: how verbs that generate choose tokens.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/drafting.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {

struct Sampling {
  SamplerOptions options;
  std::optional<std::uint64_t> seed;
};

inline void add_sampling_options(Verb& verb, Sampling& sampling) {
  verb.add_option("--temperature", sampling.options.temperature,
                  "0 always takes the likeliest token")
      .capture_default_str()
      .check(expect<float>("a finite number of at least 0",
                           [](float value) { return value >= 0 && std::isfinite(value); }));
  verb.add_option("--top-p", sampling.options.top_p,
                  "Draw from the fewest tokens whose probability reaches this")
      .capture_default_str()
      .check(expect<float>("a number above 0 and at most 1",
                           [](float value) { return value > 0 && value <= 1; }));
  verb.add_option("--top-k", sampling.options.top_k,
                  "Draw from this many of the likeliest tokens; 0: from all")
      .capture_default_str()
      .check(expect_count(0));
  verb.add_option("--seed", sampling.seed, "For the same text again; default: a random one")
      .check(expect_seed());
}

/// The sampler of the options; its options tell the seed. It draws no id that the tokenizer does
/// not have, unless it ends a text.
inline Sampler make_sampler(Sampling sampling, const ConfigValues& config,
                            const Tokenizer& tokenizer) {
  SamplerOptions& options = sampling.options;
  options.seed = sampling.seed ? *sampling.seed : std::random_device{}();
  options.never = tokenizer.ids_without_token(config.vocab_size);
  std::erase_if(options.never, [&](std::int32_t id) { return ends_text(config, id); });
  return Sampler(std::move(options));
}

}  // namespace ds4::cli
