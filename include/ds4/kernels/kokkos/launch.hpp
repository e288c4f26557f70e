// Launches of kernels: labels, counts, and what each moves and computes.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// What one launch reads and writes in the space's memory, each byte once, and its floating-point
/// operations. Where that depends on data (how many experts are picked), it is the largest number.
struct Cost {
  double bytes = 0;
  double flops = 0;
  friend Cost operator+(const Cost& a, const Cost& b) {
    return {a.bytes + b.bytes, a.flops + b.flops};
  }
};

/// The launches of one label.
struct LaunchCount {
  std::string_view label;
  std::size_t launches = 0;
  Cost cost = {};  ///< of all of them
};

/// Counts launches by label, in the order of their first ones.
class LaunchLog {
 public:
  void add(std::string_view label, const Cost& cost) {
    LaunchCount& count = find(label);
    ++count.launches;
    count.cost = count.cost + cost;
  }
  const std::vector<LaunchCount>& counts() const { return counts_; }
  void clear() { counts_.clear(); }

 private:
  LaunchCount& find(std::string_view label) {
    for (LaunchCount& count : counts_) {
      if (count.label == label) return count;
    }
    return counts_.emplace_back(LaunchCount{label});
  }
  std::vector<LaunchCount> counts_;
};

/// A region of Kokkos::Tools: lasts as long as the object.
class Region {
 public:
  explicit Region(const std::string& name) { Kokkos::Profiling::pushRegion(name); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { Kokkos::Profiling::popRegion(); }
};

/// Launches kernels on one instance of a space, one after another.
template <class Space>
class Launcher {
 public:
  using Policy = Kokkos::TeamPolicy<Space>;
  using Member = typename Policy::member_type;

  explicit Launcher(const Space& space, std::size_t host_team)
      : space_(space), host_team_(static_cast<int>(host_team)) {}

  const Space& space() const { return space_; }
  LaunchLog& log() const { return *log_; }

  /// Runs kernel(member) for `league` teams. Teams have `team` threads, on the host a few; each has
  /// `scratch` bytes of fast memory.
  template <class Kernel>
  void operator()(std::string_view label, const Cost& cost, std::size_t league, int team,
                  std::size_t scratch, const Kernel& kernel) const {
    if (league == 0) return;
    log_->add(label, cost);
    Policy policy(space_, static_cast<int>(league), kOnHost<Space> ? host_team_ : team);
    if (scratch > 0) {
      policy.set_scratch_size(kScratchLevel<Space>, Kokkos::PerTeam(static_cast<int>(scratch)));
    }
    Kokkos::parallel_for(std::string(label), policy, kernel);
  }

 private:
  Space space_;
  int host_team_;
  std::shared_ptr<LaunchLog> log_ = std::make_shared<LaunchLog>();
};

}  // namespace ds4::inline v0_1::kokkos
