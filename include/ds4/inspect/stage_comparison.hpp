// The stages of two backends' passes, compared as they come.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/inspect/check_report.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/router.hpp>
#include <ds4/layers/observer.hpp>

namespace ds4::inline v0_1::detail {

/// The place of the largest logit of row `r` of [rows, V], the first of equal ones; some place
/// where that is not defined.
template <class T>
std::size_t top_of(std::span<const T> logits, std::size_t r, std::size_t V) {
  const auto row = logits.subspan(r * V, V);
  return static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
}

/// Gathers the errors of every stage of every layer over the passes of one sequence.
class StageComparison {
 public:
  /// The checkpoint is the reference's: the routers' biases are read from it.
  StageComparison(const ConfigValues& config, const Checkpoint& checkpoint)
      : config_(config),
        checkpoint_(checkpoint),
        first_flip_(config.num_hidden_layers + std::max<std::size_t>(1, config.dspark_stages) + 1,
                    kNone) {}

  /// The next pass takes in `count` tokens behind `position`.
  void begin_pass(std::size_t position, std::size_t count) {
    position_ = position;
    count_ = count;
    enter(0);
    cursor_ = 0;
  }

  /// A stage's result [rows, ...] beside the reference's: a row per token of the pass, or of the
  /// compressors per new entry.
  template <class T, class R>
  void values(std::size_t layer, std::string_view stage, std::span<const T> got,
              std::span<const R> expected);

  /// The same for a stage of picks [count, k].
  void indices(std::size_t layer, std::string_view stage, std::span<const std::int32_t> got,
               std::span<const std::int32_t> expected);

  /// The logits [count, V] of the pass.
  template <class T, class R>
  void logits(std::span<const T> got, std::span<const R> expected);

  /// What follows are stages of the drafter, behind all passes.
  void begin_drafts() {
    drafting_ = true;
    drafted_from_ = position_ + count_;
    count_ = 0;
  }
  /// The logits [n, V] of the drafts, n the same for both.
  template <class T, class R>
  void drafts(std::span<const T> got, std::span<const R> expected);

  /// The report of all passes: see check_backend().
  CheckReport report(double tolerance) const;

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  static constexpr double kInfinite = std::numeric_limits<double>::infinity();

  /// One row: its largest error, absolute, and its token.
  struct Row {
    float error;
    std::uint32_t token;
    bool behind;
    bool differs;
  };
  struct Sums {
    double errors = 0.0;
    std::size_t values = 0;
  };
  struct Found {
    StageCheck check;
    std::vector<Row> rows;
    Sums clean;
    Sums behind;
    // Of the reference's finite values.
    double sum = 0.0;
    double squares = 0.0;
    std::size_t values = 0;
  };

  /// What is kept of a stage, in the order of a pass: a stage that earlier passes did not have
  /// follows the one before it.
  Found& find(std::size_t layer, std::string_view stage, bool picks) {
    const bool head = drafting_ ? stage == "draft" : is_of_head(stage);
    if (head) layer = config_.num_hidden_layers;
    if (layer != layer_) enter(layer);
    const auto same = [&](const Found& f) {
      return f.check.layer == layer && f.check.head == head && f.check.stage == stage;
    };
    const auto begin = found_.begin() + static_cast<std::ptrdiff_t>(drafting_ ? 0 : cursor_);
    auto at = std::find_if(begin, found_.end(), same);
    if (at == found_.end()) {
      Found found;
      found.check.layer = layer;
      found.check.stage = stage;
      found.check.head = head;
      found.check.picks = picks;
      at = found_.insert(drafting_ ? found_.end() : begin, std::move(found));
    }
    cursor_ = static_cast<std::size_t>(at - found_.begin()) + 1;
    return *at;
  }

  /// Passes of a drafter have rows of their own: those of its windows, which end where the drafts
  /// begin, or those of what is drafted. The stages that begin either tell by their size.
  void enter_rows(std::string_view stage, std::size_t values) {
    const bool begins = stage == "attn_hc.collapsed";
    std::size_t width = 0;
    if (stage == "target_hidden") {
      width = config_.dspark_target_layer_ids.size() * config_.hidden_size;
    }
    if (stage == "main_x" || begins) width = config_.hidden_size;
    if (stage == "attn.kv_rope") width = config_.head_dim;
    if (width == 0 || values / width == count_) return;
    count_ = values / width;
    position_ = begins ? drafted_from_ : drafted_from_ - count_;
    flipped_.assign(count_, false);
  }

  static bool is_logits(std::string_view stage) { return stage == "logits" || stage == "draft"; }

