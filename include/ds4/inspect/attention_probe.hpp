// What a token attends to: the probabilities of one query, layer by layer.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/inspect/attention_shares.hpp>
#include <ds4/layers/observer.hpp>

namespace ds4::inline v0_1 {

/// What one query attends to in one layer.
struct Attended {
  LayerInfo layer;                   ///< of the model
  std::vector<std::size_t> window;   ///< positions of the tokens, ascending
  std::vector<std::size_t> entries;  ///< compressed entries, ascending; of CSA the indexer's picks
  std::size_t visible = 0;           ///< compressed entries that the query could see
  /// [H, window + entries + 1], in this order, the sink last; each head's sum to 1.
  std::vector<double> probabilities;
};

/// Computes the attention probabilities of the query at one position from what the passes over its
/// sequence show, in float64. A backend that keeps rows in BF16 attends to the rounded ones. Until
/// the query has been seen, all compressed entries of the layers in question are kept.
/// Source: model.md 5. T is the backend's scalar.
template <class T = float>
class AttentionProbe final : public StageObserver<T> {
 public:
  /// For passes of the model with this configuration and checkpoint, each over the one sequence,
  /// which has to be observed from its start. In all layers, or in one.
  AttentionProbe(const ConfigValues& config, const Checkpoint& checkpoint, std::size_t position,
                 std::optional<std::size_t> layer = {});

  /// The probed layers in order; empty until the query has been seen.
  const std::vector<Attended>& layers() const { return attended_; }

  bool wants(std::size_t layer, std::string_view stage) const override {
    return (!only_ || layer == *only_) &&
           (stage == "attn.q_rope" || stage == "attn.kv_rope" || stage == "compressor.kv" ||
            stage == "indexer.topk" || stage == "attn.out_unrotated");
  }
  /// Takes what it needs of the stages.
  void values(std::size_t layer, std::string_view stage, std::span<const T> values) override;
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> picks) override;

  void begin_pass(std::span<const Segment> segments, std::size_t) override {
    assert(segments.size() == 1);
    pass_ = segments.front();
  }
  /// Notes the layer's kind.
  void begin_layer(const LayerInfo& info) override { layer_ = info; }

 private:
  /// What a layer has shown.
  struct Seen {
    std::vector<T> query;             // [H, d]
    std::vector<T> window;            // [W or fewer, d], the query's own row last
    std::vector<T> entries;           // [w, d]
    std::vector<std::int32_t> picks;  // [index_topk]
  };

  bool query_in_pass() const {
    return position_ >= pass_.position && position_ - pass_.position < pass_.count;
  }
  /// The query's row of a stage with one row per token of the pass.
  template <class V>
  std::vector<V> query_row(std::span<const V> rows) const {
    const std::size_t width = rows.size() / pass_.count;
    const auto row = rows.subspan((position_ - pass_.position) * width, width);
    return {row.begin(), row.end()};
  }
  Attended attend(const Seen& seen) const;

  std::size_t heads_;
  std::size_t width_;
  std::size_t position_;
  std::size_t first_in_window_;
  std::optional<std::size_t> only_;
  Segment pass_{};
  LayerInfo layer_{};
  std::vector<std::vector<float>> sinks_;  // [L][H]
  std::vector<Seen> seen_;                 // per layer
  std::vector<Attended> attended_;
};

template <class T>
AttentionProbe<T>::AttentionProbe(const ConfigValues& config, const Checkpoint& checkpoint,
                                  std::size_t position, std::optional<std::size_t> layer)
    : heads_(config.num_attention_heads),
      width_(config.head_dim),
      position_(position),
      first_in_window_(position - std::min(position, config.sliding_window - 1)),
      only_(layer),
      sinks_(detail::attention_sinks(config, checkpoint)),
      seen_(config.num_hidden_layers) {}

template <class T>
void AttentionProbe<T>::values(std::size_t layer, std::string_view stage,
                               std::span<const T> values) {
  if (pass_.position > position_) return;
  Seen& seen = seen_[layer];
  if (stage == "attn.kv_rope") {
    for (std::size_t i = 0; i < pass_.count; ++i) {
      const std::size_t position = pass_.position + i;
      if (position < first_in_window_ || position > position_) continue;
      const auto row = values.subspan(i * width_, width_);
      seen.window.insert(seen.window.end(), row.begin(), row.end());
    }
  } else if (stage == "compressor.kv") {
    seen.entries.insert(seen.entries.end(), values.begin(), values.end());
  } else if (stage == "attn.q_rope" && query_in_pass()) {
    seen.query = query_row(values);
  } else if (stage == "attn.out_unrotated" && query_in_pass()) {
    attended_.push_back(attend(seen));
    seen = {};
  }
}

template <class T>
void AttentionProbe<T>::indices(std::size_t layer, std::string_view,
                                std::span<const std::int32_t> picks) {
  if (query_in_pass()) seen_[layer].picks = query_row(picks);
}

template <class T>
Attended AttentionProbe<T>::attend(const Seen& seen) const {
  Attended result{.layer = layer_, .window = {}, .entries = {}, .probabilities = {}};
  for (std::size_t t = first_in_window_; t <= position_; ++t) result.window.push_back(t);
  if (layer_.compress_ratio > 0) result.visible = (position_ + 1) / layer_.compress_ratio;
  if (layer_.attention == AttentionKind::hca) {
    for (std::size_t w = 0; w < result.visible; ++w) result.entries.push_back(w);
  } else if (layer_.attention == AttentionKind::csa) {
    for (const std::int32_t pick : seen.picks) {
      if (pick >= 0) result.entries.push_back(static_cast<std::size_t>(pick));
    }
    std::ranges::sort(result.entries);
  }

  std::vector<const T*> keys;
  for (std::size_t i = 0; i < result.window.size(); ++i) {
    keys.push_back(seen.window.data() + i * width_);
  }
  for (const std::size_t w : result.entries) keys.push_back(seen.entries.data() + w * width_);
  for (std::size_t h = 0; h < heads_; ++h) {
    const std::vector<double> shares = detail::attention_shares<T>(
        std::span(seen.query).subspan(h * width_, width_), keys, sinks_[layer_.layer][h]);
    result.probabilities.insert(result.probabilities.end(), shares.begin(), shares.end());
  }
  return result;
}

}  // namespace ds4::inline v0_1
