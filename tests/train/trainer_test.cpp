// Tests of ds4/train/trainer.hpp and what it is made of: steps of whole models, and runs that go
// on.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/weight_names.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/models/tiny_flash_config.hpp>
#include <ds4/train/initialise.hpp>
#include <ds4/train/learning_rate.hpp>
#include <ds4/train/optimizer.hpp>
#include <ds4/train/token_windows.hpp>
#include <ds4/train/trainable_model.hpp>
#include <ds4/train/trainer.hpp>
#include <ds4/train/training_files.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::test::Golden;
using Flash = ds4::models::tiny_flash;
using Kernels = ds4::ReferenceTraining<float>;
using Model = ds4::TrainableModel<Flash, Kernels>;

/// Picks entries of equal scores as the reference implementation's top-k did when the golden data
/// were made: by the order that a quickselect leaves. Scores of exactly 0 are frequent, and which
/// of them are picked changes the loss by 1e-4.
struct GoldenTies : Kernels {
  void pick_entries(std::int32_t* picks, const float* q, const float* weights, const float* keys,
                    const ds4::IndexShape& shape) {
    for (std::size_t t = 0; t < shape.S; ++t, picks += shape.top_k) {
      std::vector<float> score((t + 1) / shape.ratio);
      ds4::reference::index_scores(score.data(), q + t * shape.nI * shape.dI,
                                   weights + t * shape.nI, score.size(), shape.nI, shape.dI,
                                   [&](std::size_t w) { return keys + w * shape.dI; });
      std::vector<std::pair<float, std::int32_t>> order;
      for (const float value : score) {
        order.emplace_back(value, static_cast<std::int32_t>(order.size()));
      }
      const std::size_t count = std::min(shape.top_k, order.size());
      if (count > 0) {
        std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count) - 1,
                         order.end(),
                         [](const auto& a, const auto& b) { return a.first > b.first; });
      }
      for (std::size_t i = 0; i < shape.top_k; ++i) picks[i] = i < count ? order[i].second : -1;
    }
  }
};

/// A text with something to learn: short cycles of tokens.
std::vector<std::int32_t> text(std::size_t count) {
  std::vector<std::int32_t> ids;
  std::mt19937 generator(3);
  while (ids.size() < count) {
    const auto start = static_cast<std::int32_t>(generator() % 240);
    for (std::int32_t i = 0; i < 12; ++i) ids.push_back(start + i);
  }
  ids.resize(count);
  return ids;
}

ds4::TrainerOptions small_run() {
  ds4::TrainerOptions options;
  options.batch = 3;
  options.context = 24;
  options.learning_rate = {.peak = 5e-3, .warmup_steps = 2};
  return options;
}

Model fresh_model() {
  Model model;
  ds4::initialise(model.weights(), 5);
  return model;
}

std::vector<float> weights_of(const Model& model) {
  std::vector<float> all;
  for (const auto& weight : model.weights().list()) {
    all.insert(all.end(), weight.values.begin(), weight.values.end());
  }
  return all;
}

}  // namespace

TEST_CASE("the golden weights and losses of three AdamW steps") {
  const auto folder = ds4::test::data_dir("tiny-flash");
  const Golden golden(folder / "train.safetensors");
  auto model = ds4::TrainableModel<Flash, GoldenTies>::load(folder);
  const auto ids = Golden(folder / "golden.safetensors").indices("batch_input_ids");
  const std::vector<ds4::TrainingSequence> batch{std::span(ids).first(150),
                                                 std::span(ids).last(150)};
  ds4::OptimizerOptions options;
  options.kind = ds4::OptimizerKind::adamw;
  options.clip_norm = 0.0;
  options.bias_rate = 0.0;
  options.trains_indexer = false;
  options.trains_mtp = false;
  options.bf16_weights = false;  // as the golden run
  ds4::Optimizer<float> optimizer(model.weights().list(), options);
  ds4::PassOptions pass;
  pass.prediction_weight = 1.0 / 298.0;
  for (std::size_t step = 0; step < 3; ++step) {
    model.zero_gradients();
    const auto losses = model.add_gradients(batch, pass);
    CHECK(std::abs(losses.cross_entropy / 298.0 - golden.values("adamw_loss")[step]) < 1e-5);
    optimizer.step(model.kernels(), model.weights().list(), 1e-3);
  }
  CHECK(optimizer.steps() == 3);
  std::size_t compared = 0;
  for (const auto& tensor : golden.tensors()) {
    if (!tensor.name.starts_with("adamw.")) continue;
    const std::string name = ds4::canonical_name(tensor.name.substr(6));
    const auto list = model.weights().list();
    const auto weight = std::ranges::find(list, name, [](const auto& w) { return w.name; });
    CAPTURE(name);
    REQUIRE(weight != list.end());
    const auto expected = golden.values(tensor.name);
    // A step moves a weight by about the learning rate, 1e-3, whatever the size of its gradient:
    // where that is next to nothing rounding decides, which one weight in a thousand may be off by.
    std::size_t off = 0;
    double distance = 0.0;
    double norm = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double error = std::abs(static_cast<double>(weight->values[i]) - expected[i]);
      off += error > 1e-5 ? 1 : 0;
      distance += error * error;
      norm += std::pow(expected[i], 2);
    }
    CHECK(off * 1000 <= expected.size());
    CHECK(std::sqrt(distance) <= 1e-5 * std::sqrt(norm));
    ++compared;
  }
  CHECK(compared > 50);
}

