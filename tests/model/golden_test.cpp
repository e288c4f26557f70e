// The whole model on the reference path against the reference implementation's logits and
// intermediate results.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <doctest/doctest.h>

#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <support/golden_model.hpp>

namespace {

using ds4::test::check_close;
using ds4::test::GoldenCase;

using TinyFlash = GoldenCase<ds4::models::tiny_flash, ds4::Reference<float>>;
using TinyProYarn = GoldenCase<ds4::models::tiny_pro_yarn, ds4::Reference<float>>;
using Quant = GoldenCase<ds4::models::quant, ds4::Reference<float>>;
using TinyFlashDouble = GoldenCase<ds4::models::tiny_flash, ds4::Reference<double>>;

}  // namespace

TEST_CASE_TEMPLATE("logits of one pass are the golden logits", Setup, TinyFlash, TinyProYarn, Quant,
                   TinyFlashDouble) {
  Setup setup;
  check_one_pass(setup);
}

TEST_CASE_TEMPLATE("chunks and single tokens give the golden logits", Setup, TinyFlash, TinyProYarn,
                   Quant) {
  Setup setup;
  check_chunks(setup);
}

TEST_CASE_TEMPLATE("sequences of a batch do not see each other", Setup, TinyFlash, TinyProYarn,
                   Quant) {
  Setup setup;
  check_batch(setup);
}

TEST_CASE_TEMPLATE("greedy continuation", Setup, TinyFlash, TinyProYarn, Quant) {
  Setup setup;
  check_greedy(setup);
}

TEST_CASE_TEMPLATE("every stage is the golden one", Setup, TinyFlash, TinyProYarn, Quant,
                   TinyFlashDouble) {
  Setup setup;
  check_stages(setup);
}

TEST_CASE("a copied state continues independently") {
  TinyFlash setup;
  const std::span<const std::int32_t> ids = setup.ids;
  auto state = setup.model.new_state();
  setup.model.prefill(state, ids.first(130));
  auto copy = state;
  const auto changed = setup.model.decode(copy, ids[131]);  // another token than the original's
  const auto logits = setup.model.decode(state, ids[130]);
  const auto golden = setup.golden.values("logits");
  check_close("original", logits.flat(), golden.subspan(130 * logits.size(), logits.size()),
              setup.tolerance);
  CHECK_FALSE(std::ranges::equal(changed.flat(), logits.flat()));
}
