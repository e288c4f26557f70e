// The reference backend at run time.
#pragma once

#include <string_view>

#include <ds4/kernels/reference.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/model_of.hpp>

namespace ds4::inline v0_1 {

/// See above.
template <>
struct BackendTraits<Reference<float>> {
  ///@{
  /// As every BackendTraits.
  static constexpr std::string_view kName = "reference";
  static Reference<float> make(const BackendOptions&) { return {}; }  // always one thread
  ///@}
};

}  // namespace ds4::inline v0_1
