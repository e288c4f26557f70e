// ds4 bench: speed of prefill and decode, and its share of what the machine can do.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/weight_cost.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/bench_peer.hpp"
#include "cli/drafting.hpp"
#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/launches.hpp"
#include "cli/machine_limits.hpp"
#include "cli/memory_use.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/stopwatch.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  ModelChoice model;
  std::size_t prompt = 512;
  std::size_t decode = 64;
  std::size_t repetitions = 3;
  std::vector<std::size_t> contexts;
  std::string text_file;
  std::string draft = "off";
  bool fill = false;
  bool json = false;
  bool peer_protocol = false;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

/// Token ids without a pattern, the same in every run.
std::vector<std::int32_t> random_ids(std::size_t count, std::size_t vocab_size) {
  std::vector<std::int32_t> ids(count);
  std::uint64_t x = 1;
  for (std::int32_t& id : ids) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    id = static_cast<std::int32_t>((x >> 33) % vocab_size);
  }
  return ids;
}

/// The first `count` tokens of the text, the model's begin token in front.
std::vector<std::int32_t> text_ids(const BenchOptions& options, const ConfigValues& config,
                                   std::size_t count) {
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  std::vector<std::int32_t> ids = tokenizer.encode(read_file(options.text_file));
  put_bos_in_front(ids, config);
  if (ids.size() < count) {
    throw Error(detail::printable(options.text_file, 1024),
                "found " + std::to_string(ids.size()) + " tokens, expected at least " +
                    std::to_string(count) + " for the prompt and what is decoded");
  }
  ids.resize(count);
  return ids;
}

/// Attributes the time between the stages of a pass to the components of the model.
class ComponentTimes final : public StageObserver<float> {
 public:
  void start() { last_ = Clock::now(); }
  void finish() { take("head"); }

  void values(std::size_t, std::string_view stage, std::span<const float>) override {
    take(component(stage));
  }
  void indices(std::size_t, std::string_view stage, std::span<const std::int32_t>) override {
    take(component(stage));
  }

  const std::map<std::string, double>& seconds() const { return seconds_; }

 private:
  static std::string component(std::string_view stage) {
    static constexpr std::array<std::array<std::string_view, 2>, 14> kComponents{{
        {"attn.input", "hyper-connections"},
        {"attn.q", "attention projections"},
        {"attn.kv", "attention projections"},
        {"attn.out_unrotated", "attention"},
        {"attn.o", "attention projections"},
        {"compressor", "compressors"},
        {"indexer", "indexer"},
        {"mlp.router", "router"},
        {"mlp.routed", "routed experts"},
        {"mlp.shared", "shared expert"},
        {"mlp.output", "shared expert"},
        {"hc_head", "head"},
        {"final_norm", "head"},
        {"", "hyper-connections"},
    }};
    for (const auto& [prefix, name] : kComponents) {
      if (stage.starts_with(prefix)) return std::string(name);
    }
    return {};
  }

  void take(const std::string& component) {
    const auto now = Clock::now();
    seconds_[component] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

  Clock::time_point last_;
  std::map<std::string, double> seconds_;
};

/// Seconds for `count` greedy tokens, the first one `id`.
double decode_seconds(AnyModel& model, AnyState& state, std::int32_t id, std::size_t count) {
  const Stopwatch time;
  for (std::size_t i = 0; i < count; ++i) id = argmax(model.decode(state, id).values);
  return time.seconds();
}

/// Decoding with drafts beside decoding without, from the same states.
struct Drafting {
  std::optional<DraftLength> length;  ///< none: not measured
  std::vector<double> seconds = {};   ///< per repetition, all tokens

