// State as a value: copies, rollback and saved states, at the edges of model.md 13.4
// (windows, compressed entries, the indexer's limit), on both CPU backends. Everything is compared
// bit for bit: the tokens before it are all that a state may depend on.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <ds4/state/state.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/row_types.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::edges;
using ds4::test::error_text;
using ds4::test::feed;
using ds4::test::model_of;
using ds4::test::random_ids;
using ds4::test::saved;

using TinyFlash = ds4::Model<ds4::models::tiny_flash>;
using TinyFlashSimd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using TinyProYarn = ds4::Model<ds4::models::tiny_pro_yarn>;
using TinyProYarnSimd = ds4::Model<ds4::models::tiny_pro_yarn, ds4::Simd>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;  // rows in BF16

template <class M>
typename M::State restored(const std::string& bytes) {
  std::istringstream stream(bytes);
  return M::State::deserialise(stream);
}

constexpr std::size_t kTokens = 530;

}  // namespace

TEST_CASE_TEMPLATE("state: copy, rollback and saved state at every edge", M, TinyFlash,
                   TinyFlashSimd, TinyProYarn, TinyProYarnSimd, QuantSimd) {
  auto model = model_of<M>();
  const auto ids = random_ids(kTokens, 1);
  const auto wrong = random_ids(64, 2);
  const std::span<const std::int32_t> all = ids;
  auto never = model.new_state();
  const auto logits = feed(model, never, all, {256});
  const auto expected = [&](std::size_t from, std::size_t count) {
    return std::span(logits).subspan(from * M::V, count * M::V);
  };

  auto state = model.new_state();
  std::size_t position = 0;
  for (const std::size_t edge : edges<typename M::Config>()) {
    INFO(edge, " tokens");
    feed(model, state, all.subspan(position, edge - position), {7, 1, 64});
    position = edge;
    const std::string bytes = saved(state);
    const auto snapshot = state;

    // Wrong tokens are taken back: as many as a draft has, and as many as the limit allows, which
    // reach over the next edges.
    for (const std::size_t count : {1u, 2u, 5u, 64u}) {
      INFO("taken back: ", count);
      feed(model, state, std::span(wrong).first(count), {count / 2 + 1, 1});
      state.rollback(count);
      CHECK(state.position() == edge);
      auto fork = state;
      CHECK(std::ranges::equal(feed(model, fork, all.subspan(edge, 9), {2, 1}), expected(edge, 9)));
    }
    // Right tokens too, in several steps.
    feed(model, state, all.subspan(edge, 9), {9});
    state.rollback(4);
    state.rollback(5);
    auto fork = state;
    CHECK(std::ranges::equal(feed(model, fork, all.subspan(edge, 9), {9}), expected(edge, 9)));

    // What was saved, and the snapshot, did not notice.
    state = snapshot;
    CHECK(saved(state) == bytes);
    auto loaded = restored<M>(bytes);
    CHECK(loaded.position() == edge);
    CHECK(saved(loaded) == bytes);
    CHECK(std::ranges::equal(feed(model, loaded, all.subspan(edge, 9), {4, 1}), expected(edge, 9)));
    // A loaded state can take back what the saved one could.
    const std::size_t back = std::min<std::size_t>(edge, 60);
    loaded.rollback(9);
    CHECK(loaded.rollback_available() == std::min<std::size_t>(edge, 64 - 9));
    auto original = restored<M>(bytes);
    original.rollback(back);
    const std::size_t count = std::min(back, kTokens - (edge - back));
    CHECK(std::ranges::equal(feed(model, original, all.subspan(edge - back, count), {3}),
                             expected(edge - back, count)));
  }
}