  /// Begins a layer: no picks of its own differ yet.
  void enter(std::size_t layer) {
    layer_ = layer;
    flipped_.assign(count_, false);
    behind_from_ = *std::min_element(first_flip_.begin(),
                                     first_flip_.begin() + static_cast<std::ptrdiff_t>(layer) + 1);
  }

  bool is_behind(std::size_t token) const {
    return token >= behind_from_ || flipped_[token - position_];
  }

  /// Adds a row of `values` values, whose errors have this largest one and this sum.
  void add(Found& found, std::size_t token, double largest, bool behind, bool differs, double sum,
           std::size_t values) {
    Sums& sums = behind ? found.behind : found.clean;
    sums.errors += sum;
    sums.values += values;
    found.rows.push_back(
        {static_cast<float>(largest), static_cast<std::uint32_t>(token), behind, differs});
  }

  /// The token that a row of a stage belongs to; for an entry, the last one that it is made of.
  std::size_t token_of(std::size_t row, bool entries) const {
    if (!entries) return position_ + row;
    const std::size_t ratio = config_.compress_ratios[layer_];
    return (position_ / ratio + row + 1) * ratio - 1;
  }

  /// Rows of weights in the order of their experts, as `picks` has them.
  template <class T>
  std::vector<T> by_expert(std::span<const T> weights,
                           const std::vector<std::int32_t>& picks) const;

  /// See StageCheck: how much the picks `got` of a row are off, in the reference's scores.
  double gap(std::string_view stage, std::size_t row, std::span<const std::int32_t> got,
             std::span<const std::int32_t> expected);
  std::vector<double> router_scores(std::size_t row);
  std::vector<double> indexer_scores(std::size_t row) const;
  const std::vector<double>& router_bias();

  const ConfigValues& config_;
  const Checkpoint& checkpoint_;
  std::vector<Found> found_;
  std::size_t cursor_ = 0;  // in found_: where the next stage should be

  // The pass and its layer.
  std::size_t position_ = 0;
  std::size_t count_ = 0;
  std::size_t layer_ = 0;
  std::vector<bool> flipped_;    // tokens of the pass whose picks differ in this layer
  std::size_t behind_from_ = 0;  // the first token that is behind a pick of an earlier layer
  // At l + 1: the first token whose picks differ in layer l.
  std::vector<std::size_t> first_flip_;

  // What picks are made from, as the reference has it.
  std::vector<double> router_logits_;                        // [count, E]
  std::vector<double> indexer_q_;                            // [count, nI, dI]
  std::vector<double> indexer_weights_;                      // [count, nI]
  std::map<std::size_t, std::vector<double>> indexer_keys_;  // of each layer [entries, dI]
  std::map<std::size_t, std::vector<double>> biases_;        // of each layer [E]
  std::vector<std::int32_t> picks_;                          // of the router [count, k]
  std::vector<std::int32_t> expected_picks_;

