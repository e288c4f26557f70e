// Tests of ds4/train/trainable_drafter.hpp: losses and gradients of DSpark, and a run.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <ds4/models/dspark.hpp>
#include <ds4/train/initialise.hpp>
#include <ds4/train/trainable_drafter.hpp>
#include <ds4/train/trainer.hpp>
#include <ds4/train/training_files.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/gradients.hpp>

namespace {

using ds4::test::Golden;
using ds4::test::gradients_of;
using C = ds4::models::dspark;
using Simd = ds4::SimdTraining;
template <class K>
using Drafter = ds4::TrainableDrafter<C, K>;

constexpr std::size_t B = C::dspark_block_size;
constexpr std::size_t V = C::vocab_size;
constexpr std::size_t D = C::hidden_size;
constexpr std::size_t R = C::dspark_markov_rank;

template <class K>
Drafter<K> load(K kernels = K()) {
  return Drafter<K>::load(ds4::test::data_dir("dspark"), std::move(kernels));
}

std::vector<std::int32_t> golden_ids() {
  return Golden(ds4::test::data_dir("dspark") / "golden.safetensors").indices("input_ids");
}

template <class List>
auto& weight_of(List&& list, std::string_view name) {
  const auto found = std::ranges::find(list, name, [](const auto& w) { return w.name; });
  REQUIRE(found != list.end());
  return *found;
}

std::vector<double> softmax(std::span<const double> logits) {
  const double top = std::ranges::max(logits);
  std::vector<double> p;
  double sum = 0.0;
  for (const double logit : logits) sum += p.emplace_back(std::exp(logit - top));
  for (double& value : p) value /= sum;
  return p;
}

/// What the block behind n tokens loses, from golden data and the heads' weights.
ds4::PassLosses expected_losses(const Golden& golden,
                                const Drafter<ds4::ReferenceTraining<double>>& drafter,
                                std::span<const std::int32_t> ids, std::size_t n) {
  const std::string draft = "draft." + std::to_string(n) + ".";
  const auto hidden = golden.values(draft + "hidden");
  const auto base = golden.values(draft + "base_logits");
  const auto model = golden.values("logits");
  const auto list = drafter.weights().list();
  const auto w1 = weight_of(list, "mtp.2.markov_head.markov_w1.weight").values;
  const auto w2 = weight_of(list, "mtp.2.markov_head.markov_w2.weight").values;
  const auto head = weight_of(list, "mtp.2.confidence_head.proj.weight").values;
  ds4::PassLosses losses;
  double accepted = 1.0;
  for (std::size_t j = 0; j < B; ++j) {
    const auto before = static_cast<std::size_t>(ids[n + j]);
    std::vector<double> logits(V);
    std::vector<double> of_model(V);
    for (std::size_t v = 0; v < V; ++v) {
      logits[v] = static_cast<double>(base[j * V + v]);
      for (std::size_t i = 0; i < R; ++i) logits[v] += w2[v * R + i] * w1[before * R + i];
      of_model[v] = static_cast<double>(model[(n + j) * V + v]);
    }
    double c = 0.0;
    for (std::size_t i = 0; i < D; ++i) c += head[i] * static_cast<double>(hidden[j * D + i]);
    for (std::size_t i = 0; i < R; ++i) c += head[D + i] * w1[before * R + i];
    const auto p = softmax(logits);
    const auto m = softmax(of_model);
    double distance = 0.0;
    for (std::size_t v = 0; v < V; ++v) distance += std::abs(p[v] - m[v]);
    const double chance = 1.0 - distance / 2.0;
    const double sigmoid = 1.0 / (1.0 + std::exp(-c));
    losses.cross_entropy -= std::log(p[static_cast<std::size_t>(ids[n + j + 1])]);
    losses.drafts.distance += distance;
    losses.drafts.confidence -=
        chance * std::log(sigmoid) + (1.0 - chance) * std::log(1.0 - sigmoid);
    accepted *= chance;
    losses.drafts.accepted += accepted;
  }
  return losses;
}

/// Two sequences, of 12 and of 3 blocks.
struct Batch {
  std::vector<std::int32_t> ids = golden_ids();
  std::vector<ds4::TrainingSequence> sequences{std::span(ids).first(65),
                                               std::span(ids).subspan(90, 18)};
};

}  // namespace

