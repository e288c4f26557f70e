// A look inside while a sequence grows: the experts of its last token, and what it attended to.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/inspect/attention_shares.hpp>
#include <ds4/layers/observer.hpp>

namespace ds4::inline v0_1 {

/// Tokens [first, last] that a query attended to: one of the window, or those of a compressed
/// entry.
struct AttendedTokens {
  ///@{
  /// Positions, and the share of the attention.
  std::size_t first = 0;
  std::size_t last = 0;
  double share = 0.0;
  ///@}
};

/// What the last token of a pass did in one layer.
struct LayerLook {
  LayerInfo layer{};                          ///< which one
  std::vector<std::int32_t> experts = {};     ///< [k] that were picked
  std::vector<AttendedTokens> attended = {};  ///< those with the largest shares, the largest first
  double sink = 0.0;                          ///< the share that went nowhere
};

/// Sees the passes over one sequence from its start, and keeps what its last token did. Attention
/// is computed again from what the passes show, in float64, as the mean of some of the heads: a
/// look, for AttentionProbe's exact view costs more. Source: model.md 5 and 6.
class LiveLook final : public StageObserver<float> {
 public:
  /// For passes of the model with this configuration and checkpoint: the `most` largest shares.
  LiveLook(const ConfigValues& config, const Checkpoint& checkpoint, std::size_t most = 8);

  /// The layers, in order; empty before a pass.
  const std::vector<LayerLook>& layers() const { return looks_; }
  /// The position of the token that they are of.
  std::size_t position() const { return end_ - std::min<std::size_t>(end_, 1); }

  bool wants(std::size_t layer, std::string_view stage) const override {
    return layer < seen_.size() && (stage == "attn.q_rope" || stage == "attn.kv_rope" ||
                                    stage == "compressor.kv" || stage == "indexer.topk" ||
                                    stage == "attn.out_unrotated" || stage == "mlp.router_indices");
  }
  /// Takes what it needs of the stages.
  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override;
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> indices) override;
  /// A pass that does not go on from the one before begins a sequence.
  void begin_pass(std::span<const Segment> segments, std::size_t) override {
    assert(segments.size() == 1);
    if (segments.front().position != end_ || end_ == 0) {
      for (Seen& seen : seen_) seen.window = seen.entries = {};
    }
    count_ = segments.front().count;
    end_ = segments.front().position + count_;
    looks_.clear();
  }
  /// Notes the layer's kind.
  void begin_layer(const LayerInfo& info) override {
    if (info.layer < seen_.size()) looks_.push_back({.layer = info});
  }

 private:
  /// What a layer has shown.
  struct Seen {
    std::vector<float> query;         // [H, d]
    std::vector<float> window;        // the last rows [W or fewer, d]
    std::vector<float> entries;       // [w, d]
    std::vector<std::int32_t> picks;  // [index_topk]
  };
  static constexpr std::size_t kHeads = 8;

  /// The last row of a stage with one row per token of the pass.
  template <class V>
  std::vector<V> last_row(std::span<const V> rows) const {
    const auto row = rows.last(rows.size() / count_);
    return {row.begin(), row.end()};
  }
  void attend(std::size_t layer, LayerLook& look) const;

  std::size_t heads_;
  std::size_t width_;
  std::size_t window_;
  std::size_t most_;
  std::size_t count_ = 0;
  std::size_t end_ = 0;
  std::vector<std::vector<float>> sinks_;  // [L][H]
  std::vector<Seen> seen_;                 // per layer
  std::vector<LayerLook> looks_;
};

inline LiveLook::LiveLook(const ConfigValues& config, const Checkpoint& checkpoint,
                          std::size_t most)
    : heads_(config.num_attention_heads),
      width_(config.head_dim),
      window_(config.sliding_window),
      most_(most),
      sinks_(detail::attention_sinks(config, checkpoint)),
      seen_(config.num_hidden_layers) {}

inline void LiveLook::values(std::size_t layer, std::string_view stage,
                             std::span<const float> values) {
  Seen& seen = seen_[layer];
  const auto append = [&](std::vector<float>& rows) {
    rows.insert(rows.end(), values.begin(), values.end());
  };
  if (stage == "attn.kv_rope") {
    append(seen.window);
    const std::size_t kept = std::min(seen.window.size(), window_ * width_);
    seen.window.erase(seen.window.begin(), seen.window.end() - static_cast<std::ptrdiff_t>(kept));
  } else if (stage == "compressor.kv") {
    append(seen.entries);
  } else if (stage == "attn.q_rope") {
    seen.query = last_row(values);
  } else if (stage == "attn.out_unrotated") {
    attend(layer, looks_.back());
  }
}

inline void LiveLook::indices(std::size_t layer, std::string_view stage,
                              std::span<const std::int32_t> indices) {
  if (stage == "mlp.router_indices") {
    looks_.back().experts = last_row(indices);
  } else {
    seen_[layer].picks = last_row(indices);
  }
}

inline void LiveLook::attend(std::size_t layer, LayerLook& look) const {
  const Seen& seen = seen_[layer];
  const std::size_t ratio = look.layer.compress_ratio;
  std::vector<const float*> keys;
  std::vector<AttendedTokens> tokens;
  const std::size_t rows = seen.window.size() / width_;
  for (std::size_t i = 0; i < rows; ++i) {
    keys.push_back(seen.window.data() + i * width_);
    const std::size_t at = end_ - rows + i;
    tokens.push_back({at, at, 0.0});
  }
  const auto add_entry = [&](std::size_t entry) {
    keys.push_back(seen.entries.data() + entry * width_);
    tokens.push_back({entry * ratio, (entry + 1) * ratio - 1, 0.0});
  };
  const std::size_t entries = ratio == 0 ? 0 : std::min(end_ / ratio, seen.entries.size() / width_);
  if (look.layer.attention == AttentionKind::hca) {
    for (std::size_t entry = 0; entry < entries; ++entry) add_entry(entry);
  } else if (look.layer.attention == AttentionKind::csa) {
    for (const std::int32_t pick : seen.picks) {
      if (pick >= 0 && static_cast<std::size_t>(pick) < entries) {
        add_entry(static_cast<std::size_t>(pick));
      }
    }
  }
  const std::size_t used = std::min(heads_, kHeads);
  for (std::size_t i = 0; i < used; ++i) {
    const std::size_t head = i * heads_ / used;
    const std::vector<double> shares = detail::attention_shares<float>(
        std::span(seen.query).subspan(head * width_, width_), keys, sinks_[layer][head]);
    for (std::size_t k = 0; k < tokens.size(); ++k) {
      tokens[k].share += shares[k] / static_cast<double>(used);
    }
    look.sink += shares.back() / static_cast<double>(used);
  }
  const std::size_t most = std::min(most_, tokens.size());
  std::ranges::partial_sort(tokens, tokens.begin() + static_cast<std::ptrdiff_t>(most),
                            [](const auto& a, const auto& b) {
                              return a.share != b.share ? a.share > b.share : a.first < b.first;
                            });
  tokens.resize(most);
  look.attended = std::move(tokens);
}

}  // namespace ds4::inline v0_1