  std::size_t same_top_ = 0;
  std::size_t first_other_top_ = kNone;
  bool drafting_ = false;
  std::size_t drafted_from_ = 0;  // the tokens of all passes
};

template <class T, class R>
void StageComparison::values(std::size_t layer, std::string_view stage, std::span<const T> got,
                             std::span<const R> expected) {
  if (drafting_) enter_rows(stage, got.size());
  Found& found = find(layer, stage, false);
  if (got.size() != expected.size()) {
    throw Error(found.check.name(), "found " + std::to_string(got.size()) + " values, expected " +
                                        std::to_string(expected.size()));
  }
  const bool is_key = stage == "indexer.kv";
  const bool entries = is_key || stage == "compressor.kv";
  const std::size_t ratio = entries ? config_.compress_ratios[layer_] : 1;
  const std::size_t rows = (position_ + count_) / ratio - position_ / ratio;
  if (rows == 0) return;
  const std::size_t width = got.size() / rows;

  const auto keep = [&](std::vector<double>& kept) {
    kept.insert(kept.end(), expected.begin(), expected.end());
  };
  if (is_key) keep(indexer_keys_[layer]);
  for (const auto& [name, kept] :
       {std::pair{"mlp.router_logits", &router_logits_}, std::pair{"indexer.q", &indexer_q_},
        std::pair{"indexer.weights", &indexer_weights_}}) {
    if (stage != name) continue;
    kept->clear();
    keep(*kept);
  }
  std::vector<T> got_sorted;
  std::vector<R> expected_sorted;
  if (stage == "mlp.router_weights" && picks_.size() == got.size()) {
    got_sorted = by_expert(got, picks_);
    expected_sorted = by_expert(expected, expected_picks_);
    got = got_sorted;
    expected = expected_sorted;
  }

  for (std::size_t r = 0; r < rows; ++r) {
    double largest = 0.0;
    double sum = 0.0;
    for (std::size_t i = r * width; i < (r + 1) * width; ++i) {
      const double want = static_cast<double>(expected[i]);
      double error = std::abs(static_cast<double>(got[i]) - want);
      if (std::isnan(error)) error = kInfinite;
      largest = std::max(largest, error);
      sum += error;
      if (!std::isfinite(want)) continue;
      found.sum += want;
      found.squares += want * want;
      ++found.values;
    }
    const std::size_t token = token_of(r, entries);
    add(found, token, largest, is_behind(token), largest > 0.0, sum, width);
  }
}

inline void StageComparison::indices(std::size_t layer, std::string_view stage,
                                     std::span<const std::int32_t> got,
                                     std::span<const std::int32_t> expected) {
  Found& found = find(layer, stage, true);
  if (got.size() != expected.size()) {
    throw Error(found.check.name(), "found " + std::to_string(got.size()) + " picks, expected " +
                                        std::to_string(expected.size()));
  }
  if (stage == "mlp.router_indices") {
    picks_.assign(got.begin(), got.end());
    expected_picks_.assign(expected.begin(), expected.end());
  }
  const std::size_t k = got.size() / count_;
  for (std::size_t r = 0; r < count_; ++r) {
    std::vector<std::int32_t> ours(got.begin() + static_cast<std::ptrdiff_t>(r * k),
                                   got.begin() + static_cast<std::ptrdiff_t>((r + 1) * k));
    std::vector<std::int32_t> theirs(expected.begin() + static_cast<std::ptrdiff_t>(r * k),
                                     expected.begin() + static_cast<std::ptrdiff_t>((r + 1) * k));
    std::ranges::sort(ours);
    std::ranges::sort(theirs);
    const std::size_t token = position_ + r;
    const bool behind = is_behind(token);
    const bool differs = ours != theirs;
    const double error = differs ? gap(stage, r, ours, theirs) : 0.0;
    add(found, token, error, behind, differs, error, 1);
    if (!differs) continue;
    flipped_[r] = true;
    first_flip_[layer + 1] = std::min(first_flip_[layer + 1], token);
  }
}

template <class T, class R>
void StageComparison::logits(std::span<const T> got, std::span<const R> expected) {
  values(config_.num_hidden_layers, "logits", got, expected);
  const std::size_t V = got.size() / count_;
  for (std::size_t r = 0; r < count_; ++r) {
    if (top_of(got, r, V) == top_of(expected, r, V)) {
      ++same_top_;
    } else {
      first_other_top_ = std::min(first_other_top_, position_ + r);
    }
  }
}

template <class T, class R>
void StageComparison::drafts(std::span<const T> got, std::span<const R> expected) {
  begin_pass(drafted_from_, got.size() / config_.vocab_size);
  enter(config_.num_hidden_layers);
  behind_from_ = std::ranges::min(first_flip_);
  values(config_.num_hidden_layers, "draft", got, expected);
}

template <class T>
std::vector<T> StageComparison::by_expert(std::span<const T> weights,
                                          const std::vector<std::int32_t>& picks) const {
  const std::size_t k = weights.size() / count_;
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t r = 0; r < count_; ++r) {
    const auto row = std::span(order).subspan(r * k, k);
    std::ranges::sort(row, {}, [&](std::size_t i) { return picks[i]; });
  }
  std::vector<T> sorted;
  sorted.reserve(weights.size());
  for (const std::size_t i : order) sorted.push_back(weights[i]);
  return sorted;
}

inline double StageComparison::gap(std::string_view stage, std::size_t row,
                                   std::span<const std::int32_t> got,
                                   std::span<const std::int32_t> expected) {
  std::vector<double> scores;
  if (stage == "mlp.router_indices" && layer_ >= config_.num_hash_layers) {
    scores = router_scores(row);
  } else if (stage == "indexer.topk") {
    scores = indexer_scores(row);
  }
  std::vector<std::int32_t> missed;
  std::vector<std::int32_t> taken;
  std::ranges::set_difference(expected, got, std::back_inserter(missed));
  std::ranges::set_difference(got, expected, std::back_inserter(taken));
  double best = -kInfinite;
  double worst = kInfinite;
  for (const auto& [picks, is_missed] : {std::pair{&missed, true}, std::pair{&taken, false}}) {
    for (const std::int32_t pick : *picks) {
      // A pick without a score: a table's, none at all, or one that cannot be seen.
      if (pick < 0 || static_cast<std::size_t>(pick) >= scores.size()) return kInfinite;
      const double score = scores[static_cast<std::size_t>(pick)];
      if (is_missed) best = std::max(best, score);
      if (!is_missed) worst = std::min(worst, score);
    }
  }
  double sum = 0.0;
  double squares = 0.0;
  for (const double score : scores) {
    sum += score;
    squares += score * score;
  }
  const double n = static_cast<double>(scores.size());
  const double deviation = std::sqrt(std::max(0.0, squares / n - sum / n * (sum / n)));
  const double gap = std::max(0.0, best - worst);
  if (std::isnan(gap) || std::isnan(deviation)) return kInfinite;
  return gap == 0.0 ? 0.0 : gap / deviation;
}

