// Launches of kernels: labels, counts, and what each moves and computes. Parts of a backend find it
// here.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <Kokkos_Core.hpp>

#include <ds4/core/error.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1 {

template <class Space>
class KokkosBackend;

}  // namespace ds4::inline v0_1

namespace ds4::inline v0_1::kokkos {

/// The backend that `part` is a base of.
template <template <class> class Part, class Space>
KokkosBackend<Space>& backend_of(Part<Space>* part) {
  return static_cast<KokkosBackend<Space>&>(*part);
}

/// What one launch reads and writes in the space's memory, each byte once, and its floating-point
/// operations. Where that depends on data (how many experts are picked), it is the largest number.
struct Cost {
  double bytes = 0;
  double flops = 0;
  friend Cost operator+(const Cost& a, const Cost& b) {
    return {a.bytes + b.bytes, a.flops + b.flops};
  }
};

/// The cost of an operation on so many float32 values.
inline Cost moves(std::size_t values, std::size_t flops = 0) {
  return {4.0 * static_cast<double>(values), static_cast<double>(flops)};
}

/// The launches of one label.
struct LaunchCount {
  std::string label;
  std::size_t launches = 0;
  Cost cost = {};  ///< of all of them
};

/// Counts launches by label, in the order of their first ones.
class LaunchLog {
 public:
  /// The label, as Kokkos takes it; valid until the next call.
  const std::string& add(std::string_view label, const Cost& cost) {
    LaunchCount& count = find(label);
    ++count.launches;
    count.cost = count.cost + cost;
    return count.label;
  }
  const std::vector<LaunchCount>& counts() const { return counts_; }
  void clear() { counts_.clear(); }

 private:
  LaunchCount& find(std::string_view label) {
    for (LaunchCount& count : counts_) {
      if (count.label == label) return count;
    }
    return counts_.emplace_back(LaunchCount{std::string(label)});
  }
  std::vector<LaunchCount> counts_;
};

/// A backend's launches of kernels: on one instance of a space, one after another.
template <class Space>
class Launcher {
 public:
  using Policy = Kokkos::TeamPolicy<Space>;
  using Member = typename Policy::member_type;

  /// Throws ds4::Error if Kokkos is not initialised.
  explicit Launcher(std::size_t host_team) : host_team_(static_cast<int>(host_team)) {}

  /// What kernels run on.
  const Space& space() const { return space_; }
  /// Threads that the space runs at the same time.
  std::size_t threads() const { return static_cast<std::size_t>(space_.concurrency()); }
  /// What has been launched so far. A copy of a backend counts into the same log.
  LaunchLog& launches() const { return *log_; }

  /// Runs kernel(member) for `league` teams. Teams have `team` threads, on the host `host_team` or
  /// what the launcher was told; each has `scratch` bytes of fast memory.
  template <class Kernel>
  void launch(std::string_view label, const Cost& cost, std::size_t league, int team,
              std::size_t scratch, const Kernel& kernel, int host_team = 1) const {
    if (league == 0) return;
    const std::string& name = log_->add(label, cost);
    host_team = std::max(host_team, host_team_);
    const bool is_small = league == 1 || cost.bytes + cost.flops / 4 < kSmall;
    Policy policy(kCanRunAlone && is_small && host_team == 1 ? alone_ : space_,
                  static_cast<int>(league), kOnHost<Space> ? host_team : team);
    if (scratch > 0) {
      policy.set_scratch_size(kScratchLevel<Space>, Kokkos::PerTeam(static_cast<int>(scratch)));
    }
    Kokkos::parallel_for(name, policy, kernel);
  }

 private:
  /// Spaces of the host whose instances can have fewer threads than the space. A launch returns
  /// when it is done, so that the order of launches on two of them is that of the calls.
  static constexpr bool kCanRunAlone = kOnHost<Space> && std::is_constructible_v<Space, int>;
  /// Bytes below which waking the other threads costs more than they save: about a microsecond.
  static constexpr double kSmall = 32768;

  static Space checked_space() {
    if (!Kokkos::is_initialized() || Kokkos::is_finalized()) {
      throw Error("Kokkos",
                  "expected Kokkos::initialize() or a Kokkos::ScopeGuard before the first "
                  "KokkosBackend, found neither");
    }
    return Space();
  }
  static Space one_thread_of(const Space& space) {
    if constexpr (kCanRunAlone) {
      return Space(1);
    } else {
      return space;
    }
  }

  Space space_ = checked_space();
  // One thread of the space, for launches that have no work for more.
  Space alone_ = one_thread_of(space_);
  int host_team_;
  std::shared_ptr<LaunchLog> log_ = std::make_shared<LaunchLog>();
};

}  // namespace ds4::inline v0_1::kokkos
