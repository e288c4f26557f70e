// How many tokens to draft: what drafts bring, measured against what they cost.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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
/// place of a draft was accepted of late and how long the last steps of each length took. A drafter
/// that says how confident it is (goes_on) decides draft by draft: it goes on while the chance that
/// the next token is reached and accepted is worth the time of verifying it. Drafts may lose 1 % of
/// all time and once most of a step: that bounds what trying costs where they do not pay, and stops
/// them where they cease to.
class DraftLength {
 public:
  /// The longest draft.
  static constexpr std::size_t kMost = 16;
  /// The longest of an automatic length without confidences.
  static constexpr std::size_t kMostAutomatic = 4;

  /// Always `length`, at most kMost.
  static DraftLength fixed(std::size_t length) {
    DraftLength made;
    made.fixed_ = std::min(length, kMost);
    return made;
  }
  /// From 0 to kMostAutomatic, or, with confidences, to all that the drafter can draft.
  static DraftLength automatic() {
    DraftLength made;
    made.automatic_ = true;
    return made;
  }

  /// The longest draft that it may have chosen where the drafter can draft `longest`.
  std::size_t most(std::size_t longest) const {
    return std::min(longest, !automatic_ ? fixed_ : confident_ ? kMost : kMostAutomatic);
  }

  /// The length for the next step, at most `longest`, what the drafter can draft. The first
  /// kPlainSteps are without, to compare with.
  std::size_t next(std::size_t longest = kMost) const {
    if (totals_.steps < kPlainSteps) return 0;
    if (!automatic_) return std::min(fixed_, longest);
    if (loss_ > allowance()) return 0;
    if (confident_) {
      if (burst_ > 0) return longest;
      return drafts_pay() && since_plain_ < kPlainTurn ? longest : 0;
    }
    if (burst_ > 0) return std::min(longest, std::max<std::size_t>(best(), 1));
    const std::size_t length = best();
    if (length == 0) return 0;
    // Others' times grow old: a neighbour's turn, or that of no draft.
    if (since_plain_ >= kPlainTurn) return 0;
    if (totals_.steps % kNeighbourTurn == 0) {
      return std::min(longest, length < kMostAutomatic ? length + 1 : length - 1);
    }
    return std::min(longest, length);
  }

  /// Whether the draft of this step, of `drafted` tokens so far, goes on, where the drafter says
  /// how confident it is that the next token is accepted if those before it are: a logit. The first
  /// token always is drafted: what a block costs is spent by then. It depends on what is known
  /// before the token is drawn, so what is decoded keeps its distribution (model.md 19.3).
  bool goes_on(std::size_t drafted, float confidence) {
    if (!automatic_) return true;
    confident_ = true;
    if (drafted == 0) {
      reached_ = 1.0;
      said_count_ = 0;
    }
    const double said = 1.0 / (1.0 + std::exp(-static_cast<double>(confidence)));
    reached_ *= std::min(1.0, said * calibration());
    if (drafted > 0 && reached_ < row_seconds() * rate()) return false;
    if (said_count_ < kMost) said_[said_count_++] = said;
    return true;
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
    if (n > 0 && confident_) {
      for (std::size_t i = 0; i < std::min(said_count_, std::min(n, step.accepted + 1)); ++i) {
        said_sum_ = said_sum_ * kKeep + said_[i];
        said_right_ = said_right_ * kKeep + (i < step.accepted ? 1.0 : 0.0);
      }
      drafted_tokens_ = drafted_tokens_ * kKeep + static_cast<double>(step.accepted + 1);
      drafted_seconds_ = drafted_seconds_ * kKeep +
                         (n <= kMost && times_[n].count > 0 ? times_[n].median : step.seconds);
    }
    if (n > 0) {
      const double plain = static_cast<double>(step.accepted + 1) * times_[0].median;
      loss_ = std::max(0.0, loss_ + step.seconds - plain);
      burst_ -= std::min<std::size_t>(burst_, 1);
    } else if (automatic_ && (confident_ ? !drafts_pay() : best() == 0) &&
               loss_ + kBurst * (time(1) - times_[0].median) < allowance()) {
      burst_ = kBurst;
    }
  }

  /// Whether it depends on what it is told of times.
  bool is_automatic() const { return automatic_; }

  /// All steps that were reported.
  const DraftTotals& totals() const { return totals_; }

 private:
  static constexpr std::size_t kPlainSteps = 4;
  static constexpr std::size_t kPlainTurn = 16;
  static constexpr std::size_t kNeighbourTurn = 16;
  static constexpr std::size_t kBurst = 2;
  static constexpr double kKeep = 0.95;        // of a running mean, from step to step
  static constexpr double kWorthwhile = 1.03;  // less is within what measuring is off by
  static constexpr double kMostLoss = 0.01;    // of the time
  static constexpr double kFreeLoss = 0.7;     // of a plain step, once

  /// How often a place's token was accepted where those before it were: a running mean, which
  /// begins with an assumption.
  struct Place {
    double accepted = 0.0;
    double tried = 0.0;
    double assumption = 4.0;  // its weight, in tries
    void add(bool was_accepted) {
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

  /// Tokens per second of the last steps with a draft, or of plain ones, if those are more.
  double rate() const {
    const double plain = 1.0 / times_[0].median;
    return drafted_seconds_ > 0.0 ? std::max(plain, drafted_tokens_ / drafted_seconds_) : plain;
  }
  /// Whether steps with drafts are worth their time; the first one finds out.
  bool drafts_pay() const {
    return drafted_seconds_ == 0.0 ||
           drafted_tokens_ / drafted_seconds_ > kWorthwhile / times_[0].median;
  }
  /// Seconds that one more token adds to the pass that verifies it: by the shortest and the longest
  /// draft that were measured, and by assumption before.
  double row_seconds() const {
    constexpr double kAssumed = 0.15;  // of a plain step
    std::size_t low = 1;
    while (low < kMost && times_[low].count == 0) ++low;
    std::size_t high = kMost;
    while (high > low && times_[high].count == 0) --high;
    if (low >= high) return kAssumed * times_[0].median;
    return std::max(0.0, times_[high].median - times_[low].median) /
           static_cast<double>(high - low);
  }
  /// How much more often drafts were accepted of late than the drafter has said.
  double calibration() const { return (said_right_ + 2.0) / (said_sum_ + 2.0); }

  bool automatic_ = false;
  bool confident_ = false;  // the drafter says how confident it is
  std::size_t fixed_ = 0;
  DraftTotals totals_;
  std::array<Place, kMost> places_{};
  std::array<Time, kMost + 1> times_{};
  double loss_ = 0.0;            // seconds more than plain steps would have taken
  std::size_t burst_ = 0;        // tries that are left
  std::size_t since_plain_ = 0;  // steps
  std::size_t last_ = 0;         // drafted in the step before

  // With confidences: this draft's, and running sums of those before.
  double reached_ = 1.0;              // the chance that the draft is accepted so far
  std::array<double, kMost> said_{};  // of each token, as the drafter says
  std::size_t said_count_ = 0;
  double said_sum_ = 0.0;
  double said_right_ = 0.0;
  double drafted_tokens_ = 0.0;
  double drafted_seconds_ = 0.0;
};

}  // namespace ds4::inline v0_1
