// The Kokkos backend against the golden data of tiny_flash, on every space of the host.
#include <doctest/doctest.h>
#include <kokkos/models.hpp>

#include <ds4/inspect/check.hpp>
#include <support/golden_model.hpp>

DS4_HOST_MODELS(, ds4::models::tiny_flash)

TEST_CASE_TEMPLATE("tiny_flash: golden logits and stages, in one pass, in chunks, as a batch", B,
                   DS4_HOST_BACKENDS) {
  ds4::test::GoldenCase<ds4::models::tiny_flash, B> setup(B({.exact = true}));
  SUBCASE("one pass") { check_one_pass(setup); }
  SUBCASE("chunks and single tokens") { check_chunks(setup); }
  SUBCASE("batch") { check_batch(setup); }
  SUBCASE("greedy") { check_greedy(setup); }
  SUBCASE("stages") { check_stages(setup); }
  SUBCASE("check") {
    auto reference = ds4::Model<ds4::models::tiny_flash>::load(ds4::test::data_dir(setup.folder));
    CHECK(ds4::check_backend(setup.model, reference, setup.ids).passed());
  }
}
