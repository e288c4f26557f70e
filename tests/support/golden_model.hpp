// What every backend has to pass: the golden logits of a whole model in one pass, in chunks, token
// by token and in a batch, and every stage's golden result.
//
// Tolerances are two to three times what was measured with another order of summation: logits are
// up to 4.7e-6 of their standard deviation away from the golden ones (which are as far from
// float64), stages 1.3e-6 of the largest golden value of the stage, or of 1.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/sampler.hpp>
#include <ds4/model.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace ds4::test {

/// A model of tests/data on a backend, and what the reference implementation gave for it.
template <class C, class B>
struct GoldenCase {
  using Config = C;
  using Model = ds4::Model<C, B>;
  using Scalar = typename B::Scalar;

  explicit GoldenCase(B backend = B()) : model(Model::load(data_dir(folder), std::move(backend))) {}

  std::string folder = folder_of<Model>();
  Golden golden{data_dir(folder) / "golden.safetensors"};
  Model model;
  std::vector<std::int32_t> ids = golden.indices("input_ids");
  double deviation = standard_deviation(golden.values("logits"));
  double tolerance = 1.2e-5 * deviation;
};

/// Keeps every stage's result, all chunks of a run one after another.
template <class T>
class Recorder : public StageObserver<T> {
 public:
  void values(std::size_t layer, std::string_view stage, std::span<const T> values) override {
    auto& kept = values_["layers." + std::to_string(layer) + "." + std::string(stage)];
    kept.insert(kept.end(), values.begin(), values.end());
  }
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> indices) override {
    auto& kept = indices_["layers." + std::to_string(layer) + "." + std::string(stage)];
    kept.insert(kept.end(), indices.begin(), indices.end());
  }

  const std::map<std::string, std::vector<T>>& values() const { return values_; }
  const std::map<std::string, std::vector<std::int32_t>>& indices() const { return indices_; }

 private:
  std::map<std::string, std::vector<T>> values_;
  std::map<std::string, std::vector<std::int32_t>> indices_;
};

/// [A, B, n] from [B, A, n].
inline std::vector<float> swap_leading_axes(std::span<const float> x, std::size_t A,
                                            std::size_t B) {
  const std::size_t n = x.size() / (A * B);
  std::vector<float> y(x.size());
  for (std::size_t a = 0; a < A; ++a) {
    for (std::size_t b = 0; b < B; ++b) {
      std::copy_n(x.begin() + static_cast<std::ptrdiff_t>((b * A + a) * n), n,
                  y.begin() + static_cast<std::ptrdiff_t>((a * B + b) * n));
    }
  }
  return y;
}

/// Sorts each row of k indices, and the weights (if any) along with them.
template <class T>
void sort_rows(std::vector<std::int32_t>& indices, std::vector<T>& weights, std::size_t k) {
  for (std::size_t row = 0; row < indices.size(); row += k) {
    std::vector<std::size_t> order(k);
    std::iota(order.begin(), order.end(), row);
    std::ranges::sort(order, {}, [&](std::size_t i) { return indices[i]; });
    const auto old = indices;
    const auto old_weights = weights;
    for (std::size_t i = 0; i < k; ++i) {
      indices[row + i] = old[order[i]];
      if (!weights.empty()) weights[row + i] = old_weights[order[i]];
    }
  }
}

/// One pass gives the golden logits.
template <class Setup>
void check_one_pass(Setup& setup) {
  auto state = setup.model.new_state();
  const auto logits = setup.model.forward(state, setup.ids);
  const double worst =
      check_close("logits", logits.flat(), setup.golden.values("logits"), setup.tolerance);
  MESSAGE(setup.folder << ": largest error " << worst / setup.deviation << " standard deviations");
}

/// Chunks and single tokens give the golden logits, bit for bit the same ones however a sequence
/// is split.
template <class Setup>
void check_chunks(Setup& setup) {
  const std::vector<std::size_t> chunks{5, 64, 1, 130, 100};
  auto chunked_state = setup.model.new_state();
  const auto chunked = feed(setup.model, chunked_state, setup.ids, chunks);
  check_close("chunked_logits", std::span(std::as_const(chunked)),
              setup.golden.values("chunked_logits"), setup.tolerance);

  // Prefill of 137 tokens, then one by one.
  auto state = setup.model.new_state();
  std::span<const std::int32_t> ids = setup.ids;
  const auto last = setup.model.prefill(state, ids.first(137));
  check_close("prefill_last_logits", last.flat(), setup.golden.values("prefill_last_logits"),
              setup.tolerance);
  const auto golden = setup.golden.values("decode_logits");
  for (std::size_t i = 137; i < ids.size(); ++i) {
    const auto logits = setup.model.decode(state, ids[i]);
    check_close("decode_logits " + std::to_string(i), logits.flat(),
                golden.subspan((i - 137) * logits.size(), logits.size()), setup.tolerance);
  }

  // A product does not depend on its neighbours, so the reference path is bitwise the same however
  // a sequence is split; the tails of compressors and the window must be, too.
  const std::vector<std::size_t> singles(setup.ids.size(), 1);
  auto single_state = setup.model.new_state();
  CHECK(feed(setup.model, single_state, setup.ids, singles) == chunked);
}

