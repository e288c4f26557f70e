#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/inspect/trace.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/weight_cost.hpp>
#include <support/golden_model.hpp>

namespace {

using Json = nlohmann::ordered_json;
using Reference = ds4::Model<ds4::models::tiny_flash, ds4::Reference<float>>;
using Simd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;

template <class M>
M load() {
  const auto dir = ds4::test::data_dir("tiny-flash");
  if constexpr (std::is_same_v<M, Simd>) {
    return M::load(dir, ds4::Simd({.threads = 2}));
  } else {
    return M::load(dir);
  }
}

/// The complete events of a category.
std::vector<Json> events(const Json& trace, const std::string& category) {
  std::vector<Json> found;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] == "X" && event["cat"] == category) found.push_back(event);
  }
  return found;
}

double total(const ds4::AttentionFlops& flops) {
  return static_cast<double>(flops.attention + flops.indexer);
}

}  // namespace

TEST_CASE_TEMPLATE("trace: layers in order, nested, with their costs", M, Reference, Simd) {
  M model = load<M>();
  const ds4::test::Golden golden(ds4::test::data_dir("tiny-flash") / "golden.safetensors");
  const std::vector<std::int32_t> ids = golden.indices("input_ids");
  REQUIRE(ids.size() == 300);

  auto plain_state = model.new_state();
  const auto plain = model.prefill(plain_state, ids);
  ds4::Trace<> recorder(model.config(), model.checkpoint());
  auto state = model.new_state();
  const auto traced = model.prefill(state, ids, &recorder);
  CHECK(std::ranges::equal(traced.flat(), plain.flat()));  // watching changes nothing
  ds4::test::Recorder<float> stages;  // the golden data have the picks of some layers only
  auto recorded_state = model.new_state();
  model.prefill(recorded_state, ids, &stages);
  model.decode(state, ids[0], &recorder);
  const Json trace = recorder.json();

  const auto passes = events(trace, "pass");
  REQUIRE(passes.size() == 2);
  CHECK(passes[0]["name"] == "prefill");
  CHECK(passes[0]["args"]["tokens"] == 300);
  CHECK(passes[1]["name"] == "decode");
  CHECK(passes[1]["args"]["position"] == 300);

  const auto layers = events(trace, "layer");
  REQUIRE(layers.size() == 14);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Json& args = layers[i]["args"];
    const std::size_t layer = i % 7;
    CHECK(args["layer"] == layer);
    CHECK(args["compress_ratio"] == ds4::models::tiny_flash::compress_ratios[layer]);
    CHECK(args["attention"] == (layer < 2 ? "sliding" : layer % 2 == 0 ? "csa" : "hca"));
    CHECK(args["router"] == (layer < 3 ? "hash" : "learned"));
    auto picks = stages.indices().at("layers." + std::to_string(layer) + ".mlp.router_indices");
    std::ranges::sort(picks);
    picks.erase(std::ranges::unique(picks).begin(), picks.end());
    CHECK(args["experts"] == (i < 7 ? picks.size() : 2));
  }

  // Every event lies inside the one before it that has not ended, or behind it.
  std::vector<std::pair<double, double>> open;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    const double begin = event["ts"];
    const double end = begin + event["dur"].get<double>();
    CHECK(event["dur"] >= 0.0);
    constexpr double kRounding = 1e-3;  // microseconds: the clock counts nanoseconds
    while (!open.empty() && begin >= open.back().second - kRounding) open.pop_back();
    if (!open.empty()) {
      CHECK(begin >= open.back().first);
      CHECK(end <= open.back().second + kRounding);
    }
    CHECK(open.empty() == (event["cat"] == "pass"));
    open.emplace_back(begin, end);
  }

  // Components: of a CSA layer, in order.
  std::vector<std::string> names;
  bool inside = false;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    if (event["cat"] != "component") inside = event["name"] == "layer 2 csa hash";
    if (inside && event["cat"] == "component") names.push_back(event["name"]);
  }
  names.resize(names.size() / 2);  // of the prefill
  CHECK(names == std::vector<std::string>{"hyper_connection", "attention", "compressor", "indexer",
                                          "compressor", "attend", "mix_streams", "hyper_connection",
                                          "moe", "router", "experts", "shared_expert",
                                          "mix_streams"});
  const auto components = events(trace, "component");
  CHECK(components.front()["name"] == "embed");
  CHECK(components.back()["name"] == "head");

  // Costs, against what is known of whole passes.
  const auto& config = model.config();
  const auto token = ds4::weight_cost(model.checkpoint(), config);
  const Json& decode = passes[1]["args"];
  CHECK(decode["weight_bytes"].get<double>() == doctest::Approx(token.bytes));
  CHECK(decode["flops"].get<double>() ==
        doctest::Approx(token.flops + total(ds4::attention_flops(config, 300))));
  double head = 0.0;
  for (const char* part : {"hc_head_", "norm.", "head."}) {
    head += ds4::weight_cost(model.checkpoint(), config, part).flops;
  }
  CHECK(passes[0]["args"]["flops"].get<double>() ==
        doctest::Approx(300.0 * (token.flops - head) + head +
                        total(ds4::attention_flops_before(config, 300))));
  const auto layer_cost = ds4::weight_cost(model.checkpoint(), config, "layers.3.");
  CHECK(layers[10]["args"]["weight_bytes"].get<double>() == doctest::Approx(layer_cost.bytes));
}
