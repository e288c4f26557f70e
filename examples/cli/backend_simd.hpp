// --backend simd.
#pragma once

#include <string_view>

#include <ds4/kernels/simd.hpp>

#include "cli/model_of.hpp"

namespace ds4::cli {

template <>
struct BackendTraits<Simd> {
  static constexpr std::string_view kName = "simd";
  static Simd make(const BackendOptions& options) {
    return Simd({.threads = options.threads,
                 .pin = options.pin,
                 .exact = options.exact,
                 .memory_budget = options.memory_budget});
  }
};

}  // namespace ds4::cli
