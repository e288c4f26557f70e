// The Kokkos backend against the golden data of DSpark, on every space of the host.
#include <vector>

#include <doctest/doctest.h>
#include <kokkos/models.hpp>

#include <ds4/models/dspark_config.hpp>
#include <support/drafts.hpp>
#include <support/dspark.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

TEST_CASE_TEMPLATE("dspark: golden drafts, and no trace of them", B, DS4_HOST_BACKENDS) {
  using Model = ds4::Model<ds4::models::dspark, B>;
  Model model = Model::load(ds4::test::data_dir("dspark"), B({.exact = true}));
  const ds4::test::Golden golden(ds4::test::data_dir("dspark") / "golden.safetensors");
  SUBCASE("behind one pass") { ds4::test::check_golden_blocks(model, golden, {200}); }
  SUBCASE("behind chunks") { ds4::test::check_golden_blocks(model, golden, {5, 64, 1, 13}); }
  SUBCASE("states") { ds4::test::check_no_trace_of_drafts(model, 600); }
}