TEST_CASE_TEMPLATE_DEFINE("a run learns what there is to learn", Kind, learns) {
  Model model = fresh_model();
  ds4::TrainerOptions options = small_run();
  options.optimizer.kind = Kind::value;
  ds4::Trainer<Model> trainer(model, text(2000), options);
  const auto held_out = text(200);
  const double before = trainer.validate(held_out).loss();
  CHECK(std::abs(before - std::log(256.0)) < 0.5);  // it knows nothing
  ds4::StepReport first;
  ds4::StepReport last;
  constexpr std::size_t kSteps = 40;
  for (std::size_t i = 0; i < kSteps; ++i) {
    last = trainer.step(static_cast<double>(i) / kSteps);
    if (i == 0) first = last;
  }
  CHECK(first.step == 1);
  CHECK(last.step == kSteps);
  CHECK(last.tokens == 3 * 24);
  CHECK(last.loss < first.loss - 1.0);
  CHECK(last.mtp_loss < first.mtp_loss);
  CHECK(last.gradient_norm > 0.0);
  CHECK(trainer.validate(held_out).loss() < before - 1.0);
}
using AdamW = std::integral_constant<ds4::OptimizerKind, ds4::OptimizerKind::adamw>;
using Muon = std::integral_constant<ds4::OptimizerKind, ds4::OptimizerKind::muon>;
TEST_CASE_TEMPLATE_INVOKE(learns, AdamW, Muon);

TEST_CASE("a run that goes on is the run that never stopped, bit for bit") {
  const ds4::test::TempDir dir;
  const auto file = dir.path() / "state.safetensors";
  Model whole = fresh_model();
  ds4::Trainer<Model> trainer(whole, text(600), small_run());
  for (std::size_t i = 0; i < 3; ++i) trainer.step(0.1);
  ds4::save_training_state(file, whole.weights(), trainer.optimizer(), {{"course", "x"}});
  for (std::size_t i = 0; i < 3; ++i) trainer.step(0.7);

  Model model;  // nothing of it is kept
  ds4::Trainer<Model> again(model, text(600), small_run());
  CHECK(ds4::load_training_state(file, model.weights(), again.optimizer()).at("course") == "x");
  CHECK(again.optimizer().steps() == 3);
  for (std::size_t i = 0; i < 3; ++i) again.step(0.7);
  CHECK(weights_of(model) == weights_of(whole));

  SUBCASE("a state of another optimizer is an error") {
    ds4::TrainerOptions options = small_run();
    options.optimizer.kind = ds4::OptimizerKind::adamw;
    ds4::Trainer<Model> other(model, text(600), options);
    CHECK_THROWS_WITH_AS(ds4::load_training_state(file, model.weights(), other.optimizer()),
                         doctest::Contains("mean_square."), ds4::Error);
  }
}

