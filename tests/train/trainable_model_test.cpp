// Tests of ds4/train/trainable_model.hpp: losses and gradients of whole models.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/weight_names.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <ds4/models/odd_config.hpp>
#include <ds4/models/tiny_flash_config.hpp>
#include <ds4/models/tiny_pro_yarn_config.hpp>
#include <ds4/train/initialise.hpp>
#include <ds4/train/trainable_model.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/gradients.hpp>

namespace {

using ds4::test::Golden;
using ds4::test::gradients_of;
using ds4::test::is_within;
using Flash = ds4::models::tiny_flash;

/// The checkpoint of a test configuration, or random weights where there is none.
template <class Model, class K>
Model test_model(K kernels) {
  std::string name(Model::Config::name);
  std::ranges::replace(name, '_', '-');
  const auto folder = ds4::test::data_dir(name);
  if (std::filesystem::exists(folder / "model.safetensors")) return Model::load(folder, kernels);
  Model model(kernels);
  ds4::initialise(model.weights(), 1, 0.2);
  return model;
}

/// The golden batch of tiny-flash: two sequences of 150 tokens.
struct Batch {
  std::vector<std::int32_t> ids =
      Golden(ds4::test::data_dir("tiny-flash") / "golden.safetensors").indices("batch_input_ids");
  std::vector<ds4::TrainingSequence> sequences{std::span(ids).first(150), std::span(ids).last(150)};
  static constexpr double kPredictions = 298.0;
};

/// Everything that a pass adds to the gradients, but the indexer's own loss.
ds4::PassOptions all_losses() {
  ds4::PassOptions options;
  options.prediction_weight = 0.01;
  options.mtp_weight = 0.003;
  options.balance_weight = 0.5;
  return options;
}

double total(const ds4::PassLosses& losses, const ds4::PassOptions& options) {
  return options.prediction_weight * losses.cross_entropy + options.mtp_weight * losses.mtp +
         options.balance_weight * losses.balance;
}

}  // namespace

TEST_CASE_TEMPLATE("the golden loss and gradients", K, ds4::ReferenceTraining<float>,
                   ds4::ReferenceTraining<double>, ds4::SimdTraining) {
  const auto folder = ds4::test::data_dir("tiny-flash");
  const Golden golden(folder / "train.safetensors");
  auto model = ds4::TrainableModel<Flash, K>::load(folder);
  const Batch batch;
  ds4::PassOptions options;
  options.prediction_weight = 1.0 / Batch::kPredictions;
  const auto losses = model.add_gradients(batch.sequences, options);
  CHECK(losses.predictions == 298);
  CHECK(std::abs(losses.cross_entropy / Batch::kPredictions - golden.values("loss")[0]) < 1e-6);

  std::size_t compared = 0;
  for (const auto& tensor : golden.tensors()) {
    if (!tensor.name.starts_with("grad.")) continue;
    const std::string name = ds4::canonical_name(tensor.name.substr(5));
    const auto weights = model.weights().list();
    const auto weight = std::ranges::find(weights, name, [](const auto& w) { return w.name; });
    CAPTURE(name);
    REQUIRE(weight != weights.end());
    // The golden gradients are of float32 arithmetic.
    CHECK(is_within(1e-4, std::span<const typename K::Scalar>(weight->gradient),
                    golden.values(tensor.name)));
    ++compared;
  }
  CHECK(compared == 334);
}

