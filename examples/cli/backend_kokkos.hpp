// --backend kokkos: on the execution space that Kokkos was built for, if none is named.
#pragma once

#include <memory>
#include <string_view>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos.hpp>

#include "cli/model_of.hpp"
#include "cli/progress.hpp"

namespace ds4::cli {

template <class Space>
struct BackendTraits<KokkosBackend<Space>> {
  static constexpr std::string_view kName = "kokkos";
  static KokkosBackend<Space> make(const BackendOptions& options) {
    // Kokkos lives until the program ends, and only where it is used: it reads the environment.
    static const auto kokkos = Kokkos::is_initialized()
                                   ? nullptr
                                   : std::make_unique<Kokkos::ScopeGuard>(
                                         Kokkos::InitializationSettings()
                                             .set_num_threads(static_cast<int>(options.threads))
                                             .set_disable_warnings(true));
    const auto bar = std::make_shared<ProgressBar>();
    return KokkosBackend<Space>(
        {.exact = options.exact, .progress = [bar](std::size_t uploaded, std::size_t total) {
           bar->show(uploaded, total);
         }});
  }
};

}  // namespace ds4::cli
