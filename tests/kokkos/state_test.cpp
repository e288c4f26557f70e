// States and models of the Kokkos backend as values: forks, rollback, serialisation, what a
// profiler sees, and errors.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <kokkos/models.hpp>

#include <ds4/checkpoint/synth.hpp>
#include <ds4/model.hpp>
#include <ds4/models/odd_config.hpp>
#include <support/compare.hpp>
#include <support/drafts.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/row_types.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::data_dir;
using ds4::test::random_ids;
using Sizes = std::vector<std::size_t>;

template <class B>
using Quant = ds4::Model<ds4::models::quant, B>;

}  // namespace

TEST_CASE_TEMPLATE("kokkos: a model whose sizes are multiples of nothing", B, DS4_HOST_BACKENDS) {
  const ds4::test::TempDir dir;
  ds4::synthesise(ds4::read_config(data_dir("odd") / "config.json"), ds4::StorageFormat::f32, 3,
                  dir.path());
  const ds4::test::Golden golden(data_dir("odd") / "golden.safetensors");
  const auto ids = golden.indices("input_ids");
  // As for the other backends: float32 in another order of summation.
  const double tolerance = 2e-5 * ds4::test::standard_deviation(golden.values("logits"));
  for (const std::size_t team : Sizes{1, B().threads() >= 2 ? std::size_t{2} : 1}) {
    auto model = ds4::Model<ds4::models::odd, B>::load(dir.path(), B({.host_team = team}));
    for (const Sizes& chunks : {Sizes{200}, Sizes{3, 60, 1, 100, 36}}) {
      auto state = model.new_state();
      const auto logits = ds4::test::feed(model, state, ids, chunks);
      ds4::test::check_close("logits", std::span<const float>(logits), golden.values("logits"),
                             tolerance);
    }
  }
}

TEST_CASE_TEMPLATE("kokkos: forks go their own ways, and what is rolled back leaves no trace", B,
                   DS4_HOST_BACKENDS) {
  // Rows of BF16, as the weights are stored in less than float32.
  auto model = Quant<B>::load(data_dir("quant"));
  const auto ids = random_ids(400, 1);
  const auto others = random_ids(40, 2);
  const std::span<const std::int32_t> all = ids;
  auto straight = model.new_state();
  const auto expected = ds4::test::feed(model, straight, all, {1});
  const auto rows_of = [&](std::size_t first, std::size_t count) {
    const std::size_t V = Quant<B>::V;
    return std::vector<float>(expected.begin() + static_cast<std::ptrdiff_t>(first * V),
                              expected.begin() + static_cast<std::ptrdiff_t>((first + count) * V));
  };
  for (const std::size_t edge : Sizes{3, 4, 127, 128, 129, 255, 256, 257}) {
    CAPTURE(edge);
    auto state = model.new_state();
    model.prefill(state, all.first(edge));
    auto fork = state;
    ds4::test::feed(model, fork, others, {7});
    for (const std::size_t drafted : Sizes{1, 4, 40}) {
      ds4::test::feed(model, state, std::span(others).first(drafted), {drafted});
      state.rollback(drafted);
    }
    CHECK(ds4::test::feed(model, state, all.subspan(edge, 9), {4, 5}) == rows_of(edge, 9));
    fork.rollback(others.size());
    CHECK(ds4::test::feed(model, fork, all.subspan(edge, 9), {9}) == rows_of(edge, 9));
  }
}

TEST_CASE_TEMPLATE("kokkos: drafts leave no trace, of two sequences and in odd passes", B,
                   DS4_HOST_BACKENDS) {
  auto model = Quant<B>::load(data_dir("quant"));
  ds4::test::check_no_trace_of_drafts(model, 600);
}

TEST_CASE_TEMPLATE("kokkos: a state that was written and read continues bit for bit", B,
                   DS4_HOST_BACKENDS) {
  auto model = Quant<B>::load(data_dir("quant"));
  const auto ids = random_ids(300, 3);
  const std::span<const std::int32_t> all = ids;
  auto state = model.new_state();
  model.prefill(state, all.first(261));
  std::stringstream stream;
  state.serialise(stream);
  auto restored = Quant<B>::State::deserialise(stream);
  CHECK(restored.position() == 261);
  CHECK(ds4::test::feed(model, restored, all.subspan(261), {1}) ==
        ds4::test::feed(model, state, all.subspan(261), {1}));
}

