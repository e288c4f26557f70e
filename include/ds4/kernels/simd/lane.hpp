// A lane of the SIMD backend: one of the threads that execute a pass together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/scratch.hpp>
#include <ds4/kernels/simd/team.hpp>

namespace ds4::inline v0_1::simd {

/// A thread's place in its team, its memory and its share of the work, and the kernels that it
/// calls. A copy belongs to the same team.
class Lane {
 public:
  /// The only lane, as it is outside of a pass. Makes the team.
  Lane(const Kernels& kernels, bool exact, const TeamOptions& team)
      : kernels_(&kernels),
        exact_(exact),
        team_(std::make_shared<Team>(team)),
        shared_(team_->shared()),
        own_(team_->own(0)) {}

  ///@{
  /// The leader is one lane; here all lanes wait for each other.
  bool is_leader() const { return index_ == 0; }
  void wait_for_all() {
    if (count_ > 1) team_->barrier().wait();
  }
  ///@}

  /// Memory for a part of the pass.
  Scratch scratch() { return {shared_, own_}; }
  /// Memory that the team keeps from pass to pass: what the largest pass so far took.
  std::size_t scratch_bytes() const { return team_->scratch_bytes(); }
  /// Gives it back. Not during a pass.
  void release_scratch() { team_->release_scratch(); }

  /// Brings a result to the host's memory: one from `result` is there already.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const Item> values) {
    if (is_leader() && host.data() != values.data()) std::ranges::copy(values, host.begin());
  }
  /// Calls f on one lane with the values where the host can read them.
  template <class Item, class F>
  void show(std::span<const Item> values, F&& f) {
    if (is_leader()) f(values);
    wait_for_all();
  }
  /// Marks a part of the pass, named by all arguments, for as long as what it returns lives.
  template <class... Parts>
  int region(const Parts&...) {
    return 0;
  }

  ///@{
  /// Of the team, and of the kernels.
  std::size_t threads() const { return team_->threads(); }
  const char* instruction_set() const { return kernels_->name; }
  ///@}

  ///@{
  /// For the operations: the kernels, whether activations stay in float32, and which lane this is
  /// of how many.
  const Kernels& kernels() const { return *kernels_; }
  bool exact() const { return exact_; }
  std::size_t index() const { return index_; }
  std::size_t lanes() const { return count_; }
  ///@}

  /// Some of a number of items.
  struct Part {
    std::size_t begin;
    std::size_t end;
    std::size_t size() const { return end - begin; }
  };
  ///@{
  /// This lane's share of n items, cut at multiples of `grain`; calls f(i) for this lane's share,
  /// and for all items, which is done when it returns.
  Part part(std::size_t n, std::size_t grain) const {
    const std::size_t units = (n + grain - 1) / grain;
    return {std::min(n, units * index_ / count_ * grain),
            std::min(n, units * (index_ + 1) / count_ * grain)};
  }
  template <class F>
  void for_part(std::size_t n, F&& f) const {
    const Part mine = part(n, 1);
    for (std::size_t i = mine.begin; i < mine.end; ++i) f(i);
  }
  template <class F>
  void for_each(std::size_t n, F&& f) {
    for_part(n, f);
    wait_for_all();
  }
  ///@}

 protected:
  /// Leaves the team for one of its own.
  void leave_team(const TeamOptions& team) {
    team_ = std::make_shared<Team>(team);
    shared_ = Arena::Cursor(team_->shared());
    own_ = Arena::Cursor(team_->own(0));
  }
  /// Calls f on every thread of the team with a copy of the backend, which derives from Lane, that
  /// stands for this thread.
  template <class Backend, class F>
  static void run_copies(const Backend& backend, F&& f) {
    Team& team = *backend.team_;
    team.run([&](std::size_t index, std::size_t count) {
      Backend copy(backend);
      Lane& lane = copy;
      lane.index_ = index;
      lane.count_ = count;
      lane.shared_ = Arena::Cursor(team.shared());
      lane.own_ = Arena::Cursor(team.own(index));
      f(copy);
    });
  }

 private:
  const Kernels* kernels_;
  bool exact_;
  std::shared_ptr<Team> team_;
  std::size_t index_ = 0;
  std::size_t count_ = 1;
  Arena::Cursor shared_;
  Arena::Cursor own_;
};

}  // namespace ds4::inline v0_1::simd
