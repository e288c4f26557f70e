// The Kokkos backend against the golden data of quant, on every space of the host.
#include <doctest/doctest.h>
#include <kokkos/models.hpp>

#include <support/drafts.hpp>
#include <support/golden_model.hpp>

DS4_HOST_MODELS(, ds4::models::quant)

TEST_CASE_TEMPLATE("quant: golden logits and stages, in one pass, in chunks, as a batch", B,
                   DS4_HOST_BACKENDS) {
  ds4::test::GoldenCase<ds4::models::quant, B> setup(B({.exact = true}));
  SUBCASE("one pass") { check_one_pass(setup); }
  SUBCASE("chunks and single tokens") { check_chunks(setup); }
  SUBCASE("batch") { check_batch(setup); }
  SUBCASE("greedy") { check_greedy(setup); }
  SUBCASE("stages") { check_stages(setup); }
  SUBCASE("the multi-token-prediction layer") { ds4::test::check_golden_mtp(setup.model); }
}
