// A model whose sizes are multiples of nothing, on both backends: see tests/data/odd/NOTE.txt.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/synth.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/models/odd.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using Sizes = std::vector<std::size_t>;

// 2e-5 of a standard deviation: float32 in another order of summation, as in the other models.
template <class B>
void check_golden(const B& backend, const std::filesystem::path& dir) {
  const ds4::test::Golden golden(ds4::test::data_dir("odd") / "golden.safetensors");
  const auto ids = golden.indices("input_ids");
  const double tolerance = 2e-5 * ds4::test::standard_deviation(golden.values("logits"));
  auto model = ds4::Model<ds4::models::odd, B>::load(dir, backend);
  for (const std::vector<std::size_t>& chunks :
       {std::vector<std::size_t>{200}, std::vector<std::size_t>{3, 60, 1, 100, 36}}) {
    std::vector<float> logits;
    auto state = model.new_state();
    std::span<const std::int32_t> rest = ids;
    for (const std::size_t chunk : chunks) {
      const auto rows = model.forward(state, rest.first(chunk));
      logits.insert(logits.end(), rows.flat().begin(), rows.flat().end());
      rest = rest.subspan(chunk);
    }
    ds4::test::check_close("logits", std::span<const float>(logits), golden.values("logits"),
                           tolerance);
  }
}

}  // namespace

constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

TEST_CASE("odd shapes: both backends give the golden logits") {
  const ds4::test::TempDir dir;
  ds4::synthesise(ds4::read_config(ds4::test::data_dir("odd") / "config.json"),
                  ds4::StorageFormat::f32, 3, dir.path());
  check_golden(ds4::Reference<float>{}, dir.path());
  for (const ds4::simd::Kernels* kernels : ds4::simd::available_kernels()) {
    for (const bool resident : {false, true}) {
      for (const std::size_t threads : Sizes{1, 2, 3}) {
        check_golden(ds4::Simd({.threads = threads,
                                .adapts = false,
                                .memory_budget = resident ? kAll : 0,
                                .kernels = kernels}),
                     dir.path());
      }
    }
  }
}
