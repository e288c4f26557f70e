// The SIMD backend at run time.
#pragma once

#include <string_view>

#include <ds4/kernels/simd.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/model_of.hpp>

namespace ds4::inline v0_1 {

/// See above.
template <>
struct BackendTraits<Simd> {
  ///@{
  /// As every BackendTraits.
  static constexpr std::string_view kName = "simd";
  static Simd make(const BackendOptions& options) {
    return Simd({.threads = options.threads,
                 .pin = options.pin,
                 .exact = options.exact,
                 .memory_budget = options.memory_budget});
  }
  ///@}
};

}  // namespace ds4::inline v0_1