TEST_CASE_TEMPLATE("kokkos: one type of rows, whichever model goes on with a state", B,
                   DS4_HOST_BACKENDS) {
  auto exact = Quant<B>::load(data_dir("quant"), B({.exact = true}));
  auto reduced = Quant<B>::load(data_dir("quant"));
  ds4::test::check_row_types(exact, reduced);
}

TEST_CASE_TEMPLATE("kokkos: rows of BF16 stay near those of float32", B, DS4_HOST_BACKENDS) {
  const auto ids = random_ids(200, 4);
  auto exact = Quant<B>::load(data_dir("quant"), B({.exact = true}));
  auto reduced = Quant<B>::load(data_dir("quant"));
  auto exact_state = exact.new_state();
  auto reduced_state = reduced.new_state();
  const auto expected = ds4::test::feed(exact, exact_state, ids, {50});
  const auto got = ds4::test::feed(reduced, reduced_state, ids, {50});
  CHECK(reduced_state.bytes() < exact_state.bytes());
  CHECK(got != expected);
  // Keys are rounded to 2^-9, which random weights amplify, and now and then another expert is
  // picked: 5 % of the logits' standard deviation bounds the error's.
  double squares = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
    squares += error * error;
  }
  const double deviation = std::sqrt(squares / static_cast<double>(got.size()));
  const double unit = ds4::test::standard_deviation(std::span<const float>(expected));
  CAPTURE(deviation / unit);
  CHECK(deviation < 0.05 * unit);
}

TEST_CASE_TEMPLATE("kokkos: launches have labels, and a token always takes as many", B,
                   DS4_HOST_BACKENDS) {
  auto model = Quant<B>::load(data_dir("quant"));
  auto& log = model.backend().launches();
  auto state = model.new_state();
  // A token that completes no window, behind contexts of more entries than the indexer picks.
  std::vector<std::size_t> counts;
  for (const std::size_t context : Sizes{41, 129, 257}) {
    state = model.new_state();
    model.prefill(state, random_ids(context, 5));
    log.clear();
    model.decode(state, 1);
    std::size_t launches = 0;
    for (const auto& count : log.counts()) {
      CHECK(count.label.starts_with("ds4::"));
      CHECK(count.cost.bytes > 0.0);
      launches += count.launches;
    }
    counts.push_back(launches);
  }
  CHECK(counts[0] > 0);
  CHECK(counts[0] == counts[1]);
  CHECK(counts[0] == counts[2]);
}

namespace {
std::vector<std::string>& regions() {
  static std::vector<std::string> names;
  return names;
}
}  // namespace

TEST_CASE_TEMPLATE("kokkos: a profiler sees every layer by name, in order", B, DS4_HOST_BACKENDS) {
  using C = ds4::models::quant;
  auto model = Quant<B>::load(data_dir("quant"));
  auto state = model.new_state();
  regions().clear();
  Kokkos::Tools::Experimental::set_push_region_callback(
      [](const char* name) { regions().emplace_back(name); });
  model.decode(state, 1);
  Kokkos::Tools::Experimental::set_push_region_callback(nullptr);

  std::vector<std::string> layers;
  std::ranges::copy_if(regions(), std::back_inserter(layers),
                       [](const std::string& name) { return name.starts_with("ds4::layers."); });
  REQUIRE(layers.size() == C::num_hidden_layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    CHECK(layers[i] == "ds4::layers." + std::to_string(i) + " " +
                           std::string(name_of(ds4::attention_kind<C>(C::compress_ratios[i]))) +
                           " " + std::string(name_of(ds4::router_kind<C>(i))));
  }
  for (const std::string_view part :
       {"ds4::attention", "ds4::compressor", "ds4::indexer", "ds4::moe", "ds4::hyper_connection"}) {
    CHECK(std::ranges::count(regions(), part) > 0);
  }
  CHECK(regions().back() == "ds4::head");
}

TEST_CASE_TEMPLATE("kokkos: weights that do not fit end in one line with the sizes", B,
                   DS4_HOST_BACKENDS) {
  B backend;
  const std::byte value{};
  const std::size_t rows = 1u << 30;
  const ds4::StoredMatrix matrix{&value,   nullptr,         rows,
                                 1u << 20, ds4::DType::f32, ds4::DType::f8_e8m0};
  backend.expect_weights(rows << 22, true);
  const doctest::String text = ds4::test::error_text([&] { backend.template bind<1, 1>(matrix); });
  CHECK(text == doctest::Contains("expected room for 4503599627370496 bytes in the memory of "));
  CHECK(text == doctest::Contains("found room for 0"));
}