inline std::vector<double> StageComparison::router_scores(std::size_t row) {
  const std::size_t E = config_.n_routed_experts;
  const auto& bias = router_bias();
  std::vector<double> scores;
  if (router_logits_.size() != count_ * E) return scores;
  for (std::size_t e = 0; e < E; ++e) {
    scores.push_back(reference::sqrt_softplus(router_logits_[row * E + e]) + bias[e]);
  }
  return scores;
}

inline const std::vector<double>& StageComparison::router_bias() {
  const auto [at, is_new] = biases_.try_emplace(layer_, config_.n_routed_experts, 0.0);
  if (is_new) {
    TensorReader reader(checkpoint_);
    const std::size_t main = config_.num_hidden_layers;
    const std::string prefix =
        layer_ < main ? "layers." + std::to_string(layer_) : "mtp." + std::to_string(layer_ - main);
    const auto stored = reader.vector(prefix + ".ffn.gate.bias", {config_.n_routed_experts});
    if (stored) stored->decode_row(0, at->second.data());
  }
  return at->second;
}

inline std::vector<double> StageComparison::indexer_scores(std::size_t row) const {
  const std::size_t nI = config_.index_n_heads;
  const std::size_t dI = config_.index_head_dim;
  const auto keys = indexer_keys_.find(layer_);
  if (keys == indexer_keys_.end() || indexer_q_.size() != count_ * nI * dI ||
      indexer_weights_.size() != count_ * nI) {
    return {};
  }
  std::vector<double> scores((position_ + row + 1) / config_.compress_ratios[layer_]);
  reference::index_scores(scores.data(), indexer_q_.data() + row * nI * dI,
                          indexer_weights_.data() + row * nI, scores.size(), nI, dI,
                          [&](std::size_t w) { return keys->second.data() + w * dI; });
  return scores;
}

/// To two digits.
inline std::string short_number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2g", value);
  return text.data();
}
inline std::string at_most(double tolerance) {
  return ", expected at most " + short_number(tolerance);
}

inline CheckReport StageComparison::report(double tolerance) const {
  CheckReport report;
  report.tokens = drafting_ ? drafted_from_ : position_ + count_;
  report.same_top = same_top_;
  if (first_other_top_ != kNone) report.first_other_top = first_other_top_;
  for (const Found& found : found_) {
    StageCheck check = found.check;
    const double n = static_cast<double>(std::max<std::size_t>(found.values, 1));
    const double mean = is_logits(check.stage) ? found.sum / n : 0.0;
    check.unit = check.picks ? 1.0 : std::sqrt(std::max(0.0, found.squares / n - mean * mean));
    check.tolerance = check.picks ? 2.0 * tolerance : tolerance;
    const auto relative = [&](double error) { return error == 0.0 ? 0.0 : error / check.unit; };
    for (const Row& row : found.rows) {
      RowErrors& errors = row.behind ? check.behind : check.clean;
      const double error = relative(static_cast<double>(row.error));
      ++errors.rows;
      if (row.differs) ++errors.differing;
      if (error > errors.largest || errors.rows == 1) {
        errors.largest = error;
        errors.largest_token = row.token;
      }
      if (row.behind || error <= check.tolerance) continue;
      if (check.past++ > 0) continue;
      check.first_past = row.token;
      check.problem = "token " + std::to_string(row.token) + ": " +
                      (check.picks ? "other picks, by a gap of " : "error ") + short_number(error) +
                      at_most(check.tolerance);
    }
    for (const auto& [sums, errors] :
         {std::pair{&found.clean, &check.clean}, std::pair{&found.behind, &check.behind}}) {
      if (sums->values > 0) {
        errors->mean = relative(sums->errors / static_cast<double>(sums->values));
      }
    }
    if (check.problem.empty() && !check.picks) {
      if (!(check.clean.mean <= kMeanShare * tolerance)) {
        check.problem =
            "mean error " + short_number(check.clean.mean) + at_most(kMeanShare * tolerance);
      } else if (!(check.behind.mean <= kBehindTolerance)) {
        check.problem = "mean error behind differing picks " + short_number(check.behind.mean) +
                        at_most(kBehindTolerance);
      }
    }
    report.stages.push_back(std::move(check));
  }
  return report;
}

}  // namespace ds4::inline v0_1::detail
