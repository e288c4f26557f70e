// The Kokkos backend: the model on any execution space, e.g. Kokkos::Cuda, Kokkos::HIP or
// Kokkos::OpenMP. Weights are uploaded once, state and activations stay in the space's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/binding.hpp>
#include <ds4/kernels/kokkos/lane.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/logs.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/operations/attention.hpp>
#include <ds4/kernels/kokkos/operations/compressor.hpp>
#include <ds4/kernels/kokkos/operations/elementwise.hpp>
#include <ds4/kernels/kokkos/operations/experts.hpp>
#include <ds4/kernels/kokkos/operations/hyper_connection.hpp>
#include <ds4/kernels/kokkos/operations/indexer.hpp>
#include <ds4/kernels/kokkos/operations/linear.hpp>
#include <ds4/kernels/kokkos/operations/norm.hpp>
#include <ds4/kernels/kokkos/operations/rotary.hpp>
#include <ds4/kernels/kokkos/operations/router.hpp>
#include <ds4/kernels/kokkos/operations/rows.hpp>
#include <ds4/kernels/kokkos/scratch.hpp>

namespace ds4::inline v0_1 {

/// Settings of the Kokkos backend.
struct KokkosOptions {
  /// Activations and state rows in float32 throughout. Otherwise, where weights are stored in less
  /// than float32, state rows are BF16, and the activations of BF16 matrices are rounded to BF16 on
  /// spaces of a host that multiplies BF16. GPUs have float32 activations in either case.
  bool exact = false;
  /// Threads of a team on a host space. One is fastest; others are for tests of the kernels.
  std::size_t host_team = 1;
  /// Told bytes uploaded and bytes in all while weights are loaded.
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// A backend in float32 on a Kokkos execution space. Kokkos has to be initialised before one is
/// made and until all models and states are gone. A copy shares weights and scratch memory; one
/// pass at a time may run. Results do not depend on how a sequence is split into passes, nor on the
/// other sequences of a pass. Activations are of types that the host cannot read.
template <class Space = Kokkos::DefaultExecutionSpace>
class KokkosBackend : public kokkos::Launcher<Space>,
                      public kokkos::Lane<Space>,
                      public kokkos::ScratchMemory<Space>,
                      public kokkos::WeightBinding<Space>,
                      public kokkos::RowOperations<Space>,
                      public kokkos::LinearOperations<Space>,
                      public kokkos::NormOperations<Space>,
                      public kokkos::RotaryOperations<Space>,
                      public kokkos::HyperConnectionOperations<Space>,
                      public kokkos::CompressorOperations<Space>,
                      public kokkos::IndexerOperations<Space>,
                      public kokkos::AttentionOperations<Space>,
                      public kokkos::RouterOperations<Space>,
                      public kokkos::ExpertOperations<Space>,
                      public kokkos::ElementwiseOperations<Space> {
 public:
  ///@{
  /// See Backend.
  using ExecutionSpace = Space;
  using Scalar = float;
  using Element = kokkos::Element;
  using Index = kokkos::Index;
  template <std::size_t Rows, std::size_t Cols>
  using Matrix = kokkos::Matrix<Rows, Cols>;
  template <std::size_t... E>
  using Parameter = kokkos::Constants<Space, float, E...>;
  template <std::size_t V, std::size_t K>
  using HashTable = kokkos::Constants<Space, std::int32_t, V, K>;
  template <std::size_t Width>
  using RowLog = kokkos::RowLog<Space, Width>;
  template <std::size_t Width>
  using KeyLog = kokkos::KeyLog<Space, Width>;
  template <std::size_t Width>
  using IndexLog = kokkos::KeyLog<Space, Width>;
  template <class Expert>
  using Experts = kokkos::Experts<Space, Expert>;
  ///@}

  /// Throws ds4::Error if Kokkos is not initialised.
  explicit KokkosBackend(const KokkosOptions& options = {})
      : kokkos::Launcher<Space>(options.host_team),
        kokkos::WeightBinding<Space>(options.progress, options.exact) {}
};

}  // namespace ds4::inline v0_1
