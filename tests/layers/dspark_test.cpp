// DSpark: golden drafts, and states that drafts leave no trace in.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/config/config.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/dspark.hpp>
#include <support/drafts.hpp>
#include <support/dspark.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::draft_block;
using ds4::test::drafting_state;
using ds4::test::DsparkDraft;
using ds4::test::error_text;
using ds4::test::Golden;

using Dspark = ds4::Model<ds4::models::dspark>;
using DsparkSimd = ds4::Model<ds4::models::dspark, ds4::Simd>;
constexpr std::size_t kBlock = ds4::models::dspark::dspark_block_size;

// One thread where there are several: tests run beside each other.
template <class M>
M load(bool exact) {
  if constexpr (std::is_same_v<M, DsparkSimd>) {
    return M::load(ds4::test::data_dir("dspark"), ds4::Simd({.threads = 1, .exact = exact}));
  } else {
    return ds4::test::model_of<M>();
  }
}

Golden golden_dspark() { return Golden(ds4::test::data_dir("dspark") / "golden.safetensors"); }

}  // namespace

TEST_CASE_TEMPLATE("dspark: golden drafts behind one pass, chunks, and single tokens", M, Dspark,
                   DsparkSimd) {
  M model = load<M>(true);
  CHECK(model.drafter() == ds4::DrafterKind::dspark);
  CHECK(model.longest_draft() == kBlock);
  const Golden golden = golden_dspark();
  for (const std::vector<std::size_t>& sizes :
       std::vector<std::vector<std::size_t>>{{200}, {5, 64, 1, 13}, {1}}) {
    ds4::test::check_golden_blocks(model, golden, sizes);
  }
}

TEST_CASE_TEMPLATE("dspark: along given tokens, and after accepted ones", M, Dspark, DsparkSimd) {
  M model = load<M>(true);
  const Golden golden = golden_dspark();
  const std::vector<std::int32_t> ids = golden.indices("input_ids");
  const std::span<const std::int32_t> all = ids;
  auto state = drafting_state(model, 8);
  model.prefill(state, all.first(32));
  const std::vector<std::int32_t> along = golden.indices("chain.tokens");
  const DsparkDraft chain = draft_block(model, state, ids[32], along);
  ds4::test::check_golden_draft(golden, "chain", chain);
  CHECK(chain.ids == along);
  std::vector<std::int32_t> pass{ids[32]};
  pass.insert(pass.end(), along.begin(), along.end());
  const auto verified = model.forward(state, pass);
  ds4::test::check_close("chain.verify_logits", verified.flat(),
                         golden.values("chain.verify_logits"), ds4::test::kDsparkTolerance);

  // Behind 20 tokens: the block, the pass that verifies it, the tokens that were not accepted taken
  // back, the next block.
  for (const std::size_t accepted : {0, 2, 5}) {
    CAPTURE(accepted);
    auto draft_state = drafting_state(model, 8);
    model.prefill(draft_state, all.first(20));
    const DsparkDraft first = draft_block(model, draft_state, ids[20]);
    std::vector<std::int32_t> tokens{ids[20]};
    tokens.insert(tokens.end(), first.ids.begin(), first.ids.end());
    model.forward(draft_state, tokens);
    draft_state.rollback(kBlock - accepted);
    const std::string name = "after." + std::to_string(accepted);
    const DsparkDraft next = draft_block(model, draft_state, golden.indices(name + ".anchor")[0]);
    ds4::test::check_golden_draft(golden, name, next);
    CHECK(next.ids == golden.indices(name + ".ids"));
  }
}

TEST_CASE_TEMPLATE("dspark: no trace of drafts, in two sequences and odd passes", M, Dspark,
                   DsparkSimd) {
  M model = load<M>(false);
  ds4::test::check_no_trace_of_drafts(model, std::is_same_v<M, DsparkSimd> ? 2000 : 600);
}

TEST_CASE_TEMPLATE("dspark: a draft changes nothing, and follows from what a state has kept", M,
                   Dspark, DsparkSimd) {
  M model = load<M>(false);
  ds4::test::check_drafting_states(model);
}

TEST_CASE("dspark: each misreading of the specification is far outside of the tolerance") {
  // What golden.json measured for an independent program with one of them each.
  std::ifstream file(ds4::test::data_dir("dspark") / "golden.json");
  const auto golden = nlohmann::json::parse(file);
  std::size_t seen = 0;
  for (const auto& [name, misreading] : golden.at("misreadings").items()) {
    double largest = 0.0;
    for (const auto& [position, difference] : misreading.at("max_abs_difference").items()) {
      largest = std::max(largest, difference.get<double>());
    }
    CAPTURE(name);
    CHECK(largest > 100 * ds4::test::kDsparkTolerance);
    ++seen;
  }
  CHECK(seen == 16);
}

TEST_CASE("dspark: a whole batch drafts as each sequence alone") {
  Dspark model = load<Dspark>(false);
  const Golden golden = golden_dspark();
  const std::vector<std::int32_t> ids = golden.indices("input_ids");
  const std::span<const std::int32_t> all = ids;
  std::vector<Dspark::State> states;
  std::vector<std::size_t> lengths{3, 40, 17, 1};
  for (const std::size_t length : lengths) {
    states.push_back(drafting_state(model, 8));
    model.prefill(states.back(), all.first(length));
  }
  std::vector<Dspark::DraftRequest> batch;
  std::vector<std::vector<std::int32_t>> alone;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    auto fork = states[i].fork();
    alone.push_back(draft_block(model, fork, ids[lengths[i]]).ids);
    batch.push_back({&states[i], ids[lengths[i]], i == 2 ? 2 : kBlock});
  }
  alone[2].resize(2);
  std::vector<std::size_t> asked(lengths.size());
  alone[1].resize(3);
  const auto drafted = model.draft(
      std::span<const Dspark::DraftRequest>(batch),
      [](std::size_t, std::span<const float> logits) { return ds4::argmax(logits); },
      [&](std::size_t i, float) { return ++asked[i] <= (i == 1 ? 3U : kBlock); });
  CHECK(drafted == alone);
  CHECK(asked == std::vector<std::size_t>{5, 4, 2, 5});
}

TEST_CASE("dspark: what cannot be drafted") {
  Dspark model = load<Dspark>(false);
  auto state = drafting_state(model, 4);
  const auto first = [](std::span<const float> logits) { return ds4::argmax(logits); };
  CHECK(model.draft(state, 1, 3, first).empty());  // no token has been taken in
  model.prefill(state, ds4::test::random_ids(10, 31));
  CHECK(error_text([&] { model.draft(state, 384, 1, first); }) ==
        "ds4: token: found id 384, expected 0 to 383");
  CHECK(error_text([&] { model.draft(state, 1, 2, [](auto) { return 600; }); }) ==
        "ds4: draft 1: found id 600, expected 0 to 383");
  CHECK(state.drafts.dspark.targets.end() == 10);
  CHECK(state.drafts.dspark.windows[0].window.end() == 10);
  CHECK(model.draft(state, 1, 0, first).empty());
  CHECK(model.draft(state, 1, 50, first).size() == kBlock);
  CHECK(error_text([&] { model.mtp_logits(state); }) ==
        "ds4: draft: expected a checkpoint with a multi-token-prediction layer, found dspark");
}
