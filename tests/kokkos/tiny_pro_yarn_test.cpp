// The Kokkos backend against the golden data of tiny_pro_yarn, on every space of the host.
#include <doctest/doctest.h>
#include <kokkos/spaces.hpp>

#include <ds4/models/tiny_pro_yarn_config.hpp>
#include <support/golden_model.hpp>

TEST_CASE_TEMPLATE("tiny_pro_yarn: golden logits and stages, in one pass, in chunks, as a batch", B,
                   DS4_HOST_BACKENDS) {
  ds4::test::GoldenCase<ds4::models::tiny_pro_yarn, B> setup(B({.exact = true}));
  SUBCASE("one pass") { check_one_pass(setup); }
  SUBCASE("chunks and single tokens") { check_chunks(setup); }
  SUBCASE("batch") { check_batch(setup); }
  SUBCASE("greedy") { check_greedy(setup); }
  SUBCASE("stages") { check_stages(setup); }
}