TEST_CASE(
    "the model has the rounded weights that are saved, and their masters keep what steps add") {
  const ds4::test::TempDir dir;
  Model model = fresh_model();
  ds4::TrainerOptions options = small_run();
  options.learning_rate.peak = 1e-5;  // a step moves a weight by less than half of BF16's distance
  ds4::Trainer<Model> trainer(model, text(600), options);
  for (std::size_t i = 0; i < 3; ++i) trainer.step(0.0);
  ds4::save_model(dir.path(), ds4::config_values<Flash>(), model.weights());
  CHECK(weights_of(Model::load(dir.path())) == weights_of(model));

  const auto list = model.weights().list();
  std::size_t with_master = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto moved = trainer.optimizer().moved(i, list[i]);
    CAPTURE(list[i].name);
    if (list[i].stored == ds4::DType::f32) {
      CHECK(moved.data() == list[i].values.data());
      continue;
    }
    ++with_master;
    REQUIRE(moved.data() != list[i].values.data());
    std::size_t different = 0;
    for (std::size_t j = 0; j < moved.size(); ++j) {
      const float rounded = ds4::bf16_to_float(ds4::bf16_from_float(moved[j]));
      REQUIRE(list[i].values[j] == rounded);
      different += moved[j] != rounded ? 1 : 0;
    }
    CHECK(different > moved.size() / 2);
  }
  CHECK(with_master > 100);

  SUBCASE("or it has the float32 weights that are stepped") {
    Model exact = fresh_model();
    options.optimizer.bf16_weights = false;
    ds4::Trainer<Model> other(exact, text(600), options);
    CHECK(weights_of(exact) == weights_of(fresh_model()));
    for (std::size_t i = 0; i < list.size(); ++i) {
      CHECK(other.optimizer().moved(i, exact.weights().list()[i]).data() ==
            exact.weights().list()[i].values.data());
    }
  }
}

TEST_CASE("a router's bias follows the load, and nothing else moves it") {
  Model model = fresh_model();
  const auto find = [&]() -> ds4::TrainedWeight<float>& {
    const auto list = model.weights().list();
    return *std::ranges::find_if(list,
                                 [](const auto& w) { return w.rule == ds4::UpdateRule::load; });
  };
  ds4::Trainer<Model> trainer(model, text(600), small_run());
  trainer.step(0.0);
  const auto& bias = find();
  float load = 0.0f;
  for (const float of_expert : bias.gradient) load += of_expert;
  CHECK(load == 3.0f * 24.0f * static_cast<float>(Flash::num_experts_per_tok));
  const float mean = load / static_cast<float>(bias.gradient.size());
  for (std::size_t e = 0; e < bias.values.size(); ++e) {
    const float sign = bias.gradient[e] < mean ? 1.0f : bias.gradient[e] > mean ? -1.0f : 0.0f;
    CHECK(bias.values[e] == 1e-3f * sign);
  }
}

TEST_CASE("clipping scales all gradients down to a norm") {
  const auto change = [](double clip, double& norm) {
    Model model = fresh_model();
    const auto before = weights_of(model);
    ds4::TrainerOptions options = small_run();
    options.optimizer.kind = ds4::OptimizerKind::adamw;
    options.optimizer.clip_norm = clip;
    options.optimizer.adamw.epsilon = 1.0;  // so that a step is as large as its gradient
    ds4::Trainer<Model> trainer(model, text(600), options);
    norm = trainer.step(0.0).gradient_norm;
    std::vector<double> changes;
    const auto after = weights_of(model);
    for (const auto& weight : model.weights().list()) {
      if (weight.name != "layers.0.attn.wq_a.weight") continue;
      for (const float g : weight.gradient) changes.push_back(g);
    }
    return changes;
  };
  double norm = 0.0;
  const auto whole = change(0.0, norm);
  const auto clipped = change(norm / 4.0, norm);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(clipped[i] == doctest::Approx(whole[i] / 4.0).epsilon(1e-5));
  }
}

TEST_CASE("what is no longer finite is an error, and the weights stay") {
  Model model = fresh_model();
  ds4::Trainer<Model> trainer(model, text(600), small_run());
  for (auto& weight : model.weights().list()) {
    if (weight.name == "norm.weight") weight.values[0] = std::nanf("");
  }
  const auto before = weights_of(model);
  CHECK_THROWS_WITH_AS(trainer.step(0.0), doctest::Contains("step 1: found a loss of"), ds4::Error);
  const auto after = weights_of(model);
  for (std::size_t i = 0; i < before.size(); ++i) {
    REQUIRE((before[i] == after[i] || std::isnan(before[i])));
  }
}

