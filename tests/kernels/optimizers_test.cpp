// Tests of ds4/kernels/adamw.hpp and muon.hpp. Golden weights after a step were computed in
// float32: 1e-4 of the largest change that a step makes bounds what rounding does in ten rounds.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>

namespace {

using ds4::test::Golden;

template <class T>
std::vector<T> copy_of(std::span<const float> values) {
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE_TEMPLATE("muon: the golden weights after one step from the golden gradients", T, float,
                   double) {
  const auto folder = ds4::test::data_dir("tiny-flash");
  const Golden golden(folder / "train.safetensors");
  const Golden model(folder / "model.safetensors");
  std::size_t compared = 0;
  for (const auto& tensor : golden.tensors()) {
    if (!tensor.name.starts_with("muon.")) continue;
    const std::string name = tensor.name.substr(5);
    CAPTURE(name);
    REQUIRE(tensor.shape.size() == 2);
    const auto before = model.values(name);
    auto weights = copy_of<T>(before);
    const auto gradient = copy_of<T>(golden.values("grad." + name));
    std::vector<T> momentum(weights.size());
    ds4::muon_step<T>({weights, gradient, momentum, tensor.shape[0], tensor.shape[1]});
    double change = 0.0;
    const auto expected = golden.values(tensor.name);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      change = std::max(change, std::abs(static_cast<double>(expected[i]) - before[i]));
    }
    ds4::test::check_close(name, std::span<const T>(weights), expected, 1e-4 * change);
    ds4::test::check_close(name + ", absolute", std::span<const T>(weights), expected, 1e-5);
    CHECK(std::ranges::equal(momentum, gradient));
    ++compared;
  }
  CHECK(compared == 4);
}

TEST_CASE("muon: an update is orthogonal, whatever the gradient's size and side") {
  for (const auto& [rows, cols] : {std::pair{6, 20}, std::pair{20, 6}, std::pair{7, 7}}) {
    CAPTURE(rows);
    const auto size = static_cast<std::size_t>(rows * cols);
    std::vector<double> gradient(size);
    for (std::size_t i = 0; i < size; ++i)
      gradient[i] = 1e-9 * std::sin(static_cast<double>(i * i));
    std::vector<double> weights(size);
    std::vector<double> momentum(size);
    const ds4::MuonOptions options{.learning_rate = 1.0, .weight_decay = 0.0, .scale = 1.0};
    ds4::muon_step<double>({weights, gradient, momentum, static_cast<std::size_t>(rows),
                            static_cast<std::size_t>(cols)},
                           options);
    const Eigen::Map<const ds4::detail::TrainMatrix<double>> w(weights.data(), rows, cols);
    const auto update = w / -std::sqrt(static_cast<double>(std::max(rows, cols)));
    const Eigen::MatrixXd square = rows <= cols ? Eigen::MatrixXd(update * update.transpose())
                                                : Eigen::MatrixXd(update.transpose() * update);
    const double off =
        (square - Eigen::MatrixXd::Identity(square.rows(), square.cols())).cwiseAbs().maxCoeff();
    CHECK(off < 0.05);  // the last rounds end within that of 1
  }
}

TEST_CASE("muon: momentum adds up, decay shrinks, no gradient moves nothing") {
  std::vector<double> weights{1.0, 2.0, 3.0, 4.0};
  std::vector<double> momentum(4);
  const std::vector<double> none(4);
  ds4::muon_step<double>({weights, none, momentum, 2, 2}, {.learning_rate = 0.5});
  CHECK(weights[3] == doctest::Approx(4.0 * 0.95));
  const std::vector<double> gradient{1.0, -2.0, 0.5, 3.0};
  ds4::muon_step<double>({weights, gradient, momentum, 2, 2});
  ds4::muon_step<double>({weights, gradient, momentum, 2, 2});
  CHECK(momentum[1] == doctest::Approx(-2.0 * 1.95));
}

TEST_CASE("adamw: steps by the formula, and their size") {
  const std::vector<std::vector<double>> gradients{
      {1.0, -1e-4, 0.0}, {0.5, 3.0, 0.0}, {-2.0, 1.0, 1e-12}};
  std::vector<double> weights{1.0, -2.0, 3.0};
  std::vector<double> mean(3);
  std::vector<double> mean_square(3);
  std::vector<double> expected = weights;
  for (std::size_t step = 1; step <= gradients.size(); ++step) {
    ds4::adamw_step<double>(weights, gradients[step - 1], mean, mean_square, step);
    for (std::size_t i = 0; i < 3; ++i) {
      // Means as explicit weighted sums over all gradients so far.
      double m = 0.0;
      double v = 0.0;
      for (std::size_t s = 1; s <= step; ++s) {
        const double g = gradients[s - 1][i];
        m += 0.1 * std::pow(0.9, static_cast<double>(step - s)) * g;
        v += 0.05 * std::pow(0.95, static_cast<double>(step - s)) * g * g;
      }
      m /= 1.0 - std::pow(0.9, static_cast<double>(step));
      v /= 1.0 - std::pow(0.95, static_cast<double>(step));
      expected[i] -= 1e-3 * 0.1 * expected[i];
      expected[i] -= 1e-3 * m / (std::sqrt(v) + 1e-8);
    }
    ds4::test::check_close("step " + std::to_string(step), std::span<const double>(weights),
                           std::span<const double>(expected), 1e-13);
  }
}
