// ds4 attend: what a token attends to, as a picture.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/inspect/attention_probe.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/io.hpp"
#include "cli/layer_look.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/svg.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct AttendOptions {
  ModelChoice model;
  std::string tokens;
  std::string out;
  std::optional<std::size_t> layer;
  std::optional<std::size_t> position;
};

/// From which probability on a cell has each colour; below the first it has none.
constexpr std::array<double, kHeat.size()> kSteps{0.001, 0.003, 0.01, 0.03, 0.1, 0.3};
constexpr std::array<std::string_view, kHeat.size()> kStepNames{"0.001", "0.003", "0.01",
                                                                "0.03",  "0.1",   "0.3"};
constexpr std::string_view kEmpty = "#f4f1ea";

std::string_view colour_of(double probability) {
  std::string_view colour;
  for (std::size_t i = 0; i < kSteps.size() && probability >= kSteps[i]; ++i) colour = kHeat[i];
  return colour;
}

/// One query of one layer: the probabilities of a head, or their mean over all.
struct Row {
  const Attended* attended;
  std::string label;
  std::vector<double> probabilities;  // window, entries, sink

  /// The sums over the window, the entries and the sink.
  std::array<double, 3> shares() const {
    std::array<double, 3> sums{};
    const std::size_t window = attended->window.size();
    for (std::size_t i = 0; i < probabilities.size(); ++i) {
      sums[i < window ? 0 : i + 1 < probabilities.size() ? 1 : 2] += probabilities[i];
    }
    return sums;
  }
};

Row head_row(const Attended& attended, std::size_t head) {
  const std::size_t keys = attended.window.size() + attended.entries.size() + 1;
  const auto first = attended.probabilities.begin() + static_cast<std::ptrdiff_t>(head * keys);
  return {&attended, "head " + std::to_string(head),
          std::vector<double>(first, first + static_cast<std::ptrdiff_t>(keys))};
}

Row mean_row(const Attended& attended, std::string label) {
  const std::size_t keys = attended.window.size() + attended.entries.size() + 1;
  const std::size_t heads = attended.probabilities.size() / keys;
  Row row{&attended, std::move(label), std::vector<double>(keys)};
  for (std::size_t i = 0; i < attended.probabilities.size(); ++i) {
    row.probabilities[i % keys] += attended.probabilities[i] / static_cast<double>(heads);
  }
  return row;
}

std::string fixed(double value, const char* format) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), format, value);
  return buffer;
}

constexpr double kEntries = 150;  // where the panels begin
constexpr double kEntriesWidth = 360;
constexpr double kWindow = 526;
constexpr double kWindowWidth = 300;
constexpr double kShares = 842;
constexpr double kSharesWidth = 120;
constexpr double kPage = 1142;
constexpr double kRow = 17;
constexpr std::array<std::string_view, 3> kShareColours{"#4a73b0", "#3f8f50", "#8c8c8c"};

/// The entries' probabilities along the context, in as many cells as there are entries or room for:
/// a cell that stands for several has the largest.
std::vector<double> entry_cells(const Row& row) {
  constexpr std::size_t kMost = 360;
  const std::size_t visible = row.attended->visible;
  std::vector<double> cells(std::min(visible, kMost));
  const std::size_t window = row.attended->window.size();
  for (std::size_t i = 0; i < row.attended->entries.size(); ++i) {
    double& cell = cells[row.attended->entries[i] * cells.size() / visible];
    cell = std::max(cell, row.probabilities[window + i]);
  }
  return cells;
}

void draw_row(Svg& svg, double y, const Row& row) {
  const Attended& attended = *row.attended;
  const auto shares = row.shares();
  svg.begin_group("class=\"row\" data-layer=\"" + std::to_string(attended.layer.layer) +
                  "\" data-window=\"" + fixed(shares[0], "%.9f") + "\" data-entries=\"" +
                  fixed(shares[1], "%.9f") + "\" data-sink=\"" + fixed(shares[2], "%.9f") + "\"");
  svg.text(24, y + 12, row.label);
  draw_chip(svg, kEntries - 32, y + 1, 22, kRow - 3, attended.layer.attention,
            attended.layer.router);
  if (attended.visible > 0) {
    // Entry w covers the tokens w * m .. w * m + m - 1: up to where the last one ends.
    const double covered = static_cast<double>(attended.visible * attended.layer.compress_ratio) /
                           static_cast<double>(attended.window.back() + 1);
    const std::vector<double> cells = entry_cells(row);
    svg.box(kEntries, y, kEntriesWidth * covered, kRow - 2, kEmpty);
    svg.cells(kEntries, y, kEntriesWidth * covered / static_cast<double>(cells.size()), kRow - 2,
              cells, colour_of);
  }
  const std::size_t window = attended.window.size();
  svg.box(kWindow, y, kWindowWidth, kRow - 2, kEmpty);
  svg.cells(kWindow, y, kWindowWidth / static_cast<double>(window), kRow - 2,
            std::span(row.probabilities).first(window), colour_of);
  double x = kShares;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    svg.box(x, y, kSharesWidth * shares[i], kRow - 2, kShareColours[i]);
    svg.text(kShares + kSharesWidth + 52 + 52 * static_cast<double>(i), y + 12,
             fixed(100.0 * shares[i], "%.1f"), {.size = 11, .anchor = Svg::Anchor::end});
    x += kSharesWidth * shares[i];
  }
  svg.end_group();
}