TEST_CASE("a trained model is a checkpoint of the release's layout") {
  const ds4::test::TempDir dir;
  Model model = fresh_model();
  const ds4::ConfigValues config = ds4::config_values<Flash>();
  ds4::save_model(dir.path(), config, model.weights());
  auto read = Model::load(dir.path());
  for (std::size_t i = 0; i < model.weights().list().size(); ++i) {
    const auto& weight = model.weights().list()[i];
    const auto stored = read.weights().list()[i].values;
    const bool rounded = weight.shape.size() == 2 && weight.name.ends_with("weight");
    CAPTURE(weight.name);
    for (std::size_t j = 0; j < weight.values.size(); ++j) {
      const float value = weight.values[j];
      REQUIRE(stored[j] == (rounded ? ds4::bf16_to_float(ds4::bf16_from_float(value)) : value));
    }
  }
  REQUIRE(model.weights().tables().size() == Flash::num_hash_layers);
  for (std::size_t i = 0; i < model.weights().tables().size(); ++i) {
    const auto picks = model.weights().tables()[i].picks;
    CHECK(std::ranges::equal(read.weights().tables()[i].picks, picks));
    CHECK(picks[0] != picks[1]);  // a token's experts differ
  }
}

TEST_CASE("windows: every token is read about once an epoch, in an order that the seed settles") {
  constexpr std::size_t kContext = 10;
  std::vector<std::int32_t> ids(205);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
  ds4::TokenWindows windows(ids, kContext, 1);
  CHECK(windows.per_epoch() == 19);
  std::vector<std::size_t> read(ids.size());
  std::vector<std::int32_t> starts;
  for (std::size_t i = 0; i < windows.per_epoch(); ++i) {
    const auto window = windows.window(i);
    REQUIRE(window.size() == kContext + 1);
    starts.push_back(window[0]);
    for (std::size_t t = 0; t < kContext; ++t) {
      CHECK(window[t + 1] == window[t] + 1);
      ++read[static_cast<std::size_t>(window[t])];
    }
  }
  CHECK(std::ranges::max(read) == 1);
  CHECK(std::ranges::count(read, 0u) == 205 - 190);
  CHECK_FALSE(std::ranges::is_sorted(starts));
  std::vector<std::int32_t> next;
  for (std::size_t i = 0; i < windows.per_epoch(); ++i) {
    next.push_back(windows.window(windows.per_epoch() + i)[0]);
  }
  CHECK(next != starts);
  ds4::TokenWindows same(ids, kContext, 1);
  CHECK(same.window(30)[0] == next[30 - 19]);  // without the windows before it
  CHECK(windows.window(3)[0] == starts[3]);    // and back
  ds4::TokenWindows other(ids, kContext, 2);
  CHECK(other.window(0)[0] != starts[0]);
  CHECK_THROWS_WITH_AS(ds4::TokenWindows({1, 2, 3}, 10, 1),
                       "ds4: training text: found 3 tokens, expected at least 21 for a context of "
                       "10",
                       ds4::Error);
}

TEST_CASE("every token and its place are in a text's fingerprint") {
  const std::vector<std::int32_t> ids{1, 2, 300, 70000};
  CHECK(ds4::text_fingerprint(ids) == "4 tokens, fingerprint b0ac8586eef7bfe3");
  CHECK(ds4::text_fingerprint({}) == "0 tokens, fingerprint cbf29ce484222325");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (unsigned bit = 0; bit < 31; ++bit) {
      auto other = ids;
      other[i] ^= std::int32_t{1} << bit;
      CHECK(ds4::text_fingerprint(other) != ds4::text_fingerprint(ids));
    }
    auto other = ids;
    std::swap(other[i], other[(i + 1) % ids.size()]);
    CHECK(ds4::text_fingerprint(other) != ds4::text_fingerprint(ids));
  }
}

TEST_CASE("learning rates rise on a line, and fall as they are told") {
  ds4::LearningRate rate{
      .peak = 2.0, .warmup_steps = 4, .decay = ds4::Decay::linear, .final_share = 0.25};
  CHECK(rate.at(1, 0.0) == 0.5);
  CHECK(rate.at(4, 0.1) == 2.0);
  CHECK(rate.at(5, 0.0) == 2.0);
  CHECK(rate.at(50, 0.5) == doctest::Approx(1.25));
  CHECK(rate.at(99, 1.0) == 0.5);
  rate.decay = ds4::Decay::cosine;
  CHECK(rate.at(50, 0.5) == doctest::Approx(1.25));
  CHECK(rate.at(20, 0.25) > 1.25 + 0.4);
  CHECK(rate.at(99, 1.0) == doctest::Approx(0.5));
  CHECK(rate.at(99, 1.5) == doctest::Approx(0.5));
  rate.decay = ds4::Decay::constant;
  CHECK(rate.at(99, 1.0) == 2.0);
  rate.warmup_steps = 0;
  CHECK(rate.at(1, 0.0) == 2.0);
}
