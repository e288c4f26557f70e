// The multi-token-prediction layer: its golden logits and streams, drafts, and states that drafts
// leave no trace in.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/drafts.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::draft;
using ds4::test::drafting_state;
using ds4::test::error_text;
using ds4::test::model_of;
using ds4::test::model_on_one_thread;
using ds4::test::random_ids;

using Quant = ds4::Model<ds4::models::quant>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;

}  // namespace

TEST_CASE_TEMPLATE("mtp: golden logits and streams, in one pass, in chunks and token by token", M,
                   Quant, QuantSimd) {
  M model = model_on_one_thread<M>(true);
  ds4::test::check_golden_mtp(model);
}

TEST_CASE_TEMPLATE("mtp: no trace of drafts, in two sequences and odd passes", M, Quant,
                   QuantSimd) {
  M model = model_on_one_thread<M>(false);
  // All edges are within 600 tokens; the path that is slow goes no further.
  ds4::test::check_no_trace_of_drafts(model, std::is_same_v<M, QuantSimd> ? 2000 : 600);
}

TEST_CASE_TEMPLATE("mtp: a draft changes nothing but what the next one has to make up for", M,
                   Quant, QuantSimd) {
  M model = model_on_one_thread<M>(false);
  ds4::test::check_drafting_states(model);
}

TEST_CASE("mtp: what cannot be drafted") {
  Quant model = model_of<Quant>();
  auto state = drafting_state(model, 4);
  model.prefill(state, random_ids(10, 31));
  const auto first = [](std::span<const float> logits) { return ds4::argmax(logits); };
  CHECK(error_text([&] { model.draft(state, 512, 1, first); }) ==
        "ds4: token: found id 512, expected 0 to 511");
  CHECK(error_text([&] { model.draft(state, -1, 1, first); }) ==
        "ds4: token: found id -1, expected 0 to 511");
  CHECK(error_text([&] { model.draft(state, 1, 2, [](auto) { return 600; }); }) ==
        "ds4: draft 1: found id 600, expected 0 to 511");
  CHECK(state.drafts().mtp.streams.end() == 10);
  CHECK(draft(model, state, 1, 0).first.empty());

  auto without = model_of<ds4::Model<ds4::models::tiny_flash>>();
  auto plain = without.new_state();
  plain.keep_drafts();
  without.prefill(plain, random_ids(10, 32));
  CHECK(error_text([&] { without.draft(plain, 1, 1, first); }) ==
        "ds4: draft: expected a checkpoint with a drafter, mtp.*, found none");
  CHECK(error_text([&] { without.mtp_logits(plain); }) ==
        "ds4: draft: expected a checkpoint with a multi-token-prediction layer, found none");
}
