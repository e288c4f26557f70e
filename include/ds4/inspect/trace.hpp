// A timeline of passes: what ran when, and what it read and computed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/weight_cost.hpp>

namespace ds4::inline v0_1 {

/// Records the passes that it observes: times of every layer and region, in the Chrome trace event
/// format, which Perfetto and chrome://tracing open. T is the backend's scalar.
///
/// Passes, layers and regions are complete events of the categories "pass", "layer" and
/// "component", nested in time. Where weights or attention are involved, the args have
/// "weight_bytes", stored bytes of the weights that are needed, each read once (of routed experts
/// those that were picked), and "flops" of the products with weights and of attention. Layers have
/// "layer", "compress_ratio", "attention", "router", and how many different experts were picked.
template <class T = float>
class Trace final : public StageObserver<T> {
 public:
  /// Keeps members in their order.
  using Json = nlohmann::ordered_json;

  /// For passes of the model with this configuration and checkpoint, which has to outlive the
  /// trace. `title` names the process in the timeline.
  Trace(ConfigValues config, const Checkpoint& checkpoint, std::string title = "ds4")
      : config_(std::move(config)), checkpoint_(&checkpoint), title_(std::move(title)) {}

  /// The document: {"traceEvents": [...], ...}. Times are microseconds since the first pass began.
  Json json() const;

  bool wants(std::size_t, std::string_view stage) const override {
    return stage == "mlp.router_indices";
  }
  /// Stages are not recorded.
  void values(std::size_t, std::string_view, std::span<const T>) override {}
  void indices(std::size_t, std::string_view, std::span<const std::int32_t> picks) override {
    std::vector<std::int32_t> experts(picks.begin(), picks.end());
    std::ranges::sort(experts);
    experts.erase(std::ranges::unique(experts).begin(), experts.end());
    layers_.back().experts = experts.size();
  }

  void begin_pass(std::span<const Segment> segments, std::size_t logits) override {
    passes_.push_back({{segments.begin(), segments.end()}, logits});
    begin({.kind = Kind::pass});
  }
  /// Begins an event.
  void begin_layer(const LayerInfo& info) override {
    layers_.push_back({info, 0});
    hyper_connections_ = 0;
    begin({.kind = Kind::layer, .weights = "layers." + std::to_string(info.layer) + "."});
  }
  /// Begins an event.
  void begin_region(std::string_view name) override {
    Event event{.kind = Kind::region, .name = std::string(name)};
    const Event& parent = events_[open_.back()];
    event.in_layer = parent.kind == Kind::layer || parent.in_layer;
    if (event.in_layer) {
      const std::string_view part = weights_of(name);
      if (!part.empty()) event.weights = parent.weights + std::string(part);
    }
    begin(std::move(event));
  }
  /// Ends the event that began last.
  void end() noexcept override {
    events_[open_.back()].end = Clock::now();
    open_.pop_back();
  }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Kind : std::uint8_t { pass, layer, region };

  struct PassRecord {
    std::vector<Segment> segments;
    std::size_t logits;
  };
  struct LayerRecord {
    LayerInfo info;
    std::size_t experts;  // different ones that were picked
  };
  struct Event {
    Kind kind;
    std::string name = {};
    std::string weights = {};  // what the names of its weights start with; empty: none
    bool in_layer = false;
    std::size_t pass = 0;   // in passes_
    std::size_t layer = 0;  // in layers_
    Clock::time_point begin = {};
    Clock::time_point end = {};
  };
  struct Cost {
    double bytes = 0.0;
    double flops = 0.0;
    void add(const WeightCost& weights) {
      bytes += weights.bytes;
      flops += weights.flops;
    }
  };

  void begin(Event event) {
    event.pass = passes_.size() - 1;
    event.layer = layers_.size() - 1;
    open_.push_back(events_.size());
    events_.push_back(std::move(event));
    events_.back().begin = Clock::now();
  }

  /// What the weights of a region are called inside its parent's.
  std::string_view weights_of(std::string_view region) {
    if (region == "hyper_connection") return hyper_connections_++ == 0 ? "hc_attn_" : "hc_ffn_";
    if (region == "attention") return "attn.";
    if (region == "compressor") return "compressor.";
    if (region == "indexer") return "indexer.";
    if (region == "moe") return "ffn.";
    if (region == "router") return "gate.";
    if (region == "experts") return "experts.";
    if (region == "shared_expert") return "shared_experts.";
    return {};
  }

  static std::size_t tokens(const PassRecord& pass) {
    std::size_t count = 0;
    for (const Segment& segment : pass.segments) count += segment.count;
    return count;
  }

  Cost cost(const Event& event) const;
  Json arguments(const Event& event) const;

