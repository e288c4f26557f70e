#include "cli/loss_curve.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>

#include "cli/svg.hpp"

namespace ds4::cli {
namespace {

constexpr std::string_view kHeader =
    "step,tokens,seconds,loss,validation,mtp_loss,balance,indexer,gradient_norm,learning_rate";
constexpr std::size_t kColumns = 10;

/// The fields of a line between commas.
std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  for (;;) {
    const std::size_t comma = line.find(',');
    fields.push_back(line.substr(0, comma));
    if (comma == line.npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

bool parse(std::string_view text, auto& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size();
}

/// The mean of some rows at once, so that the line shows where the loss goes.
std::vector<std::pair<double, double>> smoothed(const std::vector<LossRow>& rows) {
  constexpr std::size_t kPoints = 200;
  const std::size_t per_point = std::max<std::size_t>(1, rows.size() / kPoints);
  std::vector<std::pair<double, double>> points;
  double tokens = 0.0;
  double sum = 0.0;
  std::size_t count = 0;
  for (const LossRow& row : rows) {
    tokens += static_cast<double>(row.report.tokens);
    sum += row.report.loss;
    if (++count < per_point) continue;
    points.emplace_back(tokens, sum / static_cast<double>(count));
    sum = 0.0;
    count = 0;
  }
  return points;
}

}  // namespace

std::string to_csv(const std::vector<LossRow>& rows) {
  std::string text = std::string(kHeader) + "\n";
  char line[320];
  for (const LossRow& row : rows) {
    char validation[32] = "";
    if (row.validation) std::snprintf(validation, sizeof validation, "%.9g", *row.validation);
    const StepReport& r = row.report;
    std::snprintf(line, sizeof line, "%zu,%zu,%.3f,%.9g,%s,%.9g,%.9g,%.9g,%.9g,%.9g\n", r.step,
                  r.tokens, row.seconds, r.loss, validation, r.mtp_loss, r.balance, r.indexer,
                  r.gradient_norm, r.learning_rate);
    text += line;
  }
  return text;
}

std::vector<LossRow> from_csv(std::string_view where, std::string_view text) {
  std::vector<LossRow> rows;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto reject = [&](const std::string& expected) {
      throw Error(where, "line " + std::to_string(number) + ": found " + detail::in_quotes(line) +
                             ", expected " + expected);
    };
    if (number == 1) {
      if (line != kHeader) reject(std::string(kHeader));
      continue;
    }
    const auto fields = fields_of(line);
    LossRow row;
    StepReport& r = row.report;
    double validation = 0.0;
    const bool good = fields.size() == kColumns && parse(fields[0], r.step) &&
                      parse(fields[1], r.tokens) && parse(fields[2], row.seconds) &&
                      parse(fields[3], r.loss) &&
                      (fields[4].empty() || parse(fields[4], validation)) &&
                      parse(fields[5], r.mtp_loss) && parse(fields[6], r.balance) &&
                      parse(fields[7], r.indexer) && parse(fields[8], r.gradient_norm) &&
                      parse(fields[9], r.learning_rate) && r.step == rows.size() + 1;
    if (!good) reject("the numbers of step " + std::to_string(rows.size() + 1));
    if (!fields[4].empty()) row.validation = validation;
    rows.push_back(row);
  }
  return rows;
}

std::string loss_curve(const std::vector<LossRow>& rows, std::string_view title) {
  constexpr double kLeft = 60;
  constexpr double kTop = 50;
  constexpr double kWidth = 640;
  constexpr double kHeight = 320;
  constexpr std::string_view kTraining = kHeat[2];
  constexpr std::string_view kValidation = kHeat[5];
  const auto training = smoothed(rows);
  std::vector<std::pair<double, double>> validation;
  double tokens = 0.0;
  for (const LossRow& row : rows) {
    tokens += static_cast<double>(row.report.tokens);
    if (row.validation) validation.emplace_back(tokens, *row.validation);
  }
  double low = training.empty() ? 0.0 : training[0].second;
  double high = low;
  const auto include = [&](const std::vector<std::pair<double, double>>& line) {
    for (const auto& [x, y] : line) {
      low = std::min(low, y);
      high = std::max(high, y);
    }
  };
  include(training);
  include(validation);
  low = std::floor(low * 2.0) / 2.0;
  high = std::max(std::ceil(high * 2.0) / 2.0, low + 0.5);
  const auto x_of = [&](double x) { return kLeft + kWidth * x / std::max(tokens, 1.0); };
  const auto y_of = [&](double y) { return kTop + kHeight * (high - y) / (high - low); };

  Svg svg(kLeft + kWidth + 40);
  svg.text(kLeft, 24, title, {.size = 15, .bold = true});
  const double steps = high - low > 4.0 ? 1.0 : 0.5;
  for (double y = low; y <= high + 1e-9; y += steps) {
    svg.line(kLeft, y_of(y), kLeft + kWidth, y_of(y), {.colour = kGrid});
    svg.text(kLeft - 8, y_of(y) + 4, three_digits(y),
             {.size = 11, .anchor = Svg::Anchor::end, .colour = kGrey});
  }
  for (int i = 0; i <= 4; ++i) {
    const double x = tokens * i / 4.0;
    svg.text(x_of(x), kTop + kHeight + 18, with_si_unit(x),
             {.size = 11, .anchor = Svg::Anchor::middle, .colour = kGrey});
  }
  svg.text(kLeft + kWidth / 2, kTop + kHeight + 38, "tokens",
           {.anchor = Svg::Anchor::middle, .colour = kGrey});
  svg.text(kLeft, kTop - 8, "nats per token", {.size = 11, .colour = kGrey});
  const auto draw = [&](const std::vector<std::pair<double, double>>& line, std::string_view colour,
                        std::string_view name, double legend) {
    if (line.empty()) return;
    std::string path;
    char command[64];
    for (const auto& [x, y] : line) {
      std::snprintf(command, sizeof command, "%s%.1f %.1f", path.empty() ? "M" : " L", x_of(x),
                    y_of(y));
      path += command;
    }
    svg.path(path, {.colour = colour, .width = 1.8});
    svg.line(legend, kTop - 12, legend + 20, kTop - 12, {.colour = colour, .width = 3});
    svg.text(legend + 26, kTop - 8,
             std::string(name) + ", last " + three_digits(line.back().second));
  };
  draw(training, kTraining, "training", kLeft + 200);
  draw(validation, kValidation, "validation", kLeft + 420);
  return svg.document(kTop + kHeight + 56);
}

}  // namespace ds4::cli
