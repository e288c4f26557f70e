// --backend reference
#pragma once

#include <string_view>

#include <ds4/kernels/reference.hpp>

#include "cli/model_of.hpp"

namespace ds4::cli {

template <>
struct BackendTraits<Reference<float>> {
  static constexpr std::string_view kName = "reference";
  static Reference<float> make(const BackendOptions&) { return {}; }  // always one thread
};

}  // namespace ds4::cli
