// The SIMD backend against the golden data and the reference path, on every instruction set that
// this machine has, and with any number of threads.
//
// Tolerances: with float32 activations the two backends differ in the order of summation alone,
// up to 5e-6 of the logits' standard deviation; the golden data are the same distance away. With
// BF16 activations a product's inputs, and without them still the state's rows, are rounded to
// 2^-9, which random weights amplify. Bounds are two to three times what was measured: see
// docs/numerics.md.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/model.hpp>
#include <ds4/models/austen.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <ds4/text/tokenizer.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>

namespace {

using Sizes = std::vector<std::size_t>;

using ds4::test::check_close;
using ds4::test::Golden;
using ds4::test::standard_deviation;

template <class C>
struct Case {
  using Config = C;
  using Model = ds4::Model<C, ds4::Simd>;

  std::string folder = [] {
    std::string name(C::name);
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
  }();
  Golden golden{ds4::test::data_dir(folder) / "golden.safetensors"};
  std::vector<std::int32_t> ids = golden.indices("input_ids");

  Model load(const ds4::SimdOptions& options) const {
    return Model::load(ds4::test::data_dir(folder), ds4::Simd(options));
  }
};

using TinyFlash = Case<ds4::models::tiny_flash>;
using TinyProYarn = Case<ds4::models::tiny_pro_yarn>;
using Quant = Case<ds4::models::quant>;

template <class Model>
std::vector<float> feed(Model& model, std::span<const std::int32_t> ids,
                        std::span<const std::size_t> chunks) {
  std::vector<float> logits;
  auto state = model.new_state();
  for (const std::size_t chunk : chunks) {
    const auto rows = model.forward(state, ids.first(chunk));
    logits.insert(logits.end(), rows.flat().begin(), rows.flat().end());
    ids = ids.subspan(chunk);
  }
  return logits;
}

/// Whether these kernels multiply BF16, and so round activations to it. State rows are BF16 anyway.
bool rounds_activations(const ds4::simd::Kernels& kernels) {
  return kernels.layout_for(ds4::DType::bf16, false) == ds4::simd::Layout::bf16;
}

}  // namespace

TEST_CASE_TEMPLATE("simd: exact logits are the golden ones on every instruction set", Setup,
                   TinyFlash, TinyProYarn, Quant) {
  const Setup setup;
  const double deviation = standard_deviation(setup.golden.values("logits"));
  for (const ds4::simd::Kernels* kernels : ds4::simd::available_kernels()) {
    auto model = setup.load({.threads = 2, .exact = true, .kernels = kernels});
    auto state = model.new_state();
    const auto logits = model.forward(state, setup.ids);
    const double worst = check_close(std::string("logits, ") + kernels->name, logits.flat(),
                                     setup.golden.values("logits"), 1.2e-5 * deviation);
    MESSAGE(setup.folder << ", " << std::string(kernels->name) << ": largest error "
                         << worst / deviation << " standard deviations");
  }
}

TEST_CASE_TEMPLATE("simd: greedy continuation", Setup, TinyFlash, TinyProYarn, Quant) {
  const Setup setup;
  auto model = setup.load({.threads = 2, .exact = true});
  auto state = model.new_state();
  auto logits = model.prefill(state, setup.golden.indices("greedy_prompt_ids"));
  std::vector<std::int32_t> ids;
  while (ids.size() < 40) {
    ids.push_back(ds4::argmax(logits.flat()));
    logits = model.decode(state, ids.back());
  }
  CHECK(ids == setup.golden.indices("greedy_ids"));
}

TEST_CASE_TEMPLATE("simd: one result for any chunks, threads, neighbours and place of the weights",
                   Setup, TinyFlash, TinyProYarn, Quant) {
  const Setup setup;
  const std::array<std::size_t, 1> whole{300};
  const std::array<std::size_t, 5> chunks{5, 64, 1, 130, 100};
  const std::vector<std::size_t> singles(300, 1);
  for (const ds4::simd::Kernels* kernels : ds4::simd::available_kernels()) {
    for (const bool exact : {true, false}) {
      CAPTURE(kernels->name);
      CAPTURE(exact);
      auto model = setup.load({.threads = 1, .exact = exact, .kernels = kernels});
      const auto expected = feed(model, setup.ids, whole);
      CHECK(feed(model, setup.ids, chunks) == expected);
      CHECK(feed(model, setup.ids, singles) == expected);
      auto mapped =
          setup.load({.threads = 1, .exact = exact, .memory_budget = 0, .kernels = kernels});
      CHECK(feed(mapped, setup.ids, chunks) == expected);
      // Some weights in memory, and copies of some experts.
      for (const std::size_t budget : Sizes{20'000, 300'000, 500'000, 700'000}) {
        auto partly = setup.load({.threads = 2,
                                  .adapts = false,
                                  .exact = exact,
                                  .memory_budget = budget,
                                  .kernels = kernels});
        CHECK(feed(partly, setup.ids, chunks) == expected);
        CHECK(feed(partly, setup.ids, singles) == expected);
      }
      for (const std::size_t threads : Sizes{2, 5}) {
        auto threaded =
            setup.load({.threads = threads, .adapts = false, .exact = exact, .kernels = kernels});
        CHECK(feed(threaded, setup.ids, chunks) == expected);
      }

      // A batch with another sequence in front.
      auto first = model.new_state();
      auto second = model.new_state();
      const std::span<const std::int32_t> ids = setup.ids;
      using Sequence = typename Setup::Model::Sequence;
      const std::array<Sequence, 2> batch{Sequence{&first, ids.subspan(7, 33)},
                                          Sequence{&second, ids}};
      const auto rows = model.forward(batch, ds4::LogitsOf::all);
      CHECK(std::ranges::equal(rows.view().rows(33, 300).flat(), expected));
    }
  }
}

