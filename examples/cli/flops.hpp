// Operations by the parts of the model, as JSON.
#pragma once

#include <array>
#include <cstddef>

#include <ds4/plan/plan.hpp>

#include "cli/json.hpp"

namespace ds4::cli {

/// The components that have any, by name.
inline Json components(const std::array<std::size_t, kComponents>& flops) {
  constexpr std::array<const char*, kComponents> kNames{"attention",         "indexer", "experts",
                                                        "hyper_connections", "head",    "rest"};
  Json json = Json::object();
  for (std::size_t i = 0; i < kComponents; ++i) {
    if (flops[i] > 0) json[kNames[i]] = flops[i];
  }
  return json;
}

}  // namespace ds4::cli