  /// Decodes `count` greedy tokens, the first one `id`.
  void measure(AnyModel& model, AnyState& state, std::int32_t id, std::size_t count) {
    Sampler greedy({.temperature = 0});
    const Stopwatch time;
    for (std::size_t done = 0; done < count;) {
      const auto chosen = model.decode_with_drafts(state, id, greedy, *length, count - done);
      done += chosen.size();
      id = chosen.back();
    }
    seconds.push_back(time.seconds());
  }
};

/// What was measured behind a context of some length.
struct Point {
  std::size_t context;
  std::vector<double> prefill_seconds;  ///< per repetition; none for a state of random numbers
  std::vector<double> decode_seconds;   ///< per repetition, all tokens
  std::vector<double> read_limits;      ///< bytes per second, around each of them
  std::size_t state_bytes;              ///< at the end
  Drafting drafting;
};

/// Repeats: a prompt from an empty state, or a random state in its place, then greedy tokens.
Point measure(AnyModel& model, std::span<const std::int32_t> prompt, const BenchOptions& options,
              const std::optional<DraftLength>& length, ReadLimit& read_limit) {
  Point point{prompt.size(), {}, {}, {}, 0, {length}};
  AnyState filled;
  if (options.fill) filled = model.random_state(prompt.size(), length.has_value());
  for (std::size_t i = 0; i < options.repetitions; ++i) {
    AnyState state = options.fill ? filled : model.new_state();
    if (length && !options.fill) model.keep_drafts(state);
    std::int32_t id = prompt.back();
    if (!options.fill) {
      const Stopwatch time;
      id = argmax(model.prefill(state, prompt).values);
      point.prefill_seconds.push_back(time.seconds());
    }
    const auto decode = [&](AnyState decoding) {
      const double before = read_limit.bytes_per_s();
      point.decode_seconds.push_back(decode_seconds(model, decoding, id, options.decode));
      point.read_limits.push_back((before + read_limit.bytes_per_s()) / 2.0);
      point.state_bytes = model.state_bytes(decoding);
    };
    const auto draft = [&](AnyState drafting) {
      point.drafting.measure(model, drafting, id, options.decode);
    };
    if (!length) {
      decode(std::move(state));
    } else if (i % 2 == 0) {  // in turns: machines grow faster and slower
      decode(state);
      draft(std::move(state));
    } else {
      draft(state);
      decode(std::move(state));
    }
  }
  return point;
}

/// The routed experts that a pass meets: of each layer, how many different ones.
class ExpertsMet final : public StageObserver<float> {
 public:
  bool wants(std::size_t, std::string_view stage) const override {
    return stage == "mlp.router_indices";
  }
  void values(std::size_t, std::string_view, std::span<const float>) override {}
  void indices(std::size_t, std::string_view, std::span<const std::int32_t> indices) override {
    met_ += std::set<std::int32_t>(indices.begin(), indices.end()).size();
    ++layers_;
  }
  /// Of a layer, on average.
  double mean() const { return static_cast<double>(met_) / static_cast<double>(layers_); }