TEST_CASE("simd: BF16 activations and rows stay close") {
  const Quant setup;
  const auto golden = setup.golden.values("logits");
  const double deviation = standard_deviation(golden);
  for (const ds4::simd::Kernels* kernels : ds4::simd::available_kernels()) {
    auto model = setup.load({.threads = 2, .kernels = kernels});
    auto state = model.new_state();
    const auto logits = model.forward(state, setup.ids);
    double sum = 0.0;
    for (std::size_t i = 0; i < golden.size(); ++i) {
      sum += std::abs(static_cast<double>(logits.flat()[i]) - static_cast<double>(golden[i]));
    }
    const double mean = sum / static_cast<double>(golden.size()) / deviation;
    CAPTURE(kernels->name);
    MESSAGE("quant, " << std::string(kernels->name) << ": mean error " << mean
                      << " standard deviations");
    CHECK(mean < (rounds_activations(*kernels) ? 0.014 : 0.004));
  }
}

TEST_CASE("simd: BF16 activations choose the same tokens of the held-out text") {
  // A trained model: its logits are sure enough that rounding seldom changes the largest one.
  using Model = ds4::Model<ds4::models::austen, ds4::Simd>;
  const std::string dir = ds4::test::models("/austen");
  const auto tokenizer = ds4::Tokenizer::load(dir);
  const std::vector<std::int32_t> ids =
      tokenizer.encode(ds4::test::content_of(ds4::test::data_dir("austen") / "heldout.txt"));
  constexpr std::size_t kWindow = 512;
  auto exact = Model::load(dir, ds4::Simd({.exact = true}));
  auto rounded = Model::load(dir);
  std::size_t tokens = 0;
  std::size_t agree = 0;
  double largest = 0.0;
  double sum = 0.0;
  double deviations = 0.0;  // of the logits, summed over windows
  std::size_t windows = 0;
  for (std::size_t begin = 0; begin + kWindow <= ids.size(); begin += kWindow, ++windows) {
    const auto window = std::span(ids).subspan(begin, kWindow);
    auto exact_state = exact.new_state();
    auto rounded_state = rounded.new_state();
    const auto expected = exact.forward(exact_state, window);
    const auto got = rounded.forward(rounded_state, window);
    deviations += standard_deviation(expected.flat());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double error =
          std::abs(static_cast<double>(expected.flat()[i]) - static_cast<double>(got.flat()[i]));
      largest = std::max(largest, error);
      sum += error;
    }
    for (std::size_t t = 0; t < kWindow; ++t, ++tokens) {
      agree += ds4::argmax(expected[t].flat()) == ds4::argmax(got[t].flat());
    }
  }
  const double deviation = deviations / static_cast<double>(windows);
  const double mean = sum / static_cast<double>(tokens * Model::V) / deviation;
  const double share = static_cast<double>(agree) / static_cast<double>(tokens);
  MESSAGE(tokens << " tokens: " << 100.0 * share << " % equal top-1, mean error " << mean
                 << ", largest " << largest / deviation << " standard deviations");
  CHECK(tokens > 50'000);
  const bool rounds = rounds_activations(rounded.backend().kernels());
  CHECK(share > (rounds ? 0.985 : 0.99));
  CHECK(mean < (rounds ? 0.008 : 0.005));
  // Where rounding changes an expert or a picked entry.
  CHECK(largest < (rounds ? 3.0 : 2.5) * deviation);
}

TEST_CASE("simd: forks of a state continue independently") {
  const TinyFlash setup;
  const std::span<const std::int32_t> ids = setup.ids;
  auto model = setup.load({.threads = 2});
  const std::array<std::size_t, 1> whole{300};
  const auto expected = feed(model, ids, whole);
  auto state = model.new_state();
  model.prefill(state, ids.first(130));
  auto fork = state;  // shares blocks until one of the two writes
  for (std::size_t i = 0; i < 40; ++i) model.decode(fork, ids[200 + i]);
  const auto logits = model.decode(state, ids[130]);
  CHECK(std::ranges::equal(logits.flat(),
                           std::span(expected).subspan(130 * logits.size(), logits.size())));
}
