// The program's model on --backend kokkos, as its verbs use it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <cli/launches.hpp>
#include <doctest/doctest.h>
#include <kokkos/models.hpp>

#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/runtime/kokkos.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>

TEST_CASE_TEMPLATE("kokkos: the program's model gives golden logits and counts its launches", B,
                   DS4_HOST_BACKENDS) {
  const ds4::CompiledModel compiled = ds4::compiled_model<ds4::models::tiny_flash, B>();
  CHECK(compiled.backend == "kokkos");
  const auto dir = ds4::test::data_dir("tiny-flash");
  const std::unique_ptr<ds4::AnyModel> model = compiled.load(dir, {.threads = 1});
  const ds4::test::Golden golden(dir / "golden.safetensors");
  const auto ids = golden.indices("input_ids");

  ds4::AnyState state = model->new_state();
  const ds4::AnyModel::Sequence sequence{&state, ids};
  const ds4::Logits logits = model->forward({&sequence, 1});
  ds4::test::check_close("logits", logits.values, golden.values("logits"),
                         1e-4 * ds4::test::standard_deviation(golden.values("logits")));

  model->take_launches();
  model->decode(state, 1);
  const auto launches = model->take_launches();
  REQUIRE_FALSE(launches.empty());
  CHECK(model->take_launches().empty());
  const ds4::cli::Json json = ds4::cli::launches_json(launches);
  std::size_t count = 0;
  for (const auto& kernel : json["kernels"].elements()) {
    count += kernel["launches"].count();
    // The roofline: a launch takes at least what its bytes and its operations take.
    CHECK(kernel["estimated_seconds"]["H100 SXM"].number() >= kernel["bytes"].number() / 3.35e12);
    CHECK(kernel["estimated_seconds"]["MI300X"].number() >= kernel["flops"].number() / 163.4e12);
  }
  CHECK(json["launches"].count() == count);
  // The head reads its whole matrix, [256, 64] in float32.
  const auto linear = std::ranges::find(launches, "ds4::linear", &ds4::Launches::label);
  REQUIRE(linear != launches.end());
  CHECK(linear->bytes > 256.0 * 64.0 * 4.0);
}
