// Batches: which ones are refused, long ones in several passes, and where logits go.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/core/error.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/files.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::LogitsOf;
using ds4::test::error_text;
using ds4::test::feed;
using ds4::test::model_of;
using ds4::test::random_ids;
using ds4::test::saved;

using Plain = ds4::Model<ds4::models::tiny_flash>;
using Simd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;

// A state of another configuration, or of another backend, does not compile.
static_assert(!std::is_convertible_v<QuantSimd::State*, Simd::State*>);
static_assert(!std::is_convertible_v<Plain::State*, Simd::State*>);

}  // namespace

TEST_CASE("batch: one error each for none, no state and a state twice, all states as before") {
  auto model = model_of<QuantSimd>();
  const auto ids = random_ids(9, 1);
  auto first = model.new_state();
  auto second = model.new_state();
  model.prefill(first, ids);
  const std::string before = saved(first);
  const auto error = [&](const std::vector<QuantSimd::Sequence>& batch) -> std::string {
    return error_text([&] { model.forward(batch, LogitsOf::last); }).c_str();
  };
  CHECK(error({}) == "ds4: batch: found no sequence, expected at least one");
  CHECK(error({{&first, ids}, {nullptr, ids}}) == "ds4: sequence 1: found no state, expected one");
  CHECK(error({{&first, ids}, {&second, ids}, {&first, ids}}) ==
        "ds4: sequence 2: found the state of sequence 0, expected one of its own");
  CHECK(saved(first) == before);
  CHECK(second.position() == 0);
  const auto draft = [&](const std::vector<QuantSimd::DraftRequest>& batch) -> std::string {
    return error_text([&] {
             model.draft(
                 std::span(batch), [](std::size_t, auto) { return 0; },
                 [](std::size_t, float) { return true; });
           })
        .c_str();
  };
  CHECK(draft({{nullptr, 1, 1}}) == "ds4: sequence 0: found no state, expected one");
  CHECK(draft({{&first, 1, 1}, {&first, 1, 1}}) ==
        "ds4: sequence 1: found the state of sequence 0, expected one of its own");
}

TEST_CASE_TEMPLATE("batch: what is longer than a pass is cut, with the same result", M, Plain,
                   Simd) {
  auto model = model_of<M>();
  const auto ids = random_ids(1300, 2);
  const std::span<const std::int32_t> all = ids;
  const std::vector<std::span<const std::int32_t>> prompts{all.first(700), all.subspan(100, 3),
                                                           all.subspan(50, 600)};
  std::vector<typename M::State> states(3);
  std::vector<typename M::Sequence> batch;
  std::vector<float> rows;
  std::vector<float> last;
  std::vector<std::string> after;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    batch.push_back({&states[i], prompts[i]});
    auto alone = model.new_state();
    const auto logits = feed(model, alone, prompts[i], {64});
    rows.insert(rows.end(), logits.begin(), logits.end());
    last.insert(last.end(), logits.end() - static_cast<std::ptrdiff_t>(M::V), logits.end());
    after.push_back(saved(alone));
  }
  CHECK(std::ranges::equal(model.forward(batch, LogitsOf::all).flat(), rows));
  for (std::size_t i = 0; i < 3; ++i) CHECK(saved(states[i]) == after[i]);
  states.assign(3, model.new_state());
  std::vector<float> room(3 * M::V);
  model.forward(batch, LogitsOf::last, std::span<float>(room));
  CHECK(room == last);
  for (std::size_t i = 0; i < 3; ++i) CHECK(saved(states[i]) == after[i]);
  // Memory for a pass, not for the batch.
  if constexpr (std::is_same_v<M, Simd>) {
    auto long_pass = model_of<M>();
    auto state = long_pass.new_state();
    long_pass.prefill(state, all);
    CHECK(model.scratch_bytes() < 1.5 * static_cast<double>(long_pass.scratch_bytes()));
  }

  room.pop_back();
  CHECK(error_text([&] { model.forward(batch, LogitsOf::last, std::span<float>(room)); }) ==
        ("ds4: logits: found room for " + std::to_string(3 * M::V - 1) +
         " values, expected it for 3 rows of " + std::to_string(M::V))
            .c_str());
}

TEST_CASE_TEMPLATE("batch: a prompt in passes of any size gives the same", M, Plain, Simd) {
  auto model = model_of<M>();
  CHECK(model.prefill_chunk() == 512);
  const auto ids = random_ids(700, 5);
  auto state = model.new_state();
  const auto expected = model.prefill(state, ids);
  const std::size_t scratch = model.scratch_bytes();
  for (const std::size_t chunk : std::vector<std::size_t>{37, 700, 100'000}) {
    auto other = model_of<M>();
    other.set_prefill_chunk(chunk);
    auto own = other.new_state();
    CHECK(std::ranges::equal(other.prefill(own, ids).flat(), expected.flat()));
    CHECK(saved(own) == saved(state));
    if constexpr (std::is_same_v<M, Simd>) {
      CHECK((other.scratch_bytes() > scratch) == (chunk > 512));
      CHECK(other.with_team({.threads = 1}).prefill_chunk() == chunk);
    }
  }
  CHECK(error_text([&] { model.set_prefill_chunk(0); }) ==
        "ds4: prefill chunk: found 0 tokens, expected at least 1");
  CHECK(model.prefill_chunk() == 512);
}

TEST_CASE("batch: passes are larger where weights are larger than memory") {
  ds4::Simd backend;
  backend.expect_weights(std::size_t{1} << 20, true);
  CHECK(backend.pass_memory() == 0);
  backend.expect_weights(std::size_t{1} << 60, true);
  CHECK(backend.pass_memory() > 0);
  constexpr ds4::Flash c;
  static_assert(ds4::prefill_chunk(c, 4, std::size_t{1} << 29, ds4::kLargestPrefillChunk) == 512);
  static_assert(ds4::prefill_chunk(c, 4, std::size_t{1} << 40, ds4::kLargestPrefillChunk) == 4096);
}

TEST_CASE_TEMPLATE("batch: a long prompt is stopped between its passes as well", M, Plain, Simd) {
  auto model = model_of<M>();
  const auto ids = random_ids(1300, 3);
  auto state = model.new_state();
  model.prefill(state, random_ids(20, 4));
  const std::string before = saved(state);
  std::size_t asked = 0;
  const auto count = [&] {
    ++asked;
    return false;
  };
  auto whole = state;
  model.prefill(whole, ids, nullptr, count);
  const std::size_t most = asked;
  asked = 0;
  CHECK_THROWS_AS(model.prefill(state, ids, nullptr, [&] { return ++asked > 2 * most / 3; }),
                  ds4::Stopped);
  CHECK(saved(state) == before);
}

TEST_CASE("batch: scratch memory that is given back is there again when it is needed") {
  auto model = model_of<Simd>();
  auto state = model.new_state();
  const auto ids = random_ids(300, 5);
  model.prefill(state, ids);
  const auto copy = state;
  const std::size_t most = model.scratch_bytes();
  model.release_scratch();
  CHECK(model.scratch_bytes() == 0);
  const auto logits = model.decode(state, 1);
  CHECK(model.scratch_bytes() > 0);
  CHECK(model.scratch_bytes() < most / 4);
  auto again = copy;
  auto other = model_of<Simd>();
  CHECK(std::ranges::equal(other.decode(again, 1).flat(), logits.flat()));
}