TEST_CASE("a drafter's losses are those of golden drafts") {
  using K = ds4::ReferenceTraining<double>;
  const Golden golden(ds4::test::data_dir("dspark") / "golden.safetensors");
  const auto ids = golden_ids();
  auto drafter = load<K>();
  CHECK(drafter.is_loaded());
  // The blocks of a sequence are behind 1, 1 + B, ... tokens: the last one by difference.
  for (const std::size_t n : {1u, 16u, 31u}) {
    CAPTURE(n);
    const auto up_to = [&](std::size_t end) {
      const ds4::TrainingSequence tokens = std::span(ids).first(end);
      return drafter.losses({&tokens, 1}, {});
    };
    const auto with = up_to(n + B + 1);
    const auto without = up_to(n + 1);
    CHECK(with.drafts.blocks == without.drafts.blocks + 1);
    CHECK(with.predictions == B * with.drafts.blocks);
    CHECK(without.drafts.blocks == (n - 1) / B);
    const auto expected = expected_losses(golden, drafter, ids, n);
    // Golden logits are float32, of values up to some ten.
    constexpr double kTolerance = 1e-4;
    CHECK(std::abs(with.cross_entropy - without.cross_entropy - expected.cross_entropy) <
          kTolerance);
    CHECK(std::abs(with.drafts.distance - without.drafts.distance - expected.drafts.distance) <
          kTolerance);
    CHECK(std::abs(with.drafts.confidence - without.drafts.confidence -
                   expected.drafts.confidence) < kTolerance);
    CHECK(std::abs(with.drafts.accepted - without.drafts.accepted - expected.drafts.accepted) <
          kTolerance);
  }
}

TEST_CASE("every gradient of a drafter is the slope of the loss along a random direction") {
  using K = ds4::ReferenceTraining<double>;
  auto drafter = load<K>();
  const auto ids = golden_ids();
  const std::vector<ds4::TrainingSequence> sequences{std::span(ids).first(27),
                                                     std::span(ids).subspan(90, 8)};
  ds4::PassOptions options;
  options.prediction_weight = 0.01;
  const auto check = [&](auto&& wanted) {
    drafter.zero_gradients();
    const auto losses = drafter.add_gradients(sequences, options);
    CHECK(losses.drafts.total == drafter.losses(sequences, options).drafts.total);
    return ds4::test::check_slopes(
        drafter, [&] { return drafter.losses(sequences, options).drafts.total; },
        [&](const auto& weight) {
          return weight.rule != ds4::UpdateRule::load && wanted(weight.name);
        });
  };
  // What the confidence is to say is no function of the weights for its gradient: without it here.
  options.drafts.confidence = 0.0;
  CHECK(check([](const std::string& name) {
          return name.find(".experts.") == std::string::npos ||
                 name.find(".experts.0.") != std::string::npos;
        }) > 70);
  options.drafts = {.cross_entropy = 0.0, .distance = 0.0, .confidence = 1.0};
  CHECK(check([](const std::string& name) {
          return name.find("confidence") != std::string::npos;
        }) == 1);
}

TEST_CASE("the confidence's loss reaches what it reads") {
  using K = ds4::ReferenceTraining<double>;
  auto drafter = load<K>();
  const Batch batch;
  ds4::PassOptions options;
  options.drafts = {.cross_entropy = 0.0, .distance = 0.0, .confidence = 1.0};
  drafter.add_gradients(batch.sequences, options);
  const auto largest = [&](std::string_view name) {
    double value = 0.0;
    for (const double g : weight_of(drafter.weights().list(), name).gradient) {
      value = std::max(value, std::abs(g));
    }
    return value;
  };
  CHECK(largest("mtp.0.main_proj.weight") > 0.0);
  CHECK(largest("mtp.2.markov_head.markov_w1.weight") > 0.0);
  CHECK(largest("mtp.2.hc_head_fn") > 0.0);
  CHECK(largest("mtp.2.markov_head.markov_w2.weight") == 0.0);
  CHECK(largest("mtp.2.norm.weight") == 0.0);
}

