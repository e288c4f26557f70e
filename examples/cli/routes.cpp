// ds4 routes: which experts fire, as a heat map.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/io.hpp"
#include "cli/layer_look.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/svg.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

/// Tokens of a text that are taken in together, each window from an empty state.
constexpr std::size_t kWindow = 512;

struct RoutesOptions {
  ModelChoice model;
  std::string tokens;
  std::string text_file;
  std::string out;
};

/// Counts how often each expert of each layer is picked.
class RouteCounter final : public StageObserver<float> {
 public:
  explicit RouteCounter(const ConfigValues& config)
      : counts_(config.num_hidden_layers, std::vector<std::size_t>(config.n_routed_experts)) {}

  bool wants(std::size_t, std::string_view stage) const override {
    return stage == "mlp.router_indices";
  }
  void values(std::size_t, std::string_view, std::span<const float>) override {}
  void indices(std::size_t layer, std::string_view, std::span<const std::int32_t> picks) override {
    for (const std::int32_t expert : picks) ++counts_[layer][static_cast<std::size_t>(expert)];
  }

  const std::vector<std::size_t>& of(std::size_t layer) const { return counts_[layer]; }

 private:
  std::vector<std::vector<std::size_t>> counts_;
};

/// From which load on, relative to the mean, a cell has each colour; the first is from above 0 on.
constexpr std::array<double, kHeat.size()> kLoads{0.0, 0.5, 0.9, 1.1, 2.0, 4.0};
constexpr std::array<std::string_view, kHeat.size()> kLoadNames{
    "below 0.5", "0.5 to 0.9", "0.9 to 1.1", "1.1 to 2", "2 to 4", "above 4"};

std::string_view colour_of(double load) {
  if (load <= 0.0) return {};
  std::size_t step = 0;
  while (step + 1 < kLoads.size() && load >= kLoads[step + 1]) ++step;
  return kHeat[step];
}

std::string picture(const ConfigValues& config, const RouteCounter& counter, std::size_t tokens) {
  const std::size_t E = config.n_routed_experts;
  const double left = 150;
  const double cell = std::clamp(768.0 / static_cast<double>(E), 2.0, 40.0);
  const double map = cell * static_cast<double>(E);
  const double right = left + map + 14;
  constexpr double kRow = 16;
  constexpr Svg::Anchor kEnd = Svg::Anchor::end;
  Svg svg(std::max(right + 170, 800.0));

  svg.text(24, 34, "Experts by layer: picks relative to an even load", {.size = 17, .bold = true});
  svg.text(24, 54,
           std::to_string(tokens) + " tokens, each of which picks " +
               std::to_string(config.num_experts_per_tok) + " of " + std::to_string(E) +
               " experts in every layer; an even load is " +
               three_digits(static_cast<double>(tokens * config.num_experts_per_tok) /
                            static_cast<double>(E)) +
               " picks an expert",
           {.colour = kGrey});
  double y = 92;
  svg.text(left - 12, y, "layer, router", {.size = 11, .anchor = kEnd, .colour = kGrey});
  const std::size_t step = std::max<std::size_t>(1, E / 8);
  for (std::size_t e = 0; e < E; e += step) {
    svg.text(left + cell * (static_cast<double>(e) + 0.5), y, std::to_string(e),
             {.size = 11, .anchor = Svg::Anchor::middle, .colour = kGrey});
  }
  svg.text(right + 58, y - 14, "largest", {.size = 11, .anchor = kEnd, .colour = kGrey});
  svg.text(right + 58, y, "to mean", {.size = 11, .anchor = kEnd, .colour = kGrey});
  svg.text(right + 128, y - 14, "never", {.size = 11, .anchor = kEnd, .colour = kGrey});
  svg.text(right + 128, y, "picked", {.size = 11, .anchor = kEnd, .colour = kGrey});
  y += 8;

  for (std::size_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::vector<std::size_t>& counts = counter.of(layer);
    const double mean =
        static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::size_t{0})) /
        static_cast<double>(E);
    std::vector<double> loads;
    for (const std::size_t count : counts) loads.push_back(static_cast<double>(count) / mean);
    const LayerInfo info = layer_info(config, layer);
    const std::string router(name_of(info.router));
    svg.begin_group("class=\"layer\" data-layer=\"" + std::to_string(layer) + "\" data-router=\"" +
                    router + "\"");
    svg.text(28, y + 12, std::to_string(layer) + " " + router, {.size = 12});
    draw_chip(svg, left - 32, y + 1, 22, kRow - 2, info.attention, info.router);
    svg.box(left, y, map, kRow - 1, "#f4f1ea");
    svg.cells(left, y, cell, kRow - 1, loads, colour_of);
    svg.text(right + 58, y + 12, three_digits(std::ranges::max(loads)), {.anchor = kEnd});
    svg.text(right + 128, y + 12, std::to_string(std::ranges::count(counts, std::size_t{0})),
             {.anchor = kEnd});
    svg.end_group();
    y += kRow;
  }

  y += 26;
  double x = 24;
  svg.text(x, y, "Picks to the mean:", {.size = 11, .bold = true});
  x += 122;
  const auto entry = [&](std::string_view colour, std::string_view words) {
    svg.box(x, y - 11, 16, 14, colour);
    svg.text(x + 21, y, words, {.size = 11});
    x += 92;
  };
  entry("#f4f1ea", "none");
  for (std::size_t i = 0; i < kHeat.size(); ++i) entry(kHeat[i], kLoadNames[i]);
  y += 26;
  draw_legend(svg, 24, y);
  return svg.document(y + 22);
}

