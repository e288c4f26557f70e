// How many tokens to draft: what drafts bring, measured against what they cost.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// A step of decoding: a draft, and the pass that verifies it and yields accepted + 1 tokens.
struct DraftStep {
  std::size_t drafted = 0;   ///< tokens
  std::size_t accepted = 0;  ///< of these
  double seconds = 0.0;      ///< of drafting and of the pass
};

/// Steps added up.
struct DraftTotals {
  ///@{
  /// Steps, and tokens.
  std::size_t steps = 0;
  std::size_t drafted = 0;
  std::size_t accepted = 0;
  ///@}
  double seconds = 0.0;         ///< of all steps
  std::size_t plain_steps = 0;  ///< without a draft
  double plain_seconds = 0.0;   ///< of these

  /// Adds a step.
  void add(const DraftStep& step) {
    ++steps;
    drafted += step.drafted;
    accepted += step.accepted;
    seconds += step.seconds;
    if (step.drafted > 0) return;
    ++plain_steps;
    plain_seconds += step.seconds;
  }
  /// The share of drafted tokens that were accepted; 0 without any.
  double acceptance() const {
    return drafted == 0 ? 0.0 : static_cast<double>(accepted) / static_cast<double>(drafted);
  }
  /// Tokens that a pass yields on average.
  double tokens_per_pass() const {
    return steps == 0 ? 0.0 : static_cast<double>(steps + accepted) / static_cast<double>(steps);
  }
  /// How much faster decoding was than with plain steps alone, by those among the steps; 0 if there
  /// were none.
  double speed_up() const {
    if (plain_steps == 0 || seconds <= 0.0) return 0.0;
    return plain_seconds / static_cast<double>(plain_steps) *
           static_cast<double>(steps + accepted) / seconds;
  }
};

/// Chooses the length of each draft. A value; it knows no clock but what it is told.
///
/// An automatic length is the one whose expected tokens per second are most, by how often each
/// place of a draft was accepted of late and how long the last steps of each length took. Drafts
/// may lose 1 % of all time and once most of a step: that bounds what trying costs where they do
/// not pay, and stops them where they cease to.
class DraftLength {
 public:
  /// The longest draft.
  static constexpr std::size_t kMost = 16;
  /// The longest of an automatic length.
  static constexpr std::size_t kMostAutomatic = 4;

  /// Always `length`, at most kMost.
  static DraftLength fixed(std::size_t length) {
    DraftLength made;
    made.fixed_ = std::min(length, kMost);
    return made;
  }
  /// From 0 to kMostAutomatic.
  static DraftLength automatic() {
    DraftLength made;
    made.automatic_ = true;
    return made;
  }

  /// The longest draft that it may choose.
  std::size_t longest() const { return automatic_ ? kMostAutomatic : fixed_; }

  /// The length for the next step. The first kPlainSteps are without, to compare with.
  std::size_t next() const {
    if (totals_.steps < kPlainSteps) return 0;
    if (!automatic_) return fixed_;
    if (loss_ > allowance()) return 0;
    if (burst_ > 0) return std::max<std::size_t>(best(), 1);
    const std::size_t length = best();
    if (length == 0) return 0;
    // Others' times grow old: a neighbour's turn, or that of no draft.
    if (since_plain_ >= kPlainTurn) return 0;
    if (totals_.steps % kNeighbourTurn == 0) {
      return length < kMostAutomatic ? length + 1 : length - 1;
    }
    return length;
  }

  /// After a step.
  void report(const DraftStep& step) {
    totals_.add(step);
    const std::size_t n = step.drafted;
    since_plain_ = n == 0 ? 0 : since_plain_ + 1;
    for (std::size_t i = 0; i < std::min({n, step.accepted + 1, kMost}); ++i) {
      places_[i].add(i < step.accepted);
    }
    // The first step of all is slow, and the first draft after plain steps has their rows to make.
    const bool usual = n == 0 ? totals_.steps > 1 : last_ > 0;
    if (n <= kMost && usual) times_[n].add(step.seconds);
    last_ = n;
    if (n > 0) {
      const double plain = static_cast<double>(step.accepted + 1) * times_[0].median;
      loss_ = std::max(0.0, loss_ + step.seconds - plain);
      burst_ -= std::min<std::size_t>(burst_, 1);
    } else if (automatic_ && best() == 0 &&
               loss_ + kBurst * (time(1) - times_[0].median) < allowance()) {
      burst_ = kBurst;
    }
  }

  /// All steps that were reported.
  const DraftTotals& totals() const { return totals_; }

 private:
  static constexpr std::size_t kPlainSteps = 4;
  static constexpr std::size_t kPlainTurn = 16;
  static constexpr std::size_t kNeighbourTurn = 16;
  static constexpr std::size_t kBurst = 2;
  static constexpr double kMostLoss = 0.01;  // of the time
  static constexpr double kFreeLoss = 0.7;   // of a plain step, once

  /// How often a place's token was accepted where those before it were: a running mean, which
  /// begins with an assumption.
  struct Place {
    double accepted = 0.0;
    double tried = 0.0;
    double assumption = 4.0;  // its weight, in tries
    void add(bool was_accepted) {
      constexpr double kKeep = 0.95;
      accepted = accepted * kKeep + (was_accepted ? 1.0 : 0.0);
      tried = tried * kKeep + 1.0;
      assumption *= kKeep;
    }
    double share(double assumed) const {
      return (accepted + assumption * assumed) / (tried + assumption);
    }
  };
  /// Seconds of a step: the median of the last ones, which a busy machine's slow steps do not move.
  struct Time {
    std::array<double, 7> last{};
    std::size_t count = 0;
    double median = 0.0;
    void add(double seconds) {
      last[count++ % last.size()] = seconds;
      auto sorted = last;
      const std::size_t size = std::min(count, last.size());
      const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>((size - 1) / 2);
      std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(size));
      median = *middle;
    }
  };

  /// Seconds that drafts may have lost by now.
  double allowance() const { return kFreeLoss * times_[0].median + kMostLoss * totals_.seconds; }

  /// Seconds of a step of this length: measured, or drawn on from shorter ones.
  double time(std::size_t length) const {
    constexpr double kPerToken = 0.4;  // of a plain step, before anything is known
    double seconds = times_[0].median;
    double step = kPerToken * seconds;
    for (std::size_t n = 1; n <= length; ++n) {
      const double next = times_[n].count > 0 ? times_[n].median : seconds + step;
      step = next - seconds;
      seconds = next;
    }
    return seconds;
  }

  /// The length with the most tokens per second.
  std::size_t best() const {
    constexpr double kWorthwhile = 1.03;  // less is within what measuring is off by
    double expected = 1.0;
    double reached = 1.0;
    double assumed = 0.6;
    double most = kWorthwhile / times_[0].median;
    std::size_t length = 0;
    for (std::size_t n = 1; n <= kMostAutomatic; ++n) {
      assumed = places_[n - 1].share(assumed);
      reached *= assumed;
      expected += reached;
      if (expected / time(n) > most) {
        most = expected / time(n);
        length = n;
      }
    }
    return length;
  }

  bool automatic_ = false;
  std::size_t fixed_ = 0;
  DraftTotals totals_;
  std::array<Place, kMost> places_{};
  std::array<Time, kMost + 1> times_{};
  double loss_ = 0.0;            // seconds more than plain steps would have taken
  std::size_t burst_ = 0;        // tries that are left
  std::size_t since_plain_ = 0;  // steps
  std::size_t last_ = 0;         // drafted in the step before
};

}  // namespace ds4::inline v0_1
