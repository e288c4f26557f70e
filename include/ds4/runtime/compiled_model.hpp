// The models that are compiled into a program, and which of them runs a configuration.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/runtime/any_model.hpp>

namespace ds4::inline v0_1 {

class AnyTrainable;
struct TrainableSource;

/// What a backend is told when it is made.
struct BackendOptions {
  std::size_t threads = 1;  ///< that compute
  bool pin = false;         ///< each thread stays on one processor
  bool exact = false;       ///< activations and state rows in float32 throughout
  std::optional<std::size_t> memory_budget = {};  ///< bytes of weights to keep in memory
  std::optional<std::size_t> prefill_chunk = {};  ///< see Model::set_prefill_chunk
  /// Told how many bytes of weights are uploaded, and of how many, by backends that upload them.
  std::function<void(std::size_t, std::size_t)> progress = {};
  /// Told in a line what else a user may want to know.
  std::function<void(const std::string&)> note = {};
};

/// A configuration that is compiled, on one backend.
struct CompiledModel {
  ConfigValues config;       ///< of the type
  std::string_view backend;  ///< its name, e.g. "simd"
  /// Loads a checkpoint of the configuration; throws as ds4::Model::load does.
  std::unique_ptr<AnyModel> (*load)(const std::filesystem::path& dir,
                                    const BackendOptions& options);
  /// Makes one in training; null for a drafter that the configuration does not have. Null itself:
  /// not compiled for training.
  std::unique_ptr<AnyTrainable> (*make_trainable)(const TrainableSource& source) = nullptr;
};

/// The models that are compiled into this program. ds4_add_compiled_models() writes its definition.
const std::vector<CompiledModel>& compiled_models();

/// The compiled model nearest to a configuration, and in what that differs from it.
struct NearestModel {
  const CompiledModel* model;                ///< one of those that were given
  std::vector<FieldDifference> differences;  ///< none: this model runs it
};

/// Of `models`, the one on this backend that differs from the configuration in the fewest fields;
/// of equals the first that has the configuration's drafter. Throws ds4::Error if none is on the
/// backend.
inline NearestModel nearest_model(std::span<const CompiledModel> models, const ConfigValues& config,
                                  std::string_view backend) {
  NearestModel nearest{nullptr, {}};
  bool drafts = false;  // the nearest has the configuration's drafter
  for (const CompiledModel& model : models) {
    if (model.backend != backend) continue;
    auto differences = compare(config, model.config);
    const bool own_drafts = config.has_dspark ? model.config.has_dspark
                                              : model.config.num_nextn_predict_layers >=
                                                    config.num_nextn_predict_layers;
    const bool is_nearer = differences.size() != nearest.differences.size()
                               ? differences.size() < nearest.differences.size()
                               : own_drafts && !drafts;
    if (nearest.model == nullptr || is_nearer) {
      nearest = {&model, std::move(differences)};
      drafts = own_drafts;
    }
  }
  if (nearest.model == nullptr) {
    throw Error("backend", "found " + std::string(backend) + ", which is not compiled in");
  }
  return nearest;
}

/// The first differences in words: "hidden_size: found 64, expected 128; and 3 more".
inline std::string differences_in_words(const NearestModel& nearest) {
  constexpr std::size_t kShown = 4;
  const auto& all = nearest.differences;
  std::string text;
  for (std::size_t i = 0; i < std::min(all.size(), kShown); ++i) {
    text += (i == 0 ? "" : "; ") + all[i].field + ": found " + all[i].found + ", expected " +
            all[i].expected;
  }
  if (all.size() > kShown) text += "; and " + std::to_string(all.size() - kShown) + " more";
  return text;
}

/// The names of the backends that some model is compiled on, in the order of the models.
inline std::vector<std::string> backends_of(std::span<const CompiledModel> models) {
  std::vector<std::string> names;
  for (const CompiledModel& model : models) {
    if (std::ranges::find(names, model.backend) == names.end()) names.emplace_back(model.backend);
  }
  return names;
}

}  // namespace ds4::inline v0_1