std::vector<std::vector<std::int32_t>> windows_of_text(const RoutesOptions& options,
                                                       const ConfigValues& config) {
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  const std::vector<std::int32_t> ids = tokenizer.encode(read_file(options.text_file));
  if (ids.empty()) {
    throw Error(detail::printable_path(options.text_file),
                "found no tokens, expected at least one");
  }
  const std::size_t window = std::min(kWindow, config.max_position_embeddings);
  std::vector<std::vector<std::int32_t>> windows;
  for (std::size_t begin = 0; begin < ids.size(); begin += window) {
    const auto part = std::span(ids).subspan(begin, std::min(window, ids.size() - begin));
    windows.emplace_back(part.begin(), part.end());
  }
  check_token_lists(options.text_file, windows, config);
  return windows;
}

void routes(const RoutesOptions& options) {
  if (options.tokens.empty() == options.text_file.empty()) {
    throw Error("routes", "expected --tokens or --text-file");
  }
  std::vector<std::vector<std::int32_t>> sequences;
  if (!options.tokens.empty()) sequences = read_token_lists(options.tokens);
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  if (!options.tokens.empty()) {
    check_token_lists(options.tokens, sequences, model->config());
  } else {
    sequences = windows_of_text(options, model->config());
  }

  catch_interrupts();
  NewFile file(options.out);
  RouteCounter counter(model->config());
  std::size_t tokens = 0;
  for (const auto& ids : sequences) {
    AnyState state = model->new_state();
    interruptible("routes", [&] { model->prefill(state, ids, &counter, interrupted); });
    tokens += ids.size();
  }
  write_whole(file, picture(model->config(), counter, tokens));
}

void add_options(Verb& verb) {
  auto options = std::make_shared<RoutesOptions>();
  add_model_options(verb, options->model, true);
  const Option tokens =
      verb.add_option("--tokens", options->tokens,
                      "JSON: an array of arrays of token ids; each is taken in by itself");
  tokens.check(expect_path());
  verb.add_option("--text-file", options->text_file,
                  "A text instead, in windows of " + std::to_string(kWindow) +
                      " tokens; no begin token is added")
      .check(expect_path())
      .excludes(tokens);
  verb.add_option("--out", options->out, "SVG file").required().check(expect_path());
  verb.callback([options] { routes(*options); });
}

const VerbRegistration kRoutes(140, "routes", "Draw which experts fire, layer by layer",
                               add_options);

}  // namespace

}  // namespace ds4::cli
