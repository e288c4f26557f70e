// ds4 plan: what a configuration takes, before anything is downloaded or loaded.
#include <array>
#include <cstddef>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/ranks_plan.hpp>

#include "cli/flops.hpp"
#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/named_config.hpp"
#include "cli/options.hpp"
#include "cli/plan_training.hpp"
#include "cli/storage_formats.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

const std::map<std::string, StateFormat> kStates{
    {"f32", StateFormat::f32}, {"bf16", StateFormat::bf16}, {"fp8", StateFormat::fp8}};

struct PlanVerbOptions {
  std::string config;
  std::string storage;
  std::string state = "bf16";
  PlanOptions plan;
  double bandwidth = 0.0;  // GB/s; 0: not given
  std::optional<std::size_t> ranks;
  double network = 10.0;  // Gbit/s
  double latency = 50.0;  // us
  double gflops = 0.0;    // 0: not given
  bool json = false;
  std::shared_ptr<TrainingPlanChoice> training = std::make_shared<TrainingPlanChoice>();
  bool train = false;
};

RanksPlan ranks_plan(const PlanVerbOptions& options, const ConfigValues& config,
                     const PlanOptions& wanted) {
  return plan_ranks(config, wanted,
                    {.ranks = *options.ranks,
                     .bytes_per_s = options.bandwidth * 1e9,
                     .flops_per_s = options.gflops * 1e9,
                     .network_bytes_per_s = options.network * 1e9 / 8,
                     .latency_s = options.latency * 1e-6});
}

Json pass_json(const RanksPass& pass) {
  return {{"gathers", pass.gathers},
          {"sent_bytes", pass.sent_bytes},
          {"seconds",
           {{"reading", pass.reading},
            {"arithmetic", pass.arithmetic},
            {"transfer", pass.transfer},
            {"latency", pass.latency}}}};
}

std::string pass_text(const char* name, const RanksPass& pass, std::size_t tokens, bool timed) {
  char text[320];
  std::snprintf(text, sizeof(text),
                "%-15s a pass of %zu: %zu gathers, of which a rank sends %.3f MB", name, tokens,
                pass.gathers, static_cast<double>(pass.sent_bytes) / 1e6);
  std::string line = text;
  if (timed) {
    std::snprintf(text, sizeof(text),
                  "; reading %.2f, arithmetic %.2f, transfer %.2f, latency %.2f ms: predicted %.2f "
                  "tokens/s",
                  pass.reading * 1e3, pass.arithmetic * 1e3, pass.transfer * 1e3,
                  pass.latency * 1e3, static_cast<double>(tokens) / pass.seconds());
    line += text;
  }
  return line + "\n";
}

void print_plan(const PlanVerbOptions& options) {
  const ConfigValues config = named_config(options.config);
  PlanOptions wanted = options.plan;
  wanted.storage =
      options.storage.empty() ? release_format(config) : kStorageFormats.at(options.storage);
  wanted.state = kStates.at(options.state);
  if (wanted.context > config.max_position_embeddings) {
    throw Error("--context", "found " + std::to_string(wanted.context) +
                                 ", expected at most max_position_embeddings " +
                                 std::to_string(config.max_position_embeddings));
  }
  if (options.train) {
    TrainingPlanChoice choice = *options.training;
    choice.plan.batch = wanted.batch;
    choice.plan.context = wanted.context;
    print_training_plan(config, choice, options.json);
    return;
  }
  const Plan p = plan(config, wanted);
  const double read = static_cast<double>(p.weight_bytes_per_token);
  if (options.json) {
    Json json = {
        {"parameters", p.parameters},
        {"parameters_mtp", p.parameters_mtp},
        {"parameters_active", p.parameters_active},
        {"hash_entries", p.hash_entries},
        {"drafter", std::string(name_of(drafter_of(config)))},
        {"tensors", p.tensors},
        {"weight_bytes", p.weight_bytes},
        {"weight_bytes_by_storage",
         {{"fp4", p.fp4_bytes},
          {"fp8", p.fp8_bytes},
          {"bf16", p.bf16_bytes},
          {"f32", p.f32_bytes},
          {"tables", p.table_bytes}}},
        {"set_aside", {{"tensors", p.tensors_set_aside}, {"bytes", p.bytes_set_aside}}},
        {"weight_bytes_per_token", p.weight_bytes_per_token},
        {"context", wanted.context},
        {"batch", wanted.batch},
        {"state_bytes", p.state_bytes},
        {"state_bytes_per_token", p.state_bytes_per_token},
        {"tail_bytes", p.tail_bytes},
        {"state_memory_bytes", p.state_memory},
        {"scratch_bytes", p.scratch_bytes},
        {"flops_per_token",
         {{"prefill", Plan::total(p.prefill_flops)}, {"decode", Plan::total(p.decode_flops)}}},
        {"flops_by_component",
         {{"prefill", components(p.prefill_flops)}, {"decode", components(p.decode_flops)}}}};
    if (options.bandwidth > 0.0) {
      json["decode_tokens_per_s_limit"] = options.bandwidth * 1e9 / read;
    }
    if (options.ranks) {
      const RanksPlan r = ranks_plan(options, config, wanted);
      json["ranks"] = {{"ranks", *options.ranks},        {"weight_bytes", r.weight_bytes},
                       {"whole_bytes", r.whole_bytes},   {"looked_up_bytes", r.looked_up_bytes},
                       {"decode", pass_json(r.decode)},  {"prefill_tokens", r.prefill_tokens},
                       {"prefill", pass_json(r.prefill)}};
    }
    print(json.dump_lines() + "\n");
    return;
  }

  const auto line = [](const char* format, auto... values) {
    char text[240];
    std::snprintf(text, sizeof(text), format, values...);
    print(text);
  };
  const auto gb = [](std::size_t bytes) { return static_cast<double>(bytes) / 1e9; };
  line("parameters      %zu, and %zu of the drafter; a token meets %zu\n", p.parameters,
       p.parameters_mtp, p.parameters_active);
  line(
      "checkpoint      %.3f GB in %zu tensors: FP4 %.3f, FP8 %.3f, BF16 %.3f, F32 %.3f, tables "
      "%.3f\n",
      gb(p.weight_bytes), p.tensors, gb(p.fp4_bytes), gb(p.fp8_bytes), gb(p.bf16_bytes),
      gb(p.f32_bytes), gb(p.table_bytes));
  if (p.tensors_set_aside > 0) {
    line("                of these %zu tensors, %.3f GB, see images and are set aside\n",
         p.tensors_set_aside, gb(p.bytes_set_aside));
  }
  line("a decoded token reads %.3f GB of weights\n", read / 1e9);
  if (options.bandwidth > 0.0) {
    line("%.1f GB/s allow %.2f tokens/s\n", options.bandwidth, options.bandwidth * 1e9 / read);
  }
  line(
      "state           %.3f GB for %zu sequences of %zu tokens, %zu bytes a token; tails %.3f GB\n",
      gb(p.state_bytes), wanted.batch, wanted.context, p.state_bytes_per_token, gb(p.tail_bytes));
  line("memory          %.3f GB of states, %.3f GB of scratch memory beside the weights\n",
       gb(p.state_memory), gb(p.scratch_bytes));
  if (options.ranks) {
    const RanksPlan r = ranks_plan(options, config, wanted);
    line("%-15s %zu, each with %.3f GB of weights, of which %.3f GB are on all\n", "ranks",
         *options.ranks, gb(r.weight_bytes), gb(r.whole_bytes));
    print(pass_text("  decode", r.decode, 1, options.bandwidth > 0.0));
    print(pass_text("  prefill", r.prefill, r.prefill_tokens,
                    options.bandwidth > 0.0 && options.gflops > 0.0));
  }
  for (const auto& [phase, flops] :
       {std::pair{"prefill", p.prefill_flops}, std::pair{"decode", p.decode_flops}}) {
    line("%-8s %8.2f GFLOP a token", phase, gb(Plan::total(flops)));
    const Json parts = components(flops);
    for (const auto& [name, value] : parts.members()) {
      line("; %s %.2f", name.c_str(), gb(value.count()));
    }
    print("\n");
  }
}