std::string picture(std::size_t position, std::int32_t id, bool one_layer,
                    const std::vector<Attended>& layers) {
  constexpr Svg::TextStyle kSmall{.size = 11, .colour = kGrey};
  constexpr Svg::TextStyle kSmallEnd{.size = 11, .anchor = Svg::Anchor::end, .colour = kGrey};
  std::vector<Row> rows;
  for (const Attended& layer : layers) {
    if (!one_layer) {
      rows.push_back(mean_row(layer, "layer " + std::to_string(layer.layer.layer)));
      continue;
    }
    rows.push_back(mean_row(layer, "mean"));
    const std::size_t keys = layer.window.size() + layer.entries.size() + 1;
    for (std::size_t h = 0; h < layer.probabilities.size() / keys; ++h) {
      rows.push_back(head_row(layer, h));
    }
  }

  Svg svg(kPage);
  std::string title = "What position " + std::to_string(position) + " attends to";
  if (one_layer) title += " in layer " + std::to_string(layers.front().layer.layer);
  svg.text(24, 34, title, {.size = 17, .bold = true});
  std::string words = "token id " + std::to_string(id) + "; attention probabilities";
  words += one_layer ? ", head by head" : ", the mean over the heads";
  if (one_layer && layers.front().visible > 0) {
    words += "; " + std::to_string(layers.front().entries.size()) + " of " +
             std::to_string(layers.front().visible) + " visible compressed entries are attended to";
  }
  svg.text(24, 54, words, {.colour = kGrey});
  double y = 86;
  svg.text(kEntries, y, "compressed entries, along the context", {.size = 12, .bold = true});
  svg.text(kWindow, y, "window, token by token", {.size = 12, .bold = true});
  svg.text(kShares, y, "shares, %", {.size = 12, .bold = true});
  y += 16;
  const std::vector<std::size_t>& window = layers.front().window;
  svg.text(kEntries, y, "0", kSmall);
  svg.text(kEntries + kEntriesWidth, y, std::to_string(position), kSmallEnd);
  svg.text(kWindow, y, std::to_string(window.front()), kSmall);
  svg.text(kWindow + kWindowWidth, y, std::to_string(position), kSmallEnd);
  constexpr std::array<std::string_view, 3> kNames{"window", "entries", "sink"};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    svg.text(kShares + kSharesWidth + 52 + 52 * static_cast<double>(i), y, kNames[i],
             {.size = 11, .anchor = Svg::Anchor::end, .colour = kShareColours[i], .bold = true});
  }
  y += 8;
  for (const Row& row : rows) {
    draw_row(svg, y, row);
    y += kRow;
  }

  y += 26;
  double x = 24;
  svg.text(x, y, "Probability of a key, from", {.size = 11, .bold = true});
  x += 166;
  for (std::size_t i = 0; i < kSteps.size(); ++i) {
    svg.box(x, y - 11, 16, 14, kHeat[i]);
    svg.text(x + 21, y, kStepNames[i], {.size = 11});
    x += 70;
  }
  svg.text(x + 6, y, "a cell that stands for several entries shows the largest", kSmall);
  y += 26;
  draw_legend(svg, 24, y);
  return svg.document(y + 22);
}

void attend(const AttendOptions& options) {
  const auto sequences = read_token_lists(options.tokens);
  if (sequences.size() > 1) {
    throw Error(detail::printable_path(options.tokens),
                "found " + std::to_string(sequences.size()) + " sequences, expected one");
  }
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const ConfigValues& config = model->config();
  check_token_lists(options.tokens, sequences, config);
  const std::vector<std::int32_t>& ids = sequences.front();
  const std::size_t position = options.position.value_or(ids.size() - 1);
  if (position >= ids.size()) {
    throw Error("--position", "found " + std::to_string(position) + ", expected 0 to " +
                                  std::to_string(ids.size() - 1));
  }
  if (options.layer && *options.layer >= config.num_hidden_layers) {
    throw Error("--layer", "found " + std::to_string(*options.layer) + ", expected 0 to " +
                               std::to_string(config.num_hidden_layers - 1));
  }

  NewFile file(options.out);
  AttentionProbe<> probe(config, model->checkpoint(), position, options.layer);
  AnyState state = model->new_state();
  model->prefill(state, std::span(ids).first(position + 1), &probe);
  write_whole(file, picture(position, ids[position], options.layer.has_value(), probe.layers()));
}

void add_options(Verb& verb) {
  auto options = std::make_shared<AttendOptions>();
  add_model_options(verb, options->model, true);
  verb.add_option("--tokens", options->tokens, "JSON: an array of one array of token ids")
      .required()
      .check(expect_path());
  verb.add_option("--layer", options->layer, "One layer, head by head; default: all layers")
      .check(expect_count(0));
  verb.add_option("--position", options->position, "Of the token; default: the last one")
      .check(expect_count(0));
  verb.add_option("--out", options->out, "SVG file").required().check(expect_path());
  verb.callback([options] { attend(*options); });
}

const VerbRegistration kAttend(150, "attend", "Draw what a token attends to", add_options);

}  // namespace

}  // namespace ds4::cli
