// The SIMD backend: kernels for one instruction set, run by a team of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/lane.hpp>
#include <ds4/kernels/simd/logs.hpp>
#include <ds4/kernels/simd/operations/attention.hpp>
#include <ds4/kernels/simd/operations/compressor.hpp>
#include <ds4/kernels/simd/operations/elementwise.hpp>
#include <ds4/kernels/simd/operations/experts.hpp>
#include <ds4/kernels/simd/operations/hyper_connection.hpp>
#include <ds4/kernels/simd/operations/indexer.hpp>
#include <ds4/kernels/simd/operations/linear.hpp>
#include <ds4/kernels/simd/operations/router.hpp>
#include <ds4/kernels/simd/operations/rows.hpp>
#include <ds4/kernels/simd/weight_binding.hpp>

namespace ds4::inline v0_1 {

/// Settings of the SIMD backend.
struct SimdOptions {
  std::size_t threads = 0;  ///< at most; 0: usable_processors()
  /// Fewer threads run a pass while other programs want the processors; see simd::TeamSize.
  bool adapts = true;
  /// Each thread stays on a core of its own. This is faster where nothing else runs on them, and
  /// slower where something does, as another program that pins its threads: a process cannot know
  /// that it is alone.
  bool pin = false;
  ///@{
  /// The cores of which the threads stay on some; see simd::TeamOptions.
  std::size_t first_core = 0;
  std::size_t cores = 0;
  ///@}
  /// Activations and state rows in float32 throughout. Otherwise, where weights are stored in less
  /// than float32, state rows are BF16, and the activations of BF16 matrices are rounded to BF16
  /// where the machine multiplies BF16.
  bool exact = false;
  /// Bytes of weights to keep in memory, in panels: first those that every token reads, then the
  /// experts that are used most. The others are multiplied where the files are mapped, and read
  /// ahead of their use: they may take more than the machine's memory. Unless told, all weights are
  /// kept if they take at most half of the memory that is available, and none otherwise.
  std::optional<std::size_t> memory_budget = {};
  /// The instruction set; see simd/dispatch.hpp.
  const simd::Kernels* kernels = &simd::chosen_kernels();
};

/// A CPU backend in float32 with vectors and threads. A copy is a handle to the same team, on which
/// one pass at a time may run: a second one is a ds4::Error. with_team() gives a copy for another
/// thread. Results do not depend on the number of threads, on how a sequence is split into passes,
/// nor on the other sequences of a pass. A process that fork() makes has none of the team's
/// threads: behind a pass on several of them, another is a ds4::Error there.
class Simd : public simd::Lane,
             public simd::WeightBinding<Simd>,
             public simd::RowOperations<Simd>,
             public simd::LinearOperations<Simd>,
             public simd::ElementwiseOperations<Simd>,
             public simd::HyperConnectionOperations<Simd>,
             public simd::CompressorOperations<Simd>,
             public simd::IndexerOperations<Simd>,
             public simd::AttentionOperations<Simd>,
             public simd::RouterOperations<Simd>,
             public simd::ExpertOperations<Simd> {
 public:
  ///@{
  /// See Backend.
  using Scalar = float;
  using Element = float;
  using Index = std::int32_t;
  template <std::size_t Rows, std::size_t Cols>
  using Matrix = simd::BoundMatrix<Rows, Cols>;
  template <std::size_t... E>
  using Parameter = Tensor<float, E...>;
  template <std::size_t V, std::size_t K>
  using HashTable = Tensor<std::int32_t, V, K>;
  template <std::size_t Width>
  using RowLog = simd::TailLog<Width>;
  template <std::size_t Width>
  using KeyLog = simd::KeyLog<Width>;
  template <std::size_t Width>
  using IndexLog = simd::IndexLog<Width>;
  template <class Expert>
  using Experts = std::vector<Expert>;
  ///@}

  /// How a team uses its threads.
  using TeamOptions = simd::TeamOptions;

  /// Makes the team of threads. Throws ds4::Error for cores that are not there.
  explicit Simd(const SimdOptions& options = {})
      : Lane(*options.kernels, options.exact,
             {.threads = options.threads,
              .adapts = options.adapts,
              .pin = options.pin,
              .first_core = options.first_core,
              .cores = options.cores}),
        WeightBinding(options.memory_budget) {}

  /// A copy with the same weights, and with threads and scratch memory of its own: passes on it and
  /// on this one may run at the same time. Copies of experts, which a memory budget is for, stay
  /// with this one. Throws ds4::Error for cores that are not there.
  Simd with_team(const TeamOptions& options) const {
    Simd copy(*this);
    copy.Lane::leave_team(options);
    copy.WeightBinding::leave_team();
    copy.ExpertOperations::leave_team();
    return copy;
  }

  /// Calls f(lane) on the threads of the team: on all of them, or on fewer while other programs
  /// want the processors.
  template <class F>
  void run(F&& f) {
    note_waits();
    run_copies(*this, f);
  }
};

}  // namespace ds4::inline v0_1