void add_options(Verb& verb) {
  auto options = std::make_shared<PlanVerbOptions>();
  options->plan.threads = default_threads();
  verb.add_option("CONFIG", options->config, kNamedConfigs).required().check(expect_path());
  verb.add_option("--context", options->plan.context, "Tokens of each sequence")
      .capture_default_str()
      .check(expect_count(1));
  verb.add_option("--batch", options->plan.batch, "Sequences")
      .capture_default_str()
      .check(expect_count(1, 1'000'000));
  verb.add_option("--chunk", options->plan.chunk,
                  "Tokens of a pass of prefill; unless told, as the model takes a prompt in")
      .check(expect_count(1));
  verb.add_option("--threads", options->plan.threads, "Threads, each with some scratch memory")
      .capture_default_str()
      .check(expect_count(1, kMostThreads));
  verb.add_option("--storage", options->storage,
                  "Storage of the weights; unless told, base if the configuration states experts "
                  "in FP8, or else release")
      .one_of({"release", "base", "bf16", "f32"});
  verb.add_option("--state", options->state, "Storage of the state's rows")
      .capture_default_str()
      .one_of({"bf16", "f32", "fp8"});
  verb.add_option("--bandwidth", options->bandwidth, "GB/s, to tell the tokens/s that it allows")
      .check(expect<double>("a number above 0 and at most 1e6",
                            [](double gb) { return gb > 0.0 && gb <= 1e6; }));
  const Option ranks =
      verb.add_option("--ranks", options->ranks,
                      "Machines that run the model together: what each of them takes")
          .check(expect_count(1, 4096));
  verb.add_option("--network", options->network, "Gbit/s between ranks")
      .capture_default_str()
      .needs(ranks)
      .check(expect<double>("a number above 0 and at most 1e6",
                            [](double gbit) { return gbit > 0.0 && gbit <= 1e6; }));
  verb.add_option("--latency", options->latency, "Microseconds from one rank to another")
      .capture_default_str()
      .needs(ranks)
      .check(expect<double>("a number from 0 to 1e6",
                            [](double us) { return us >= 0.0 && us <= 1e6; }));
  verb.add_option("--gflops", options->gflops, "GFLOP/s of a rank, to tell the prefill's tokens/s")
      .needs(ranks)
      .check(expect<double>("a number above 0 and at most 1e9",
                            [](double rate) { return rate > 0.0 && rate <= 1e9; }));
  const Option train =
      verb.add_flag("--train", options->train,
                    "What training takes instead: memory of a device and operations of a step");
  for (const char* name :
       {"--chunk", "--threads", "--storage", "--state", "--bandwidth", "--ranks"}) {
    train.excludes(verb.option(name));
  }
  add_training_plan_options(verb, train, options->training);
  verb.add_flag("--json", options->json, "Print one JSON object");
  verb.callback([options] { print_plan(*options); });
}

const VerbRegistration kPlan(100, "plan", "What a configuration takes, before anything is loaded",
                             add_options);

}  // namespace

}  // namespace ds4::cli