TEST_CASE_TEMPLATE("state: drafts that are taken back, in random numbers and passes", M,
                   TinyFlashSimd, TinyProYarn) {
  auto model = model_of<M>();
  const auto ids = random_ids(kTokens, 3);
  const std::span<const std::int32_t> all = ids;
  auto never = model.new_state();
  const auto logits = feed(model, never, all, {kTokens});
  std::mt19937 random(4);
  auto state = model.new_state(9);
  auto other = model.new_state(9);  // a sequence beside it, some tokens ahead
  model.prefill(other, random_ids(50, 5));
  std::size_t wrong = 0;
  while (state.position() < kTokens) {
    // A pass of right tokens and a wrong draft behind them, as verification has it.
    const std::size_t right = std::min<std::size_t>(1 + random() % 4, kTokens - state.position());
    const std::size_t drafted = random() % 6;
    const std::size_t position = state.position();
    std::vector<std::int32_t> pass(all.begin() + static_cast<std::ptrdiff_t>(position),
                                   all.begin() + static_cast<std::ptrdiff_t>(position + right));
    for (std::size_t i = 0; i < drafted; ++i) {
      pass.push_back(static_cast<std::int32_t>(random() % 256));
    }
    const std::vector<std::int32_t> beside{static_cast<std::int32_t>(random() % 256), 1, 2};
    const std::vector<typename M::Sequence> batch{{&other, beside}, {&state, pass}};
    const auto rows = model.forward(batch, ds4::LogitsOf::all);
    if (!std::ranges::equal(rows.view().rows(3, right).flat(),
                            std::span(logits).subspan(position * M::V, right * M::V))) {
      ++wrong;
    }
    state.rollback(drafted);
    other.rollback(2);
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("state: how far back a rollback goes", M, TinyFlash, TinyFlashSimd) {
  auto model = model_of<M>();
  const auto ids = random_ids(300, 6);
  const std::span<const std::int32_t> all = ids;
  auto state = model.new_state(10);
  CHECK(state.rollback_limit() == 10);
  CHECK(state.rollback_available() == 0);
  model.prefill(state, all.first(4));
  CHECK(state.rollback_available() == 4);
  model.prefill(state, all.subspan(4));
  CHECK(state.rollback_available() == 10);
  state.rollback(6);
  CHECK(state.rollback_available() == 4);
  CHECK(error_text([&] { state.rollback(5); }) ==
        "ds4: rollback: found 5 tokens, expected at most 4, what a rollback limit of 10 leaves");
  CHECK(state.position() == 294);
  state.rollback(4);
  state.rollback(0);
  CHECK(state.rollback_available() == 0);

  auto none = model.new_state(0);
  model.prefill(none, all);
  CHECK(error_text([&] { none.rollback(1); }) ==
        "ds4: rollback: found 1 tokens, expected at most 0, what a rollback limit of 0 leaves");

  // With a limit as long as the sequence, back to the start.
  auto whole = model.new_state(300);
  const auto logits = feed(model, whole, all, {300});
  whole.rollback(300);
  CHECK(whole.position() == 0);
  CHECK(feed(model, whole, all, {100}) == logits);
  if constexpr (std::is_same_v<M, TinyFlashSimd>) CHECK(none.bytes() < whole.bytes());
}

TEST_CASE("state: memory grows by the rows of model.md 11") {
  // Per token: in each CSA layer, an entry [head_dim] and a key [index_head_dim] every 4 tokens; in
  // each HCA layer, an entry every 128. The window and the tails stay as they are.
  using C = ds4::models::tiny_flash;
  auto model = model_of<TinyFlashSimd>();
  auto state = model.new_state();
  const auto ids = random_ids(4096, 7);
  const std::span<const std::int32_t> all = ids;
  std::size_t csa = 0;
  for (const std::size_t ratio : C::compress_ratios) csa += ratio == 4;
  model.prefill(state, all.first(2048));
  const std::size_t before = state.bytes();
  model.prefill(state, all.subspan(2048));
  // 512 entries: 8 blocks of 64 rows and 4 blocks of 128 keys, in float32. HCA's 16 fit into the
  // block that they have.
  CHECK(state.bytes() - before == csa * 512 * (C::head_dim + C::index_head_dim) * 4);
}

TEST_CASE("state: a fork costs nothing until it writes") {
  auto model = model_of<TinyFlashSimd>();
  auto state = model.new_state();
  model.prefill(state, random_ids(300, 8));
  auto fork = state;
  const auto collect = [](auto& of) {
    std::vector<const void*> rows;
    of.for_each_log([&](const auto& log, std::size_t, auto&&) {
      if constexpr (requires { log.row(0); }) {
        if (log.end() > log.first()) rows.push_back(log.row(log.first()));
      } else if (log.end() > 0) {
        rows.push_back(log.key_block(0));
      }
    });
    return rows;
  };
  CHECK(collect(state).size() > 10);
  CHECK(collect(fork) == collect(state));
}

TEST_CASE("state: a saved state goes to another backend if its rows have the same type") {
  auto reference = model_of<TinyFlash>();
  auto simd = model_of<TinyFlashSimd>();
  const auto ids = random_ids(300, 9);
  auto state = simd.new_state();
  simd.prefill(state, ids);
  auto taken = restored<TinyFlash>(saved(state));
  CHECK(taken.position() == 300);
  auto back = restored<TinyFlashSimd>(saved(taken));
  CHECK(feed(simd, back, ids, {1}) == feed(simd, state, ids, {1}));
  CHECK(reference.decode(taken, 1).size() == TinyFlash::V);

  auto quant = model_of<QuantSimd>();
  auto rounded = quant.new_state();
  quant.prefill(rounded, ids);
  CHECK(error_text([&] { restored<ds4::Model<ds4::models::quant>>(saved(rounded)); }) ==
        "ds4: state: log 0: found rows of a type that this backend does not keep, BF16");
}

TEST_CASE("state: one type of rows, whichever model goes on with it") {
  const auto dir = ds4::test::data_dir("quant");
  auto exact = QuantSimd::load(dir, ds4::Simd({.threads = 2, .exact = true}));
  auto reduced = QuantSimd::load(dir, ds4::Simd({.threads = 2}));
  ds4::test::check_row_types(exact, reduced);

  // A file of two types is refused.
  auto state = reduced.new_state();
  reduced.prefill(state, random_ids(140, 12));
  ds4::detail::StateParts::for_each_log(state, [](auto& log, std::size_t tokens_per_row, auto&&) {
    if (!log.kReducible || tokens_per_row == 1) return;
    const std::size_t end = log.end();
    log.restart(0, ds4::DType::f32);
    const std::vector<std::byte> row(log.kWidth * 4);
    while (log.end() < end) log.append_row(row.data());
  });
  CHECK(std::string(error_text([&] { restored<QuantSimd>(saved(state)); }).c_str())
            .find(": found rows of F32, expected the type of the others") != std::string::npos);
}

TEST_CASE_TEMPLATE("state: a damaged, truncated or foreign saved state is refused", M, TinyFlash,
                   QuantSimd) {
  auto model = model_of<M>();
  auto state = model.new_state(2);
  model.prefill(state, random_ids(9, 10));
  const std::string bytes = saved(state);
  const auto error = [](const std::string& damaged) -> std::string {
    return error_text([&] { restored<M>(damaged); }).c_str();
  };
  CHECK(error(bytes).empty());

  std::size_t accepted = 0;
  for (std::size_t length = 0; length < bytes.size(); length += 1 + length / 50) {
    const std::string text = error(bytes.substr(0, length));
    if (text !=
        "ds4: state: found the end after " + std::to_string(length) + " bytes, expected more") {
      ++accepted;
    }
  }
  CHECK(accepted == 0);
  for (std::size_t at = 0; at < bytes.size(); at += 1 + at / 50) {
    for (const int bit : {0, 3, 7}) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      const std::string text = error(flipped);
      if (!text.starts_with("ds4: state: ") || text.find('\n') != text.npos) ++accepted;
    }
  }
  CHECK(accepted == 0);

  std::string other = bytes;
  other[0] = 'x';
  CHECK(error(other) == "ds4: state: found something else, expected a state that ds4 saved");
  other = bytes;
  other[8] = 9;
  CHECK(error(other) == "ds4: state: found version 9, expected 3");
  CHECK(error_text([&] { restored<TinyProYarn>(bytes); }) ==
        "ds4: state: found one of another configuration, expected one of tiny_pro_yarn");
  // A position that would need gigabytes ends with the stream.
  other = bytes;
  const std::uint64_t far = M::Config::max_position_embeddings;
  std::copy_n(reinterpret_cast<const char*>(&far), 8, other.begin() + 20);
  CHECK(error(other).starts_with("ds4: state: "));
}

TEST_CASE("state: a stream that fails") {
  auto model = model_of<TinyFlash>();
  auto state = model.new_state();
  model.prefill(state, random_ids(9, 11));
  std::ostringstream stream;
  stream.setstate(std::ios::badbit);
  CHECK(error_text([&] { state.serialise(stream); }) == "ds4: state: cannot be written");
}
