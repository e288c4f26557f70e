// The SIMD backend on each of the ranks that a launcher has started, at run time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/kernels/mpi.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/model_of.hpp>

namespace ds4::inline v0_1 {

/// See model_of.hpp. The kernels are the best that all ranks can run.
template <>
struct BackendTraits<Distributed<Simd>> {
  ///@{
  /// As every BackendTraits.
  static constexpr std::string_view kName = "mpi";
  static Distributed<Simd> make(const BackendOptions& options) {
    if (!mpi::is_launched()) {
      throw Error("--backend",
                  "found mpi in a process of its own, expected several that mpirun or "
                  "another launcher of MPI has started");
    }
    // A lane that waits for another rank is not one that another program keeps from its processor.
    return Distributed<Simd>(Simd({.threads = options.threads,
                                   .adapts = false,
                                   .pin = options.pin,
                                   .exact = options.exact,
                                   .memory_budget = options.memory_budget,
                                   .kernels = &common_kernels(options)}));
  }
  ///@}

 private:
  static const simd::Kernels& common_kernels(const BackendOptions& options) {
    mpi::Ranks ranks;
    const auto sets = simd::compiled_sets();
    const auto available = simd::available_kernels();
    const auto better_first = std::ranges::find(available, &simd::chosen_kernels());
    std::vector<std::size_t> own;
    for (auto kernels = better_first; kernels != available.end(); ++kernels) {
      own.push_back(static_cast<std::size_t>(
          std::ranges::find(sets, std::string_view((*kernels)->name)) - sets.begin()));
    }
    const std::size_t best = mpi::best_of_all(ranks, sets.size(), own);
    const auto chosen = std::ranges::find_if(
        available, [&](const simd::Kernels* kernels) { return kernels->name == sets[best]; });
    if (options.note && *chosen != &simd::chosen_kernels()) {
      options.note("the ranks have " + std::string(sets[best]) + " in common: it runs on all");
    }
    return **chosen;
  }
};

}  // namespace ds4::inline v0_1
