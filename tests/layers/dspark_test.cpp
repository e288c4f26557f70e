// DSpark: golden drafts, and states that drafts leave no trace in.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/config/config.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/drafting.hpp>
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

using ds4::test::BackendOf;
using ds4::test::draft_block;
using ds4::test::drafting_state;
using ds4::test::DsparkDraft;
using ds4::test::error_text;
using ds4::test::Golden;
using ds4::test::model_on_one_thread;

using Dspark = ds4::Model<ds4::models::dspark>;
using DsparkSimd = ds4::Model<ds4::models::dspark, ds4::Simd>;
constexpr std::size_t kBlock = ds4::models::dspark::dspark_block_size;

Golden golden_dspark() { return Golden(ds4::test::data_dir("dspark") / "golden.safetensors"); }

}  // namespace

TEST_CASE_TEMPLATE("dspark: golden drafts behind one pass, chunks, and single tokens", M, Dspark,
                   DsparkSimd) {
  M model = model_on_one_thread<M>(true);
  CHECK(model.drafter() == ds4::DrafterKind::dspark);
  CHECK(model.longest_draft() == kBlock);
  const Golden golden = golden_dspark();
  for (const std::vector<std::size_t>& sizes :
       std::vector<std::vector<std::size_t>>{{200}, {5, 64, 1, 13}, {1}}) {
    ds4::test::check_golden_blocks(model, golden, sizes);
  }
}