TEST_CASE_TEMPLATE("SIMD kernels give the reference's gradients, whatever the threads", C, Flash,
                   ds4::models::tiny_pro_yarn, ds4::models::odd) {
  // Tokens at which no choice of experts or entries is so close that float32 decides it otherwise:
  // with others the float32 reference differs from float64 as well.
  std::mt19937 generator(C::name == "odd" ? 18 : 11);
  std::vector<std::vector<std::int32_t>> ids{std::vector<std::int32_t>(140),
                                             std::vector<std::int32_t>(37)};
  for (auto& list : ids) {
    for (auto& id : list) id = static_cast<std::int32_t>(generator() % C::vocab_size);
  }
  const std::vector<ds4::TrainingSequence> sequences(ids.begin(), ids.end());
  ds4::PassOptions options = all_losses();
  options.indexer_weight = 0.01;
  using Reference = ds4::ReferenceTraining<double>;
  using Simd = ds4::SimdTraining;
  auto reference = test_model<ds4::TrainableModel<C, Reference>>(Reference());
  const auto expected_losses = reference.add_gradients(sequences, options);
  const auto expected = gradients_of(reference);
  for (const auto* kernels : ds4::simd::available_training_kernels()) {
    CAPTURE(std::string(kernels->name));
    auto model = test_model<ds4::TrainableModel<C, Simd>>(Simd({.threads = 1, .kernels = kernels}));
    const auto losses = model.add_gradients(sequences, options);
    CHECK(losses.cross_entropy == doctest::Approx(expected_losses.cross_entropy).epsilon(1e-6));
    CHECK(losses.mtp == doctest::Approx(expected_losses.mtp).epsilon(1e-6));
    CHECK(losses.balance == doctest::Approx(expected_losses.balance).epsilon(1e-5));
    CHECK(losses.indexer == doctest::Approx(expected_losses.indexer).epsilon(1e-4));
    const auto found = gradients_of(model);
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(model.weights().list()[i].name);
      const std::vector<float> wanted(expected[i].begin(), expected[i].end());
      CHECK(is_within(1e-4, std::span<const float>(found[i]), std::span<const float>(wanted)));
    }
    auto threads =
        test_model<ds4::TrainableModel<C, Simd>>(Simd({.threads = 2, .kernels = kernels}));
    options.recompute = ds4::Recompute::pair;
    threads.add_gradients(sequences, options);
    options.recompute = ds4::Recompute::none;
    CHECK(gradients_of(threads) == found);
  }
}

TEST_CASE("weights are read from tensors at any address") {
  using Model = ds4::TrainableModel<Flash, ds4::ReferenceTraining<float>>;
  const ds4::test::CheckpointCopy copy("tiny-flash");
  const auto model = Model::load(ds4::test::data_dir("tiny-flash"));
  for (std::size_t offset = 1; offset < 8; ++offset) {
    const ds4::test::TempDir dir;
    copy.write_unaligned(dir, offset);
    const auto other = Model::load(dir.path());
    const auto list = other.weights().list();
    for (std::size_t i = 0; i < list.size(); ++i) {
      CHECK(std::ranges::equal(list[i].values, model.weights().list()[i].values));
    }
    for (std::size_t i = 0; i < other.weights().tables().size(); ++i) {
      CHECK(
          std::ranges::equal(other.weights().tables()[i].picks, model.weights().tables()[i].picks));
    }
  }
}

TEST_CASE("what is recomputed is the same, bit for bit") {
  auto model = ds4::TrainableModel<Flash, ds4::ReferenceTraining<float>>::load(
      ds4::test::data_dir("tiny-flash"));
  const Batch batch;
  ds4::PassOptions options = all_losses();
  options.indexer_weight = 0.01;
  const auto kept = model.add_gradients(batch.sequences, options);
  const auto expected = gradients_of(model);
  const std::size_t peak = model.tape().peak_bytes();
  for (const auto recompute : {ds4::Recompute::layer, ds4::Recompute::pair}) {
    auto other = ds4::TrainableModel<Flash, ds4::ReferenceTraining<float>>::load(
        ds4::test::data_dir("tiny-flash"));
    options.recompute = recompute;
    const auto again = other.add_gradients(batch.sequences, options);
    CHECK(again.cross_entropy == kept.cross_entropy);
    CHECK(again.mtp == kept.mtp);
    CHECK(again.balance == kept.balance);
    CHECK(again.indexer == kept.indexer);
    CHECK(gradients_of(other) == expected);
    CHECK(other.tape().peak_bytes() < peak);
  }
}

