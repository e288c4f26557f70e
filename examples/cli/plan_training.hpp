// ds4 plan --train: what training a configuration takes.
#pragma once

#include <memory>
#include <string>

#include <ds4/config/config_values.hpp>
#include <ds4/plan/training_plan.hpp>

#include "cli/verb.hpp"

namespace ds4::cli {

/// What of it is asked for.
struct TrainingPlanChoice {
  TrainingPlanOptions plan;  ///< batch and context are those of the verb
  std::string optimizer = "muon";
  std::string values = "f32";
  std::string recompute = "all";
};

/// Adds the options that need --train.
void add_training_plan_options(Verb& verb, Option train,
                               const std::shared_ptr<TrainingPlanChoice>& choice);

/// Prints the plan, as JSON if that is wanted. Throws ds4::Error for a configuration that is not
/// compiled in and for numbers that do not fit it.
void print_training_plan(const ConfigValues& config, const TrainingPlanChoice& choice, bool json);

}  // namespace ds4::cli
