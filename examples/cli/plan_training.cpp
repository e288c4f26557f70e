#include "cli/plan_training.hpp"

#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/plan/training_plan.hpp>

#include "cli/flops.hpp"
#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/training_plans.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

std::string name_of(Recompute recompute) {
  return recompute == Recompute::none ? "none" : recompute == Recompute::layer ? "layer" : "pair";
}

const PlannableTraining& plannable(const ConfigValues& config) {
  std::string names;
  for (const PlannableTraining& entry : plannable_trainings()) {
    if (compare(config, entry.config).empty()) return entry;
    names += (names.empty() ? "" : ", ") + entry.config.name;
  }
  if (names.empty()) {
    throw Error("--train", "expected a program with trainings compiled in, which " +
                               std::string(program_name()) + " is not");
  }
  throw Error("CONFIG",
              "found a configuration that is not compiled in, expected for --train one of " +
                  names + "; DS4_MODEL_CONFIGS adds others");
}

Json flops(const TrainingFlops& all) {
  Json json = components(all.products);
  json["elementwise"] = all.elementwise;
  return {{"total", all.total()}, {"by_component", json}};
}

void print_json(const TrainingPlan& plan, const TrainingPlanChoice& choice) {
  Json policies = Json::object();
  for (const RecomputePlan& policy : plan.policies) {
    const std::string name = name_of(policy.recompute);
    if (choice.recompute != "all" && choice.recompute != name) continue;
    const TrainingMemory& m = policy.memory;
    policies[name] = {{"stage", policy.stage},
                      {"bytes_per_device",
                       {{"weights", m.weights},
                        {"gradients", m.gradients},
                        {"optimizer", m.optimizer},
                        {"activations", m.activations},
                        {"temporaries", m.temporaries},
                        {"unused", m.unused},
                        {"total", m.total()}}},
                      {"flops_recomputed", policy.recomputed.total()},
                      {"flops_per_device", policy.device_flops}};
  }
  const TrainingPlanOptions& o = choice.plan;
  const Json json = {{"devices", plan.devices},
                     {"data", o.data},
                     {"experts", o.experts},
                     {"pipeline", o.pipeline},
                     {"stages", plan.stages},
                     {"batch", o.batch},
                     {"context", o.context},
                     {"optimizer", choice.optimizer},
                     {"values", choice.values},
                     {"masters", o.masters},
                     {"parameters", plan.parameters},
                     {"predictions", plan.predictions},
                     {"flops",
                      {{"forward", flops(plan.forward)},
                       {"backward", flops(plan.backward)},
                       {"optimizer", flops(plan.optimizer)}}},
                     {"recompute", policies}};
  print(json.dump_lines() + "\n");
}

void print_text(const TrainingPlan& plan, const TrainingPlanChoice& choice) {
  const auto line = [](const char* format, auto... values) {
    char text[240];
    std::snprintf(text, sizeof(text), format, values...);
    print(text);
  };
  const auto giga = [](std::size_t number) { return static_cast<double>(number) / 1e9; };
  const TrainingPlanOptions& o = choice.plan;
  line("training        %zu parameters, %s, %s values; %zu predictions a step\n", plan.parameters,
       choice.optimizer.c_str(), choice.values.c_str(), plan.predictions);
  line("devices         %zu = data %zu * experts %zu * pipeline %zu; layers of a stage:",
       plan.devices, o.data, o.experts, o.pipeline);
  for (const std::size_t layers : plan.stages) line(" %zu", layers);
  print("\n\n");
  line("%-15s %9s %9s %9s %11s %11s %8s %9s\n", "GB of a device", "weights", "gradients",
       "optimizer", "activations", "temporaries", "unused", "total");
  for (const RecomputePlan& policy : plan.policies) {
    const std::string name = name_of(policy.recompute);
    if (choice.recompute != "all" && choice.recompute != name) continue;
    const TrainingMemory& m = policy.memory;
    line("recompute %-5s %9.3f %9.3f %9.3f %11.3f %11.3f %8.3f %9.3f\n", name.c_str(),
         giga(m.weights), giga(m.gradients), giga(m.optimizer), giga(m.activations),
         giga(m.temporaries), giga(m.unused), giga(m.total()));
  }
  line("\na step          %.2f GFLOP forward, %.2f backward, %.2f of the optimizer\n",
       giga(plan.forward.total()), giga(plan.backward.total()), giga(plan.optimizer.total()));
  for (const RecomputePlan& policy : plan.policies) {
    const std::string name = name_of(policy.recompute);
    if (choice.recompute != "all" && choice.recompute != name) continue;
    line("recompute %-5s %.2f GFLOP more; %.2f in all on the busiest device\n", name.c_str(),
         giga(policy.recomputed.total()), giga(policy.device_flops));
  }
  for (const auto& [phase, flops] :
       {std::pair{"forward", plan.forward}, std::pair{"backward", plan.backward}}) {
    line("%-8s GFLOP ", phase);
    const Json parts = components(flops.products);
    for (const auto& [name, value] : parts.members()) {
      line(" %s %.2f;", name.c_str(), giga(value.count()));
    }
    line(" elementwise %.2f\n", giga(flops.elementwise));
  }
}

}  // namespace

void add_training_plan_options(Verb& verb, Option train,
                               const std::shared_ptr<TrainingPlanChoice>& choice) {
  verb.add_option("--optimizer", choice->optimizer, "For the matrices: muon, adamw")
      .capture_default_str()
      .one_of({"muon", "adamw"})
      .needs(train);
  verb.add_option("--values", choice->values,
                  "Of weights, gradients and activations: f32, as this program trains, or bf16, as "
                  "others do; the optimizer's state is f32")
      .capture_default_str()
      .one_of({"f32", "bf16"})
      .needs(train);
  verb.add_option("--recompute", choice->recompute,
                  "What is computed again on the way back: none, layer, pair; all: one line each")
      .capture_default_str()
      .one_of({"none", "layer", "pair", "all"})
      .needs(train);
  verb.add_flag("!--no-masters", choice->plan.masters,
                "Without float32 masters of the matrices that are saved as BF16")
      .needs(train);
  verb.add_flag("!--no-mtp", choice->plan.mtp, "Without the multi-token-prediction layer")
      .needs(train);
  verb.add_option("--devices", choice->plan.devices,
                  "data * experts * pipeline; unless told, as many as these ask for")
      .check(expect_count(1))
      .needs(train);
  verb.add_option("--data", choice->plan.data, "Replicas of all else")
      .capture_default_str()
      .check(expect_count(1, 1'000'000))
      .needs(train);
  verb.add_option("--experts", choice->plan.experts,
                  "Devices that share the experts of a layer, each with a batch of its own")
      .capture_default_str()
      .check(expect_count(1, 1'000'000))
      .needs(train);
  verb.add_option("--pipeline", choice->plan.pipeline, "Stages of layers")
      .capture_default_str()
      .check(expect_count(1, 1'000'000))
      .needs(train);
}

void print_training_plan(const ConfigValues& config, const TrainingPlanChoice& choice, bool json) {
  TrainingPlanOptions options = choice.plan;
  options.muon = choice.optimizer == "muon";
  options.value_bytes = choice.values == "bf16" ? 2 : 4;
  const TrainingPlan plan = plannable(config).plan(options);
  if (json) {
    print_json(plan, choice);
  } else {
    print_text(plan, choice);
  }
}

}  // namespace ds4::cli