TEST_CASE("gradients are added up over passes, and losses alone are the same") {
  auto model = ds4::TrainableModel<Flash, ds4::ReferenceTraining<double>>::load(
      ds4::test::data_dir("tiny-flash"));
  const Batch batch;
  const ds4::PassOptions options = all_losses();
  ds4::PassLosses one_by_one;
  for (const auto& sequence : batch.sequences) {
    one_by_one += model.add_gradients({&sequence, 1}, options);
  }
  const auto added = gradients_of(model);
  model.zero_gradients();
  const auto together = model.add_gradients(batch.sequences, options);
  const auto alone = model.losses(batch.sequences, options);
  CHECK(alone.cross_entropy == together.cross_entropy);
  CHECK(alone.mtp == together.mtp);
  CHECK(one_by_one.predictions == together.predictions);
  CHECK(std::abs(one_by_one.cross_entropy - together.cross_entropy) < 1e-9);
  const auto expected = gradients_of(model);
  for (std::size_t i = 0; i < added.size(); ++i) {
    for (std::size_t j = 0; j < added[i].size(); ++j) {
      REQUIRE(std::abs(added[i][j] - expected[i][j]) < 1e-12);
    }
  }
}

TEST_CASE("every weight's gradient is the slope of the loss along a random direction") {
  auto model = ds4::TrainableModel<Flash, ds4::ReferenceTraining<double>>::load(
      ds4::test::data_dir("tiny-flash"));
  const Batch batch;
  const std::vector<ds4::TrainingSequence> sequences{batch.sequences[0].first(90),
                                                     batch.sequences[1].first(41)};
  const auto check = [&](const ds4::PassOptions& options, auto&& loss, auto&& wanted) {
    model.zero_gradients();
    model.add_gradients(sequences, options);
    return ds4::test::check_slopes(model, loss, wanted);
  };
  const auto is_indexer = [](const auto& weight) {
    return weight.name.find(".indexer.") != std::string::npos;
  };
  // One weight of each name, in a layer of each kind, and all outside of the layers.
  const auto is_sampled = [](const auto& weight) {
    for (const char* prefix : {"layers.1.", "layers.4.", "layers.6."}) {
      if (weight.name.starts_with(prefix)) return false;
    }
    for (const char* expert : {".experts.1.", ".experts.2.", ".experts.3."}) {
      if (weight.name.find(expert) != std::string::npos) return false;
    }
    return true;
  };
  ds4::PassOptions options = all_losses();
  options.balance_weight = 0.0;  // which only passes with gradients make
  CHECK(check(
            options, [&] { return total(model.losses(sequences, options), options); },
            [&](const auto& weight) {
              return weight.rule != ds4::UpdateRule::load && !is_indexer(weight) &&
                     is_sampled(weight);
            }) > 100);

  ds4::PassOptions balance;
  balance.prediction_weight = 0.0;
  balance.balance_weight = 1.0;
  CHECK(check(
            balance, [&] { return model.add_gradients(sequences, balance).balance; },
            [&](const auto& weight) { return weight.name.ends_with("gate.weight"); }) > 5);

  // The indexer's weights have the gradient of their own loss, and of no other.
  ds4::PassOptions own;
  own.prediction_weight = 0.0;
  own.indexer_weight = 1.0;
  CHECK(check(own, [&] { return model.add_gradients(sequences, own).indexer; }, is_indexer) == 18);
  for (const auto& weight : model.weights().list()) {
    if (is_indexer(weight) || weight.rule == ds4::UpdateRule::load) continue;
    CAPTURE(weight.name);
    REQUIRE(std::ranges::all_of(weight.gradient, [](double g) { return g == 0.0; }));
  }
}

TEST_CASE("sequences that cannot be learned from are errors") {
  auto model = ds4::TrainableModel<Flash, ds4::ReferenceTraining<float>>::load(
      ds4::test::data_dir("tiny-flash"));
  const auto message = [&](std::vector<std::int32_t> ids) -> std::string {
    const ds4::TrainingSequence sequence = ids;
    try {
      model.add_gradients({&sequence, 1}, {});
    } catch (const ds4::Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message({1}) == "ds4: sequence 0: found 1 tokens, expected at least 2");
  CHECK(message({1, 256}) == "ds4: sequence 0, token 1: found id 256, expected 0 to 255");
  CHECK(message({1, -1}) == "ds4: sequence 0, token 1: found id -1, expected 0 to 255");
  CHECK(message(std::vector<std::int32_t>(Flash::max_position_embeddings + 2)) ==
        "ds4: sequence 0: found " + std::to_string(Flash::max_position_embeddings + 2) +
            " tokens, expected at most max_position_embeddings + 1 = " +
            std::to_string(Flash::max_position_embeddings + 1));
  CHECK(message({1, 2}).empty());  // and the model can still be used
}
