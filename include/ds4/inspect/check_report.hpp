// What a comparison of a backend with the reference found, stage by stage.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace ds4::inline v0_1 {

/// Tolerances of check_backend. Float32 in another order of summation: the largest error of any
/// stage is 2e-5 on the 7 layers of models/austen, and grows slowly with the layers.
inline constexpr double kFloat32Tolerance = 1e-4;
/// Activations or state rows rounded to BF16, to 2^-9: 0.1 there, where a softmax is sensitive.
inline constexpr double kBf16Tolerance = 0.25;
/// The mean error of a stage may be this share of the tolerance; measured: a fiftieth of it at
/// most.
inline constexpr double kMeanShare = 0.1;
/// The mean error of rows that are behind a differing pick: values that had nothing to do with the
/// reference's would be further away.
inline constexpr double kBehindTolerance = 1.0;

/// Errors of some rows of a stage, in units of StageCheck::unit; infinite where a value is not a
/// number.
struct RowErrors {
  std::size_t rows = 0;           ///< rows that were compared
  double largest = 0.0;           ///< the largest error of a value
  std::size_t largest_token = 0;  ///< where the largest is
  double mean = 0.0;              ///< over all values
  std::size_t differing = 0;      ///< rows with any error; of picks: with other picks
};

/// What was found at one stage of one layer.
///
/// The error of a value is its distance from the reference's. A stage of picks (experts of the
/// router, entries of the indexer) compares sets: the error of a row is the gap, how much better
/// the reference scores the best entry that was missed than the worst one that was taken instead.
///
/// Once a token's picks differ, what follows differs, too, and says little: that token's later
/// stages in the layer, and in later layers the stages of that token and of all tokens after it,
/// which attend to it. Such rows are `behind` a differing pick, and are counted apart.
struct StageCheck {
  std::size_t layer = 0;  ///< num_hidden_layers for what comes after the layers; from there on the
                          ///< drafter's
  std::string stage;      ///< as an observer is told, "logits", or "draft": those of the drafter
  bool head = false;      ///< after the layers
  bool picks = false;     ///< indices; otherwise values
  /// Of values the root mean square of the reference's, of logits their standard deviation. Of
  /// picks 1: gaps are in standard deviations of the row's scores.
  double unit = 0.0;
  RowErrors clean;                        ///< rows that are not behind a differing pick
  RowErrors behind;                       ///< rows that are
  double tolerance = 0.0;                 ///< of the largest error of each clean row
  std::size_t past = 0;                   ///< clean rows past it
  std::optional<std::size_t> first_past;  ///< the token of the first of them
  /// What is past a tolerance: "token 17: error 0.31, expected at most 0.0001"; empty if nothing.
  std::string problem;

  /// "layer 3 attn.q_rope", "head logits"
  std::string name() const {
    return (head ? "head" : "layer " + std::to_string(layer)) + " " + stage;
  }
};

/// What check_backend found.
struct CheckReport {
  std::size_t tokens = 0;                      ///< tokens that were compared
  std::vector<StageCheck> stages;              ///< in the order of a pass; logits, drafts last
  std::size_t same_top = 0;                    ///< tokens whose largest logit is the same
  std::optional<std::size_t> first_other_top;  ///< the first token whose largest logit is another

  /// The first stage that is past a tolerance, or nullptr.
  const StageCheck* first_past() const {
    const auto found =
        std::ranges::find_if(stages, [](const StageCheck& s) { return !s.problem.empty(); });
    return found == stages.end() ? nullptr : &*found;
  }
  /// Whether nothing is past a tolerance.
  bool passed() const { return first_past() == nullptr; }
};

}  // namespace ds4::inline v0_1