/// The sequences of a batch do not see each other.
template <class Setup>
void check_batch(Setup& setup) {
  const auto ids = setup.golden.indices("batch_input_ids");
  const std::span<const std::int32_t> all = ids;
  auto first = setup.model.new_state();
  auto second = setup.model.new_state();
  using Sequence = typename Setup::Model::Sequence;
  const std::array<Sequence, 2> batch{Sequence{&first, all.first(150)},
                                      Sequence{&second, all.last(150)}};
  const auto logits = setup.model.forward(batch, ds4::LogitsOf::all);
  check_close("batch_logits", logits.flat(), setup.golden.values("batch_logits"), setup.tolerance);

  // Alone, each sequence has bitwise the same logits.
  auto alone = setup.model.new_state();
  const auto single = setup.model.forward(alone, all.last(150));
  CHECK(std::ranges::equal(single.flat(), logits.view().rows(150, 150).flat()));
}

/// The greedy continuation is the golden one.
template <class Setup>
void check_greedy(Setup& setup) {
  auto state = setup.model.new_state();
  auto logits = setup.model.prefill(state, setup.golden.indices("greedy_prompt_ids"));
  std::vector<std::int32_t> ids;
  while (ids.size() < 40) {
    ids.push_back(argmax(logits.flat()));
    logits = setup.model.decode(state, ids.back());
  }
  CHECK(ids == setup.golden.indices("greedy_ids"));

  // The same, chosen where the logits are.
  auto chosen_state = setup.model.new_state();
  std::vector<std::int32_t> chosen{
      setup.model.greedy(chosen_state, setup.golden.indices("greedy_prompt_ids"))};
  while (chosen.size() < 40) {
    chosen.push_back(setup.model.greedy(chosen_state, {&chosen.back(), 1}));
  }
  CHECK(chosen == ids);
}

/// Every stage gives the golden result.
template <class Setup>
void check_stages(Setup& setup) {
  using T = typename Setup::Scalar;
  using C = typename Setup::Config;
  Recorder<T> recorder;
  auto state = setup.model.new_state();
  setup.model.forward(state, setup.ids, &recorder);
  const std::size_t S = setup.ids.size();

  std::size_t compared = 0;
  double worst = 0;
  for (const auto& [name, kept] : recorder.values()) {
    const std::string stage = name.substr(name.find('.', 7) + 1);
    const bool outside = stage == "hc_head" || stage == "final_norm";  // not inside a layer
    const std::string golden_name = outside ? stage : name;
    if (stage == "mlp.router_weights" || !setup.golden.has(golden_name)) continue;
    std::span<const float> stored = setup.golden.values(golden_name);
    std::vector<float> golden(stored.begin(), stored.end());
    if (stage == "attn.q_rope") golden = swap_leading_axes(stored, S, C::num_attention_heads);
    double top = 0;
    for (const float value : golden) top = std::max(top, std::abs(static_cast<double>(value)));
    const double unit = std::max(top, 1.0);
    const double error = check_close(golden_name, std::span<const T>(kept),
                                     std::span<const float>(golden), 4e-6 * unit);
    worst = std::max(worst, error / unit);
    ++compared;
  }
  for (const auto& [name, kept] : recorder.indices()) {
    if (!setup.golden.has(name)) continue;
    INFO(name);
    const std::size_t width = kept.size() / S;
    auto got = kept;
    auto want = setup.golden.indices(name);
    std::vector<T> weights;
    const std::string weights_name = name.substr(0, name.rfind('.') + 1) + "router_weights";
    const bool router = name.ends_with("router_indices");
    if (router) weights = recorder.values().at(weights_name);
    std::vector<T> none;
    sort_rows(got, weights, width);
    sort_rows(want, none, width);
    CHECK(got == want);
    if (router) {
      const double error = check_close(weights_name, std::span<const T>(weights),
                                       setup.golden.values(weights_name), 4e-6);
      worst = std::max(worst, error);
    }
    ++compared;
  }
  MESSAGE(setup.folder << ": largest error of a stage " << worst << " of its largest value");
  // Nothing golden is left out; scores and weights are looked at with the picks they lead to.
  std::size_t expected = 0;
  for (const auto& tensor : setup.golden.tensors()) {
    const std::string& name = tensor.name;
    if (name == "hc_head" || name == "final_norm" ||
        (name.starts_with("layers.") && !name.ends_with("indexer.scores") &&
         !name.ends_with("mlp.router_weights"))) {
      ++expected;
    }
  }
  CHECK(compared == expected);
}

}  // namespace ds4::test
