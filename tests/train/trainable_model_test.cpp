// Tests of ds4/train/trainable_model.hpp: losses and gradients of whole models.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/weight_names.hpp>
#include <ds4/kernels/reference/training.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/train/trainable_model.hpp>
#include <support/golden.hpp>

namespace {

using ds4::test::Golden;
using Flash = ds4::models::tiny_flash;

/// The golden batch of tiny-flash: two sequences of 150 tokens.
struct Batch {
  std::vector<std::int32_t> ids =
      Golden(ds4::test::data_dir("tiny-flash") / "golden.safetensors").indices("batch_input_ids");
  std::vector<ds4::TrainingSequence> sequences{std::span(ids).first(150), std::span(ids).last(150)};
  static constexpr double kPredictions = 298.0;
};

/// Whether two tensors differ by no more than `tolerance` of the norm of the second.
template <class T>
bool is_within(double tolerance, std::span<const T> found, std::span<const float> expected) {
  double distance = 0.0;
  double norm = 0.0;
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    distance += std::pow(static_cast<double>(found[i]) - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return distance <= tolerance * tolerance * norm;  // an expert without tokens has zeros
}

}  // namespace

TEST_CASE_TEMPLATE("the golden loss and gradients", K, ds4::ReferenceTraining<float>,
                   ds4::ReferenceTraining<double>) {
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
