// The Kokkos backend at run time: on the execution space that Kokkos was built for, if none is
// named.
#pragma once

#include <memory>
#include <string_view>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/model_of.hpp>

namespace ds4::inline v0_1 {

/// See above.
template <class Space>
struct BackendTraits<KokkosBackend<Space>> {
  ///@{
  /// As every BackendTraits.
  static constexpr std::string_view kName = "kokkos";
  static KokkosBackend<Space> make(const BackendOptions& options) {
    // Kokkos lives until the program ends, and only where it is used: it reads the environment.
    static const auto kokkos = Kokkos::is_initialized()
                                   ? nullptr
                                   : std::make_unique<Kokkos::ScopeGuard>(
                                         Kokkos::InitializationSettings()
                                             .set_num_threads(static_cast<int>(options.threads))
                                             .set_disable_warnings(true));
    return KokkosBackend<Space>({.exact = options.exact, .progress = options.progress});
  }
  ///@}
};

}  // namespace ds4::inline v0_1
