// The stages of a pass by name: as arrays, and beside those that another program has computed.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/inspect/check_report.hpp>
#include <ds4/inspect/stage_comparison.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/runtime/any_model.hpp>

namespace ds4::inline v0_1 {

/// The result of one stage for all tokens of a sequence.
struct StageArray {
  std::string name;                        ///< "layers.3.attn.output", "final_norm", "logits"
  std::vector<std::size_t> shape = {};     ///< a leading row per token, or per compressed entry
  std::vector<float> values = {};          ///< numbers, or
  std::vector<std::int32_t> indices = {};  ///< picks: "mlp.router_indices", "indexer.topk"
};

/// The name of a stage: "layers.3.attn.output", or the stage alone behind the layers.
inline std::string stage_name(std::size_t layer, std::string_view stage) {
  if (is_of_head(stage)) return std::string(stage);
  return "layers." + std::to_string(layer) + "." + std::string(stage);
}

/// The shape of a stage of `count` values or indices in the pass of a sequence of S tokens: [rows,
/// ...], with the axes that the stage has, e.g. "attn.q_rope" [S, H, d].
inline std::vector<std::size_t> stage_shape(const ConfigValues& config, std::size_t layer,
                                            std::string_view stage, std::size_t count,
                                            std::size_t S) {
  std::size_t rows = S;
  if (stage == "compressor.kv" || stage == "indexer.kv") {
    rows = S / std::max<std::size_t>(config.compress_ratios[layer], 1);
  }
  if (rows == 0 || count % rows != 0) return {count};
  const std::size_t width = count / rows;
  const auto split = [&](std::size_t parts) -> std::vector<std::size_t> {
    if (parts == 0 || width % parts != 0) return {rows, width};
    return {rows, parts, width / parts};
  };
  if (stage == "attn.q_rope" || stage == "attn.out_unrotated") {
    return split(config.num_attention_heads);
  }
  if (stage == "attn.o_a") return split(config.o_groups);
  if (stage == "indexer.q") return split(config.index_n_heads);
  if (stage == "output" || stage.ends_with("_hc.comb")) return split(config.hc_mult);
  return {rows, width};
}

/// Which stages are wanted; told the number of the layer, which says nothing behind the layers, and
/// the stage.
using StageFilter = std::function<bool(std::size_t layer, std::string_view stage)>;

namespace detail {

/// Gives each stage that is wanted to f(layer, stage, values, indices), of which one is empty.
template <class F>
class StageVisitor final : public StageObserver<float> {
 public:
  StageVisitor(StageFilter wanted, F f) : wanted_(std::move(wanted)), f_(std::move(f)) {}
  bool wants(std::size_t layer, std::string_view stage) const override {
    return !wanted_ || wanted_(layer, stage);
  }
  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    if (wants(layer, stage)) f_(layer, stage, values, std::span<const std::int32_t>());
  }
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> indices) override {
    if (wants(layer, stage)) f_(layer, stage, std::span<const float>(), indices);
  }

 private:
  StageFilter wanted_;
  F f_;
};

}  // namespace detail

/// Takes a sequence in from its beginning in one pass and returns the stages that are wanted, in
/// their order, all if there is no filter; "logits" [S, V] last. Throws as AnyModel::forward does.
inline std::vector<StageArray> record_stages(AnyModel& model, std::span<const std::int32_t> ids,
                                             const StageFilter& wanted = {},
                                             const StopCheck& stop = {}) {
  const ConfigValues& config = model.config();
  std::vector<StageArray> stages;
  detail::StageVisitor visitor(
      wanted, [&](std::size_t layer, std::string_view stage, std::span<const float> values,
                  std::span<const std::int32_t> indices) {
        const std::size_t count = values.size() + indices.size();
        stages.push_back({stage_name(layer, stage),
                          stage_shape(config, layer, stage, count, ids.size()),
                          {values.begin(), values.end()},
                          {indices.begin(), indices.end()}});
      });
  AnyState state = model.new_state(0);
  const AnyModel::Sequence sequence{&state, ids};
  const Logits logits = model.forward({&sequence, 1}, &visitor, stop);
  if (!wanted || wanted(config.num_hidden_layers, "logits")) {
    stages.push_back(
        {"logits", {ids.size(), config.vocab_size}, {logits.values.begin(), logits.values.end()}});
  }
  return stages;
}

/// Takes a sequence in from its beginning and compares the stages of the pass with those that were
/// given, by name, each row by row in this pass's order; the model is the reference. See
/// check_backend about errors, picks and tolerances. The report has what was given, in the order of
/// the pass. Throws as AnyModel::forward does, and for a name that the pass does not have or an
/// array of another size.
inline CheckReport compare_stages(AnyModel& model, std::span<const std::int32_t> ids,
                                  std::span<const StageArray> given,
                                  double tolerance = kFloat32Tolerance,
                                  const StopCheck& stop = {}) {
  const ConfigValues& config = model.config();
  std::map<std::string, const StageArray*, std::less<>> left;
  for (const StageArray& stage : given) left.emplace(stage.name, &stage);
  std::vector<std::string> compared;
  detail::StageComparison comparison(config, model.checkpoint());
  comparison.begin_pass(0, ids.size());
  const auto take = [&](const std::string& name, std::size_t values,
                        std::size_t indices) -> const StageArray* {
    const auto at = left.find(name);
    if (at == left.end()) return nullptr;
    const StageArray& stage = *at->second;
    if (stage.values.size() != values || stage.indices.size() != indices) {
      throw Error(detail::printable(name),
                  "found " + std::to_string(stage.values.size()) + " numbers and " +
                      std::to_string(stage.indices.size()) + " indices, expected " +
                      std::to_string(values) + " and " + std::to_string(indices));
    }
    left.erase(at);
    compared.push_back(name);
    return &stage;
  };
  // Stages that were not given are compared with themselves: what the scores of picks are is known
  // from them.
  detail::StageVisitor visitor({}, [&](std::size_t layer, std::string_view stage,
                                       std::span<const float> values,
                                       std::span<const std::int32_t> indices) {
    const StageArray* const other = take(stage_name(layer, stage), values.size(), indices.size());
    if (indices.empty()) {
      comparison.values(layer, stage, other ? std::span<const float>(other->values) : values,
                        values);
    } else {
      comparison.indices(layer, stage,
                         other ? std::span<const std::int32_t>(other->indices) : indices, indices);
    }
  });
  AnyState state = model.new_state(0);
  const AnyModel::Sequence sequence{&state, ids};
  const Logits logits = model.forward({&sequence, 1}, &visitor, stop);
  if (const StageArray* const other = take("logits", logits.values.size(), 0)) {
    comparison.logits(std::span<const float>(other->values), logits.values);
  }
  if (!left.empty()) {
    throw Error(
        detail::printable(left.begin()->first),
        "found no stage of this name in the pass, expected one as \"layers.0.attn.output\"");
  }
  CheckReport report = comparison.report(tolerance);
  std::erase_if(report.stages, [&](const StageCheck& check) {
    const std::string name = check.head ? check.stage : stage_name(check.layer, check.stage);
    return std::ranges::find(compared, name) == compared.end();
  });
  return report;
}

}  // namespace ds4::inline v0_1
