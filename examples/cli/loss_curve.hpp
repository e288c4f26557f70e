// The record of a training run: a table, and a picture of it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/train/trainer.hpp>

namespace ds4::cli {

/// A step of a run.
struct LossRow {
  StepReport report;
  double seconds = 0.0;                   ///< of training, since the run began
  std::optional<double> validation = {};  ///< nats per token behind the step, where measured
};

/// The rows as CSV, a header first; and back. Throws ds4::Error at `where` for another text.
std::string to_csv(const std::vector<LossRow>& rows);
std::vector<LossRow> from_csv(std::string_view where, std::string_view text);

/// Loss and validation loss by tokens, as SVG.
std::string loss_curve(const std::vector<LossRow>& rows, std::string_view title);

}  // namespace ds4::cli