TEST_CASE("SIMD kernels give a drafter the reference's gradients, whatever the threads") {
  const Batch batch;
  ds4::PassOptions options;
  options.prediction_weight = 0.01;
  auto reference = load<ds4::ReferenceTraining<double>>();
  const auto expected_losses = reference.add_gradients(batch.sequences, options);
  const auto expected = gradients_of(reference);
  for (const auto* kernels : ds4::simd::available_training_kernels()) {
    CAPTURE(std::string(kernels->name));
    auto drafter = load(Simd({.threads = 1, .kernels = kernels}));
    const auto losses = drafter.add_gradients(batch.sequences, options);
    CHECK(losses.drafts.total == doctest::Approx(expected_losses.drafts.total).epsilon(1e-6));
    CHECK(losses.drafts.accepted == doctest::Approx(expected_losses.drafts.accepted).epsilon(1e-5));
    const auto found = gradients_of(drafter);
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(drafter.weights().list()[i].name);
      CHECK(ds4::test::is_within(1e-4, found[i], expected[i]));
    }
    auto threads = load(Simd({.threads = 2, .kernels = kernels}));
    threads.add_gradients(batch.sequences, options);
    CHECK(gradients_of(threads) == found);
    // Over several passes, sums in another order.
    drafter.zero_gradients();
    ds4::PassLosses one_by_one;
    for (const auto& sequence : batch.sequences) {
      one_by_one += drafter.add_gradients({&sequence, 1}, options);
    }
    CHECK(one_by_one.drafts.total == doctest::Approx(losses.drafts.total).epsilon(1e-6));
    CHECK(one_by_one.drafts.blocks == 12 + 3);
  }
}

TEST_CASE("a drafter learns, its model stays, and both are saved as one checkpoint") {
  auto drafter = load(Simd({.threads = 1}));
  ds4::initialise(drafter.weights(), 3);
  std::vector<std::vector<float>> model;
  for (const auto& weight : drafter.model_weights().list()) {
    CHECK(weight.gradient.empty());
    model.emplace_back(weight.values.begin(), weight.values.end());
  }
  ds4::TrainerOptions options;
  options.batch = 3;
  options.context = 24;
  options.learning_rate.peak = 0.01;
  options.learning_rate.warmup_steps = 2;
  options.mtp_weight = 0.0;  // of another drafter
  ds4::Trainer<Drafter<Simd>> trainer(drafter, golden_ids(), options);
  const auto text = golden_ids();
  const auto before = trainer.validate(text).drafts;
  constexpr std::size_t kSteps = 20;
  for (std::size_t i = 0; i < kSteps; ++i) {
    const auto report = trainer.step(static_cast<double>(i) / kSteps);
    CHECK(report.tokens == 3 * 4 * B);  // blocks behind 1, 6, 11 and 16 tokens
    CHECK(report.accepted > 0.0);
    CHECK(report.mtp_loss == 0.0);
  }
  const auto after = trainer.validate(text).drafts;
  CHECK(after.blocks == before.blocks);
  CHECK(after.distance < 0.9 * before.distance);
  for (std::size_t i = 0; i < model.size(); ++i) {
    CHECK(std::ranges::equal(model[i], drafter.model_weights().list()[i].values));
  }

  const ds4::test::TempDir dir;
  const ds4::TrainedWeights<float>* const parts[] = {&drafter.model_weights(), &drafter.weights()};
  ds4::save_model<float>(dir.path(), ds4::config_values<C>(), parts);
  auto saved = ds4::Model<C, ds4::Simd>::load(dir.path());
  CHECK(saved.drafter() == ds4::DrafterKind::dspark);
  auto again = Drafter<Simd>::load(dir.path(), Simd({.threads = 1}));
  CHECK(again.is_loaded());
  CHECK(std::ranges::equal(weight_of(again.weights().list(), "mtp.0.main_proj.weight").values,
                           weight_of(drafter.weights().list(), "mtp.0.main_proj.weight").values));
}

TEST_CASE("sequences that a drafter cannot learn from are errors") {
  auto drafter = load(Simd({.threads = 1}));
  const auto message = [&](std::vector<std::int32_t> ids) -> std::string {
    const ds4::TrainingSequence sequence = ids;
    try {
      drafter.add_gradients({&sequence, 1}, {});
    } catch (const ds4::Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message({1, 2, 3, 4, 5, 6}) == "ds4: sequence 0: found 6 tokens, expected at least 7");
  CHECK(message({1, 2, 3, 4, 5, 6, 384}) ==
        "ds4: sequence 0, token 6: found id 384, expected 0 to 383");
  CHECK(message({1, 2, 3, 4, 5, 6, 7}).empty());
}
