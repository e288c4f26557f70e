// What a comparison of a backend with the reference found, stage by stage.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace ds4::inline v0_1 {

/// Tolerances of check_backend where both compute in float32, and where activations or state rows
/// are rounded to BF16.
inline constexpr double kFloat32Tolerance = 1e-3;
inline constexpr double kBf16Tolerance = 0.5;

/// Errors of some rows of a stage, in units of StageCheck::unit; infinite where a value is not a
/// number.
struct RowErrors {
  std::size_t rows = 0;
  double largest = 0.0;
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
  std::size_t layer = 0;  ///< num_hidden_layers for what comes after the layers
  std::string stage;      ///< as an observer is told, or "logits"
  bool head = false;      ///< after the layers
  bool picks = false;     ///< indices; otherwise values
  /// Of values the root mean square of the reference's, of logits their standard deviation. Of
  /// picks 1: gaps are in standard deviations of the row's scores.
  double unit = 0.0;
  RowErrors clean;             ///< rows that are not behind a differing pick
  RowErrors behind;            ///< rows that are
  double tolerance = 0.0;      ///< of the largest error of each clean row
  std::size_t past = 0;        ///< clean rows past it
  std::size_t first_past = 0;  ///< token of the first of them
  double past_error = 0.0;     ///< and its largest error

  /// "layer 3 attn.q_rope", "head logits"
  std::string name() const {
    return (head ? "head" : "layer " + std::to_string(layer)) + " " + stage;
  }
};

/// What check_backend found.
struct CheckReport {
  std::size_t tokens = 0;
  std::vector<StageCheck> stages;  ///< in the order of a pass; the logits last
  std::size_t same_top = 0;        ///< tokens whose largest logit is the same
  std::optional<std::size_t> first_other_top;

  /// The first stage past its tolerance, or nullptr.
  const StageCheck* first_past() const {
    const auto found = std::ranges::find_if(stages, [](const StageCheck& s) { return s.past > 0; });
    return found == stages.end() ? nullptr : &*found;
  }
  bool passed() const { return first_past() == nullptr; }
};

/// "layer 3 attn.q_rope, token 17: error 0.31, expected at most 0.0001": of a stage that is past
/// its tolerance.
inline std::string describe(const StageCheck& stage) {
  std::array<char, 120> text{};
  std::snprintf(text.data(), text.size(), ", token %zu: %s %.2g, expected at most %.2g",
                stage.first_past, stage.picks ? "other picks, by a gap of" : "error",
                stage.past_error, stage.tolerance);
  return stage.name() + text.data();
}

}  // namespace ds4::inline v0_1