 private:
  std::size_t met_ = 0;
  std::size_t layers_ = 0;
};

/// A pass that verifies drafts, relative to one of a single token.
struct Verification {
  std::size_t tokens;
  double seconds;
  double bytes;  ///< of weights that it reads
};

/// What drafts cost.
struct DraftCosts {
  std::vector<Verification> passes;
  /// Of a whole block of DSpark, or of one token, relative to a pass of one token; 0: no drafter.
  double draft = 0.0;
};

/// Passes of 1 to 4 tokens behind a state, or to a whole block and one of DSpark, and drafts, in
/// turns, each at many places of the text.
DraftCosts draft_costs(AnyModel& model, AnyState state, std::span<const std::int32_t> ids,
                       std::size_t repetitions) {
  const bool dspark = model.drafter() == DrafterKind::dspark;
  const std::size_t kMost = dspark ? 1 + model.config().dspark_block_size : 4;
  const std::size_t draft = dspark ? model.config().dspark_block_size : 1;
  constexpr std::size_t kPlaces = 8;
  const std::size_t k = model.config().num_experts_per_tok;
  const double one = weight_cost(model.checkpoint(), model.config()).bytes;
  const double expert = weight_cost(model.checkpoint(), model.config(), "", 1, k + 1).bytes - one;
  std::vector<std::vector<double>> seconds(kMost);
  std::vector<double> drafts;
  std::vector<ExpertsMet> experts(kMost);
  const std::size_t places = std::min(kPlaces, ids.size() - std::min(ids.size(), kMost));
  for (std::size_t place = 0; place < places; ++place) {
    for (std::size_t n = 1; n <= kMost; ++n) {
      const AnyModel::Sequence pass{&state, ids.subspan(place, n)};
      model.forward({&pass, 1}, &experts[n - 1]);
      model.rollback(state, n);
      std::vector<double> times;
      for (std::size_t i = 0; i < repetitions; ++i) {
        const Stopwatch time;
        model.forward({&pass, 1});
        times.push_back(time.seconds());
        model.rollback(state, n);
      }
      seconds[n - 1].push_back(median(times));
    }
    // The first one has rows of the tokens before to make.
    if (model.drafter() != DrafterKind::none &&
        !model.draft_logits(state, ids[place], draft).values.empty()) {
      std::vector<double> times;
      for (std::size_t i = 0; i < repetitions; ++i) {
        const Stopwatch time;
        model.draft_logits(state, ids[place], draft);
        times.push_back(time.seconds());
      }
      drafts.push_back(median(times));
    }
    model.decode(state, ids[place]);
  }
  DraftCosts costs;
  for (std::size_t n = 1; n <= kMost && places > 0; ++n) {
    const double more = (experts[n - 1].mean() - static_cast<double>(k)) * expert;
    costs.passes.push_back({n, median(seconds[n - 1]) / median(seconds[0]), 1.0 + more / one});
  }
  if (!drafts.empty()) costs.draft = median(drafts) / median(seconds[0]);
  return costs;
}

/// Seconds per component of passes over `ids` behind a state.
std::map<std::string, double> component_seconds(AnyModel& model, AnyState state,
                                                std::span<const std::int32_t> ids,
                                                std::size_t passes) {
  ComponentTimes times;
  const std::size_t step = ids.size() / passes;
  for (std::size_t i = 0; i < passes; ++i) {
    const AnyModel::Sequence sequence{&state, ids.subspan(i * step, step)};
    times.start();
    model.forward({&sequence, 1}, &times);
    times.finish();
  }
  return times.seconds();
}

/// What a backend launches for one pass over these tokens behind a state; nothing if it launches no
/// kernels.
std::vector<Launches> launches_of(AnyModel& model, AnyState& state,
                                  std::span<const std::int32_t> ids) {
  model.take_launches();
  model.prefill(state, ids);
  return model.take_launches();
}

void bench(const BenchOptions& options) {
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const ConfigValues& config = model->config();
  const WeightCost cost = weight_cost(model->checkpoint(), config);
  std::vector<std::size_t> contexts = options.contexts;
  if (contexts.empty()) contexts.push_back(options.prompt);
  const std::size_t longest = *std::ranges::max_element(contexts);
  if (longest + options.decode > config.max_position_embeddings) {
    throw Error(options.contexts.empty() ? "--prompt" : "--contexts",
                "found " + std::to_string(longest) + " tokens and " +
                    std::to_string(options.decode) + " to decode, expected at most " +
                    std::to_string(config.max_position_embeddings) + " together");
  }
  const auto ids = options.text_file.empty()
                       ? random_ids(longest + options.decode, config.vocab_size)
                       : text_ids(options, config, longest + options.decode);
  const std::span<const std::int32_t> all = ids;
  const std::optional<DraftLength> length = draft_length_for(*model, options.draft);

  // A rehearsal of the longest context warms up and shows the memory that a run takes; measuring
  // limits takes memory of its own.
  AnyState behind = options.fill ? model->random_state(longest, false) : model->new_state();
  if (!options.fill) model->prefill(behind, all.first(longest));
  decode_seconds(*model, behind, 0, std::min<std::size_t>(options.decode, 4));
  const std::size_t peak_rss = peak_rss_bytes();
  const MemoryUse memory =
      sequence_memory(*model, options.model, behind,
                      options.fill ? std::min(longest, 2 * config.sliding_window) : longest,
                      longest + std::min<std::size_t>(options.decode, 4));

  ReadLimit read_limit(options.model.threads);
  std::vector<Point> measured;
  for (const std::size_t context : contexts) {
    measured.push_back(measure(*model, all.first(context), options, length, read_limit));
  }

  const auto milliseconds = [](const std::map<std::string, double>& seconds, std::size_t tokens) {
    Json json = Json::object();
    for (const auto& [name, value] : seconds) {
      json[name] = value * 1e3 / static_cast<double>(tokens);
    }
    return json;
  };
  const std::size_t context = contexts.front();
  const std::size_t decoded = std::min<std::size_t>(options.decode, 32);
  const std::size_t chunk = std::min<std::size_t>(context, 512);
  const bool drafts = options.draft != "off";
  behind = options.fill ? model->random_state(context, drafts) : model->new_state();
  if (drafts && !options.fill) model->keep_drafts(behind);
  if (!options.fill) model->prefill(behind, all.first(context));
  Json verification = Json::array();
  double draft_cost = 0.0;
  if (drafts) {  // passes need no drafter
    const DraftCosts costs = draft_costs(*model, behind, all.subspan(context), options.repetitions);
    draft_cost = costs.draft;
    for (const Verification& of : costs.passes) {
      verification.push_back(
          {{"tokens", of.tokens}, {"relative_time", of.seconds}, {"relative_bytes", of.bytes}});
    }
  }
  const Json components = {
      {"prefill",
       milliseconds(component_seconds(*model, model->new_state(), all.first(chunk), 1), chunk)},
      {"decode", milliseconds(component_seconds(*model, std::move(behind),
                                                all.subspan(context, decoded), decoded),
                              decoded)}};

  Json launches = Json::object();
  AnyState launched = model->new_state();
  const auto of_prefill = launches_of(*model, launched, all.first(chunk));
  if (!of_prefill.empty()) {
    launches["prefill"] = launches_json(of_prefill);
    launches["decode"] = launches_json(launches_of(*model, launched, all.subspan(chunk, 1)));
  }

  const double f32_flops = flops_per_s(options.model.threads, false);
  const double bf16_flops = flops_per_s(options.model.threads, true);
  const double peak = cost.reduced_matrices && !options.model.exact ? bf16_flops : f32_flops;
  std::vector<double> read_limits;
  Json points = Json::array();
  for (const Point& point : measured) {
    const auto tokens = static_cast<double>(point.context);
    const auto total = [](const AttentionFlops& flops) {
      return static_cast<double>(flops.attention + flops.indexer);
    };
    const double prefill_flops =  // a token, on average
        cost.flops + total(attention_flops_before(config, point.context)) / tokens;
    const double decode_flops =
        cost.flops + total(attention_flops(config, point.context + options.decode / 2));
    const double decode = static_cast<double>(options.decode) / median(point.decode_seconds);
    Json json = {{"context", point.context}};
    Json share = Json::object();
    if (!point.prefill_seconds.empty()) {
      json["prefill_tokens_per_s"] = tokens / median(point.prefill_seconds);
      share["prefill"] = tokens / median(point.prefill_seconds) * prefill_flops / peak;
    }
    json["decode_tokens_per_s"] = decode;
    std::vector<double> shares;
    for (std::size_t i = 0; i < point.decode_seconds.size(); ++i) {
      shares.push_back(static_cast<double>(options.decode) / point.decode_seconds[i] * cost.bytes /
                       point.read_limits[i]);
    }
    share["decode"] = median(shares);
    read_limits.insert(read_limits.end(), point.read_limits.begin(), point.read_limits.end());
    json["read_bytes_per_s"] = median(point.read_limits);
    json["flops_per_token"] = {{"prefill", prefill_flops}, {"decode", decode_flops}};
    json["roofline_share"] = share;
    json["state_bytes"] = point.state_bytes;
    if (length) {
      const double drafting = static_cast<double>(options.decode) / median(point.drafting.seconds);
      const DraftTotals& totals = point.drafting.length->totals();
      json["draft"] = {{"decode_tokens_per_s", drafting},
                       {"speed_up", drafting / decode},
                       {"acceptance", totals.acceptance()},
                       {"drafted", totals.drafted},
                       {"tokens_per_pass", totals.tokens_per_pass()}};
    }
    points.push_back(json);
  }

  Json result = points.elements().front();
  result["contexts"] = points;
  result["weight_bytes_per_token"] = cost.bytes;
  result["machine"] = {{"threads", options.model.threads},
                       {"read_bytes_per_s", median(read_limits)},
                       {"f32_flops_per_s", f32_flops},
                       {"bf16_flops_per_s", bf16_flops}};
  result["milliseconds_per_token"] = components;
  if (!verification.empty()) result["verification"] = verification;
  if (draft_cost > 0.0) result["draft_relative_time"] = draft_cost;
  result["backend"] = options.model.backend;
  if (!launches.empty()) result["launches"] = launches;
  std::size_t weight_bytes = 0;
  for (const StoredTensor& tensor : model->checkpoint().tensors()) {
    weight_bytes += tensor.data.size();
  }
  result["weight_bytes"] = weight_bytes;
  result["scratch_bytes"] = memory.scratch;
  result["planned"] = {{"scratch_bytes", memory.planned_scratch},
                       {"state_bytes", memory.planned_state}};
  result["beside_page_cache_bytes"] = memory.beside_page_cache;
  result["peak_rss_bytes"] = peak_rss;
  if (options.json) {
    print(result.dump_lines() + "\n");
    return;
  }

  const auto line = [](const char* format, auto... values) {
    char text[200];
    std::snprintf(text, sizeof(text), format, values...);
    print(text);
  };
  line("read bandwidth %.1f GB/s, float32 %.0f GFLOP/s, BF16 %.0f GFLOP/s, %zu threads\n",
       median(read_limits) / 1e9, f32_flops / 1e9, bf16_flops / 1e9, options.model.threads);
  line("a decoded token reads %.1f MB of weights\n", cost.bytes / 1e6);
  for (const Json& point : points.elements()) {
    const Json& share = point["roofline_share"];
    line("context %zu: ", point["context"].count());
    if (share.contains("prefill")) {
      line("prefill %.1f tokens/s (%.0f %% of the arithmetic limit), ",
           point["prefill_tokens_per_s"].number(), 100.0 * share["prefill"].number());
    }
    line("decode %.2f tokens/s (%.0f %% of the bandwidth limit), state %.1f MB\n",
         point["decode_tokens_per_s"].number(), 100.0 * share["decode"].number(),
         point["state_bytes"].number() / 1e6);
    if (!point.contains("draft")) continue;
    const Json& draft = point["draft"];
    line(
        "  with --draft %s: decode %.2f tokens/s, %.2f x the speed without; %.1f %% of %zu drafted "
        "tokens accepted, %.2f tokens a pass\n",
        options.draft.c_str(), draft["decode_tokens_per_s"].number(), draft["speed_up"].number(),
        100.0 * draft["acceptance"].number(), draft["drafted"].count(),
        draft["tokens_per_pass"].number());
  }
  for (const Json& of : verification.elements()) {
    line("a pass of %zu: %.2f x the time of one token, %.2f x the bytes\n", of["tokens"].count(),
         of["relative_time"].number(), of["relative_bytes"].number());
  }
  if (draft_cost > 0.0)
    line("  a draft takes %.2f x the time of a pass of one token\n", draft_cost);
  for (const char* phase : {"prefill", "decode"}) {
    for (const auto& [name, value] : result["milliseconds_per_token"][phase].members()) {
      line("%-8s %-22s %8.3f ms a token\n", phase, name.c_str(), value.number());
    }
  }
  for (const auto& [phase, of_phase] : launches.members()) {
    print(launches_table(phase, of_phase));
  }
  line("peak memory %.0f MB; weights %.0f MB, ", static_cast<double>(peak_rss) / 1e6,
       static_cast<double>(weight_bytes) / 1e6);
  print(to_string(memory) + "\n");
}

void add_options(Verb& verb) {
  auto options = std::make_shared<BenchOptions>();
  add_model_options(verb, options->model, false);
  const Option prompt = verb.add_option("--prompt", options->prompt, "Tokens of the prompt")
                            .capture_default_str()
                            .check(expect_count(1));
  verb.add_option("--decode", options->decode, "Tokens to decode behind it")
      .capture_default_str()
      .check(expect_count(1));
  verb.add_option("--repetitions", options->repetitions, "Of which the median counts")
      .capture_default_str()
      .check(expect_count(1));
  verb.add_option("--contexts", options->contexts, "Several prompt lengths, e.g. 512,4096")
      .delimiter(',')
      .excludes(prompt)
      .check(expect_count(1));
  verb.add_option("--text-file", options->text_file,
                  "Text that the prompts are the beginning of; default: random tokens")
      .check(expect_path());
  add_draft_option(verb, options->draft);
  verb.add_flag("--fill", options->fill,
                "Decode behind a state of random numbers instead of taking the prompt in");
  const Option json = verb.add_flag("--json", options->json, "Print one JSON object");
  verb.add_flag("--peer-protocol", options->peer_protocol,
                "Answer requests on standard input, one JSON object a line")
      .excludes(json);
  verb.callback(
      [options] { options->peer_protocol ? serve_peer(options->model) : bench(*options); });
}

const VerbRegistration kBench(80, "bench", "Measure speed against the machine's limits",
                              add_options);

}  // namespace

}  // namespace ds4::cli