  ConfigValues config_;
  const Checkpoint* checkpoint_;
  std::string title_;
  std::vector<PassRecord> passes_;
  std::vector<LayerRecord> layers_;  // of all passes
  std::vector<Event> events_;        // in the order of their begins
  std::vector<std::size_t> open_;    // those that have not ended
  std::size_t hyper_connections_ = 0;
};

template <class T>
auto Trace<T>::cost(const Event& event) const -> Cost {
  const PassRecord& pass = passes_[event.pass];
  Cost cost;
  if (event.kind == Kind::pass) {
    for (const Event& part : events_) {
      if (part.pass != event.pass || part.kind == Kind::pass || part.in_layer) continue;
      const Cost of = this->cost(part);
      cost.bytes += of.bytes;
      cost.flops += of.flops;
    }
    return cost;
  }
  if (!event.in_layer && event.kind == Kind::region) {
    if (event.name == "embed") {
      cost.add(weight_cost(*checkpoint_, config_, "embed.", tokens(pass)));
    } else if (event.name == "head") {
      for (const char* name : {"hc_head_", "norm.", "head."}) {
        cost.add(weight_cost(*checkpoint_, config_, name, pass.logits));
      }
    }
    return cost;
  }
  const LayerRecord& layer = layers_[event.layer];
  if (!event.weights.empty()) {
    cost.add(weight_cost(*checkpoint_, config_, event.weights, tokens(pass), layer.experts));
  }
  const bool whole = event.kind == Kind::layer || event.name == "attention";
  const std::size_t ratio = layer.info.compress_ratio;
  for (const Segment& segment : pass.segments) {
    const auto before = layer_attention_flops_before(config_, ratio, segment.position);
    const auto behind =
        layer_attention_flops_before(config_, ratio, segment.position + segment.count);
    if (whole || event.name == "attend") {
      cost.flops += static_cast<double>(behind.attention - before.attention);
    }
    if (whole || event.name == "indexer") {
      cost.flops += static_cast<double>(behind.indexer - before.indexer);
    }
  }
  return cost;
}

template <class T>
auto Trace<T>::arguments(const Event& event) const -> Json {
  Json args = Json::object();
  if (event.kind == Kind::pass) {
    const PassRecord& pass = passes_[event.pass];
    args["tokens"] = tokens(pass);
    args["position"] = pass.segments.front().position;
    args["sequences"] = pass.segments.size();
    args["logits"] = pass.logits;
  } else if (event.kind == Kind::layer) {
    const LayerRecord& layer = layers_[event.layer];
    args["layer"] = layer.info.layer;
    args["compress_ratio"] = layer.info.compress_ratio;
    args["attention"] = name_of(layer.info.attention);
    args["router"] = name_of(layer.info.router);
    args["experts"] = layer.experts;
  }
  const Cost cost = this->cost(event);
  if (cost.bytes > 0.0) args["weight_bytes"] = cost.bytes;
  if (cost.flops > 0.0) args["flops"] = cost.flops;
  return args;
}

template <class T>
auto Trace<T>::json() const -> Json {
  static constexpr int kProcess = 1;
  static constexpr int kThread = 1;
  const auto metadata = [](const char* name, const std::string& value) {
    return Json{{"name", name},
                {"ph", "M"},
                {"pid", kProcess},
                {"tid", kThread},
                {"args", {{"name", value}}}};
  };
  Json events = Json::array();
  events.push_back(metadata("process_name", title_));
  events.push_back(metadata("thread_name", "passes"));
  for (const Event& event : events_) {
    const auto microseconds = [](Clock::duration time) {
      return std::chrono::duration<double, std::micro>(time).count();
    };
    std::string name = event.name;
    const char* category = "component";
    if (event.kind == Kind::pass) {
      const PassRecord& pass = passes_[event.pass];
      name = tokens(pass) > pass.segments.size() ? "prefill" : "decode";
      category = "pass";
    } else if (event.kind == Kind::layer) {
      const LayerInfo& info = layers_[event.layer].info;
      name = "layer " + std::to_string(info.layer) + " ";
      name.append(name_of(info.attention)).append(" ").append(name_of(info.router));
      category = "layer";
    }
    events.push_back({{"name", name},
                      {"cat", category},
                      {"ph", "X"},
                      {"ts", microseconds(event.begin - events_.front().begin)},
                      {"dur", microseconds(event.end - event.begin)},
                      {"pid", kProcess},
                      {"tid", kThread},
                      {"args", arguments(event)}});
  }
  return {{"traceEvents", std::move(events)},
          {"displayTimeUnit", "ms"},
          {"otherData",
           {{"weight_bytes",
             "stored bytes of the weights needed, each read once; of routed experts those picked"},
            {"flops", "of products with weights and of attention; two to a product and sum"},
            {"experts", "different routed experts that the pass's tokens picked in the layer"}}}};
}

}  // namespace ds4::inline v0_1
