// Which configurations the program can plan the training of.
#pragma once

#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

struct TrainingPlan;
struct TrainingPlanOptions;

}  // namespace ds4::inline v0_1

namespace ds4::cli {

/// A configuration whose layers are compiled in, without a backend.
struct PlannableTraining {
  ConfigValues config;
  TrainingPlan (*plan)(const TrainingPlanOptions& options);  ///< ds4::plan_training
};

/// All of them. Generated from program.cpp.in.
const std::vector<PlannableTraining>& plannable_trainings();

}  // namespace ds4::cli
