// How many lanes run a pass where other programs want the processors too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::simd {

/// What a pass took.
struct PassTime {
  double seconds;  ///< on the clock
  double worked;   ///< seconds of processors that its lanes had and did not spend on waiting
  bool slept;      ///< a lane waited so long for the others that it slept
};

/// The number of lanes with which most work is done, found by trying. A lane whose processor is
/// given to another program holds up all the others for a turn of the scheduler, which is as long
/// as many tokens: fewer lanes, with a processor each, are then faster. Sizes are compared by how
/// many processors worked, which is the same measure for passes of any length. Where no lane sleeps
/// nothing is tried.
class TeamSize {
 public:
  /// At most so many lanes, which is what it begins with.
  explicit TeamSize(std::size_t most) {
    // From all lanes down and from one lane up in steps that double.
    for (std::size_t step = 1; step < most; step *= 2) {
      sizes_.push_back(step);
      sizes_.push_back(most - step);
    }
    sizes_.push_back(most);
    std::ranges::sort(sizes_);
    const auto same = std::ranges::unique(sizes_);
    sizes_.erase(same.begin(), same.end());
    best_ = tried_ = sizes_.size() - 1;
  }

  /// Lanes of the next pass.
  std::size_t lanes() const { return sizes_[tried_]; }

  /// A pass with that many is over.
  void note(const PassTime& pass) {
    seconds_ += pass.seconds;
    worked_ += pass.worked;
    slept_ = slept_ || pass.slept;
    if (seconds_ < kLook) return;
    const double rate = worked_ / seconds_;
    if (tried_ == best_) {
      best_rate_ = rate;
      quiet_ -= seconds_;
      if (best_ + 1 == sizes_.size() && !slept_) pause_ = kFirstPause;
      if (quiet_ <= 0.0) try_another();
    } else {
      const bool better = rate > least_gain() * best_rate_;
      pause_ = better ? kFirstPause : std::min(4.0 * pause_, kLongestPause);
      quiet_ = std::max(pause_, kPausePerTrial * seconds_);
      if (better) best_ = tried_;
      tried_ = best_;
    }
    seconds_ = worked_ = 0.0;
    slept_ = false;
  }

 private:
  // Turns of the scheduler are some milliseconds; a trial that fails costs about its time.
  static constexpr double kLook = 0.015;
  static constexpr double kFirstPause = 0.05;
  static constexpr double kLongestPause = 1.0;
  static constexpr double kPausePerTrial = 20.0;
  static constexpr double kGain = 1.05;

  // How much more has to be done with another size: of a small step no more than half of what it
  // can bring.
  double least_gain() const {
    const auto [less, more] = std::minmax(sizes_[best_], sizes_[tried_]);
    return std::min(kGain, 0.5 + 0.5 * static_cast<double>(more) / static_cast<double>(less));
  }

  // In turns one size less, one lane and one size more, where that can be better.
  void try_another() {
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t turn = turn_++ % 3;
      if (turn == 2) {
        if (best_ + 1 == sizes_.size()) continue;
        tried_ = best_ + 1;
        return;
      }
      if (best_ == 0 || !slept_) continue;
      const std::size_t less = turn == 0 ? best_ - 1 : 0;
      // As if each of fewer lanes had a processor all the time.
      if (static_cast<double>(sizes_[less]) < kGain * best_rate_) continue;
      tried_ = less;
      return;
    }
  }

  std::vector<std::size_t> sizes_;  // rising
  std::size_t best_;                // of sizes_
  std::size_t tried_;               // best_ where none is tried
  std::size_t turn_ = 0;
  double best_rate_ = 0.0;
  double pause_ = kFirstPause;  // between trials
  double quiet_ = 0.0;          // until the next one
  double seconds_ = 0.0;        // since the last look
  double worked_ = 0.0;
  bool slept_ = false;
};

}  // namespace ds4::inline v0_1::simd