TEST_CASE_TEMPLATE("dspark: along given tokens, and after accepted ones", M, Dspark, DsparkSimd) {
  M model = model_on_one_thread<M>(true);
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
  for (const std::size_t accepted : {0U, 2U, 5U}) {
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

TEST_CASE_TEMPLATE("dspark: golden steps of greedy decoding, and its text without drafts", M,
                   Dspark, DsparkSimd) {
  M model = model_on_one_thread<M>(true);
  const Golden golden = golden_dspark();
  const std::vector<std::int32_t> expected = golden.indices("greedy.ids");
  const std::vector<std::int32_t> steps = golden.indices("greedy.steps");  // n, anchor, accepted
  const std::vector<std::int32_t> drafts = golden.indices("greedy.draft");
  const std::vector<std::int32_t> prompt = golden.indices("greedy.prompt");
  auto state = drafting_state(model, kBlock);
  std::int32_t anchor = ds4::argmax(model.prefill(state, prompt).flat());
  std::vector<std::int32_t> text{anchor};
  for (std::size_t i = 0; 3 * i < steps.size(); ++i) {
    CAPTURE(i);
    REQUIRE(state.position() == static_cast<std::size_t>(steps[3 * i]));
    REQUIRE(anchor == steps[3 * i + 1]);
    const DsparkDraft made = draft_block(model, state, anchor);
    CHECK(std::ranges::equal(made.ids, std::span(drafts).subspan(i * kBlock, kBlock)));
    std::vector<std::int32_t> pass{anchor};
    pass.insert(pass.end(), made.ids.begin(), made.ids.end());
    const auto logits = model.forward(state, pass);
    std::size_t accepted = 0;
    while (accepted < kBlock && ds4::argmax(logits[accepted].flat()) == made.ids[accepted]) {
      ++accepted;
    }
    CHECK(accepted == static_cast<std::size_t>(steps[3 * i + 2]));
    text.insert(text.end(), made.ids.begin(),
                made.ids.begin() + static_cast<std::ptrdiff_t>(accepted));
    anchor = ds4::argmax(logits[accepted].flat());
    text.push_back(anchor);
    state.rollback(kBlock - accepted);
    if (3 * (i + 1) == steps.size()) {
      ds4::test::check_close("greedy.draft_logits_last", std::span<const float>(made.logits),
                             golden.values("greedy.draft_logits_last"),
                             ds4::test::kDsparkTolerance);
    }
  }
  text.resize(std::min(text.size(), expected.size()));
  CHECK(text == expected);

  // Without drafts, and as decode_with_drafts() does it, alone and in a batch.
  auto plain = model.new_state();
  std::vector<std::int32_t> without{ds4::argmax(model.prefill(plain, prompt).flat())};
  while (without.size() < expected.size()) {
    without.push_back(ds4::argmax(model.decode(plain, without.back()).flat()));
  }
  CHECK(without == expected);
  for (const std::size_t beside : {0U, 2U}) {
    std::vector<typename M::State> states;
    std::vector<std::vector<std::int32_t>> texts;
    std::vector<ds4::Sampler> samplers(1 + beside, ds4::Sampler({.temperature = 0}));
    std::vector<ds4::DraftLength> lengths{ds4::DraftLength::fixed(kBlock)};
    lengths.resize(1 + beside, ds4::DraftLength::automatic());
    for (std::size_t i = 0; i <= beside; ++i) {
      states.push_back(drafting_state(model, kBlock));
      const std::span<const std::int32_t> all = prompt;
      texts.push_back({ds4::argmax(model.prefill(states.back(), all.subspan(i)).flat())});
    }
    while (texts[0].size() < expected.size()) {
      std::vector<ds4::DraftedSequence<typename M::Config, BackendOf<M>>> batch;
      for (std::size_t i = 0; i <= beside; ++i) {
        batch.push_back({&states[i], texts[i].back(), &samplers[i], &lengths[i]});
      }
      const auto chosen = ds4::decode_with_drafts(
          model, std::span<const typename decltype(batch)::value_type>(batch));
      for (std::size_t i = 0; i <= beside; ++i) {
        texts[i].insert(texts[i].end(), chosen[i].begin(), chosen[i].end());
      }
    }
    texts[0].resize(expected.size());
    CHECK(texts[0] == expected);
    CHECK(lengths[0].totals().accepted > 0);
    for (std::size_t i = 1; i <= beside; ++i) {
      auto alone = model.new_state();
      const std::span<const std::int32_t> all = prompt;
      std::int32_t id = ds4::argmax(model.prefill(alone, all.subspan(i)).flat());
      std::vector<std::int32_t> text_alone{id};
      while (text_alone.size() < texts[i].size()) {
        text_alone.push_back(id = ds4::argmax(model.decode(alone, id).flat()));
      }
      CHECK(texts[i] == text_alone);
    }
  }
}

TEST_CASE("dspark: tokens are accepted and drawn anew as often as golden says") {
  const Golden golden = golden_dspark();
  const auto verify = golden.values("chain.verify_logits");
  const auto logits = golden.values("chain.logits");
  const auto accept = golden.values("chain.accept_probability");
  const auto residual = golden.values("chain.residual");
  const std::vector<std::int32_t> tokens = golden.indices("chain.tokens");
  constexpr std::size_t V = Dspark::V;
  constexpr std::size_t kDraws = 20000;
  for (std::size_t i = 0; i < kBlock; ++i) {
    CAPTURE(i);
    ds4::Sampler sampler({.temperature = 1.0f, .seed = 100 + i});
    std::vector<double> q;
    sampler.draft(logits.subspan(i * V, V), q);
    std::vector<double> counts(V);
    std::size_t kept = 0;
    for (std::size_t n = 0; n < kDraws; ++n) {
      const std::int32_t id = sampler.judge(verify.subspan(i * V, V), tokens[i], q);
      // A token that is drawn anew is never the drafted one: its residual is 0.
      kept += id == tokens[i] ? 1 : 0;
      if (id != tokens[i]) counts[static_cast<std::size_t>(id)] += 1.0;
    }
    // Within 5 standard deviations of kDraws draws.
    const double p = accept[i];
    CHECK(std::abs(static_cast<double>(kept) / kDraws - p) <=
          5.0 * std::sqrt(p * (1.0 - p) / kDraws) + 1e-9);
    const double anew = static_cast<double>(kDraws - kept);
    for (std::size_t v = 0; anew > 0 && v < V; ++v) {
      const double r = residual[i * V + v];
      if (std::abs(counts[v] / anew - r) > 5.0 * std::sqrt(r * (1.0 - r) / anew) + 2.0 / anew) {
        CAPTURE(v);
        CHECK(counts[v] / anew == r);
      }
    }
  }
}

TEST_CASE_TEMPLATE("dspark: no trace of drafts, in two sequences and odd passes", M, Dspark,
                   DsparkSimd) {
  M model = model_on_one_thread<M>(false);
  ds4::test::check_no_trace_of_drafts(model, std::is_same_v<M, DsparkSimd> ? 2000 : 600);
}

TEST_CASE_TEMPLATE("dspark: a draft changes nothing, and follows from what a state has kept", M,
                   Dspark, DsparkSimd) {
  M model = model_on_one_thread<M>(false);
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

TEST_CASE("dspark: a checkpoint that also sees images drafts and computes alike") {
  // Its files lie over the others': tensors for images in a third shard.
  const ds4::test::TempDir dir;
  const std::filesystem::path tiny = ds4::test::data_dir("dspark");
  const std::filesystem::path vision = ds4::test::data_dir("dspark-vision");
  for (const auto* name : {"1-of-00002", "2-of-00002"}) {
    const std::string shard = "model-0000" + std::string(name) + ".safetensors";
    std::filesystem::copy_file(tiny / shard, dir.path() / shard);
  }
  for (const auto& entry : std::filesystem::directory_iterator(vision)) {
    std::filesystem::copy_file(entry.path(), dir.path() / entry.path().filename());
  }
  Dspark model = Dspark::load(dir.path());
  CHECK(model.drafter() == ds4::DrafterKind::dspark);
  const Golden golden = golden_dspark();
  ds4::test::check_golden_blocks(model, golden, {64});
  auto state = model.new_state();
  const auto logits = model.forward(state, golden.indices("input_ids"));
  ds4::test::check_close("logits", logits.flat(), golden.values("logits"),
                         ds4::test::kDsparkTolerance);
}

TEST_CASE("dspark: a whole batch drafts as each sequence alone") {
  Dspark model = model_on_one_thread<Dspark>(false);
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
    auto fork = states[i];
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
  Dspark model = model_on_one_thread<Dspark>(false);
  auto state = drafting_state(model, 4);
  const auto first = [](std::span<const float> logits) { return ds4::argmax(logits); };
  CHECK(model.draft(state, 1, 3, first).empty());  // no token has been taken in
  model.prefill(state, ds4::test::random_ids(10, 31));
  CHECK(error_text([&] { model.draft(state, 384, 1, first); }) ==
        "ds4: token: found id 384, expected 0 to 383");
  CHECK(error_text([&] { model.draft(state, 1, 2, [](auto) { return 600; }); }) ==
        "ds4: draft 1: found id 600, expected 0 to 383");
  CHECK(state.drafts().dspark.targets.end() == 10);
  CHECK(state.drafts().dspark.windows[0].window.end() == 10);
  CHECK(model.draft(state, 1, 0, first).empty());
  CHECK(model.draft(state, 1, 50, first).size() == kBlock);
  CHECK(error_text([&] { model.mtp_logits(state); }) ==
        "ds4: draft: expected a checkpoint with a multi-token-prediction layer, found dspark");
}
