// The processes that run one model together, by MPI, and what they tell each other.
#pragma once

// The C interface alone: the old one for C++ does not compile without warnings.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mpi.h>
#include <unistd.h>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1::mpi {

/// Whether the process was started by a launcher of MPI, as mpirun or srun.
inline bool is_launched() {
  return std::ranges::any_of(
      std::array{"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MPI_LOCALRANKID"},
      [](const char* name) { return std::getenv(name) != nullptr; });
}

/// MPI for as long as the object lives: one in a program, made before all that uses it, on the
/// thread that models run passes on.
class World {
 public:
  /// Throws ds4::Error for an MPI that allows no other threads beside the one that calls it.
  World() {
    int provided = MPI_THREAD_SINGLE;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    if (provided < MPI_THREAD_FUNNELED) {
      throw Error("MPI",
                  "found one for processes of a single thread, expected "
                  "MPI_THREAD_FUNNELED");
    }
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  /// Waits for the other ranks to end as well; not where an exception ends this one, see end_all().
  ~World() {
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
  }

  ///@{
  /// Of this process among those that were launched together.
  static int rank() { return number(MPI_Comm_rank); }
  static int size() { return number(MPI_Comm_size); }
  ///@}

  /// Ends the processes of all ranks with exit code 1.
  [[noreturn]] static void end_all() {
    MPI_Abort(MPI_COMM_WORLD, 1);
    ::_exit(1);
  }

 private:
  static int number(int (*of)(MPI_Comm, int*)) {
    int value = 0;
    of(MPI_COMM_WORLD, &value);
    return value;
  }
};

/// The type of MPI for a T.
template <class T>
MPI_Datatype type_of() {
  if constexpr (std::is_same_v<T, float>) return MPI_FLOAT;
  if constexpr (std::is_same_v<T, double>) return MPI_DOUBLE;
  if constexpr (std::is_same_v<T, std::byte> || std::is_same_v<T, char>) return MPI_BYTE;
  if constexpr (std::is_same_v<T, std::int32_t>) return MPI_INT32_T;
  if constexpr (std::is_same_v<T, std::uint64_t>) return MPI_UINT64_T;
}

/// What a rank has spent on the others.
struct Traffic {
  std::size_t calls = 0;  ///< collective operations
  std::size_t bytes = 0;  ///< that other ranks have got from it
  double seconds = 0.0;   ///< in them, waiting for others included
};

/// The ranks of a model. Every member function but rank() and size() is for all of them: each calls
/// it, in the same order. Throws ds4::Error where MPI reports an error.
class Ranks {
 public:
  /// All that were launched together.
  Ranks() {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    int number = 0;
    MPI_Comm_rank(comm_, &number);
    rank_ = static_cast<std::size_t>(number);
    MPI_Comm_size(comm_, &number);
    size_ = static_cast<std::size_t>(number);
    MPI_Comm shared = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &shared), "split");
    MPI_Comm_size(shared, &number);
    MPI_Comm_free(&shared);
    on_machine_ = static_cast<std::size_t>(number);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  ~Ranks() {
    // Collective: where an exception ends this rank, the others are elsewhere.
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }

  ///@{
  /// This one, how many there are, and how many of them are on this machine.
  std::size_t rank() const { return rank_; }
  std::size_t size() const { return size_; }
  std::size_t on_machine() const { return on_machine_; }
  ///@}

  /// values[offsets[r] .. + counts[r]] of every rank r, where r has put its own.
  template <class T>
  void gather(T* values, std::span<const int> counts, std::span<const int> offsets) {
    const auto start = std::chrono::steady_clock::now();
    check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values, counts.data(), offsets.data(),
                         type_of<T>(), comm_),
          "MPI_Allgatherv");
    note(static_cast<std::size_t>(counts[rank_]) * sizeof(T), start);
  }
  /// The same where each rank has `count`.
  template <class T>
  void gather(T* values, std::size_t count) {
    const auto start = std::chrono::steady_clock::now();
    check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values, static_cast<int>(count),
                        type_of<T>(), comm_),
          "MPI_Allgather");
    note(count * sizeof(T), start);
  }

  /// Each rank's text.
  std::vector<std::string> gather_texts(std::string_view own) {
    std::vector<int> counts(size_);
    counts[rank_] = static_cast<int>(own.size());
    gather(counts.data(), 1);
    std::vector<int> offsets(size_);
    int all = 0;
    for (std::size_t r = 0; r < size_; ++r) {
      offsets[r] = all;
      all += counts[r];
    }
    std::string joined(static_cast<std::size_t>(all), '\0');
    std::ranges::copy(own, joined.begin() + offsets[rank_]);
    gather(joined.data(), counts, offsets);
    std::vector<std::string> texts;
    for (std::size_t r = 0; r < size_; ++r) {
      texts.push_back(
          joined.substr(static_cast<std::size_t>(offsets[r]), static_cast<std::size_t>(counts[r])));
    }
    return texts;
  }

  /// Since the ranks were made.
  const Traffic& traffic() const { return traffic_; }

 private:
  static void check(int result, std::string_view call) {
    if (result == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(result, text.data(), &length);
    throw Error(call, std::string(text.data(), static_cast<std::size_t>(length)));
  }
  void note(std::size_t sent, std::chrono::steady_clock::time_point start) {
    ++traffic_.calls;
    traffic_.bytes += sent * (size_ - 1);
    traffic_.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  std::size_t rank_ = 0;
  std::size_t size_ = 1;
  std::size_t on_machine_ = 1;
  Traffic traffic_;
};

}  // namespace ds4::inline v0_1::mpi
