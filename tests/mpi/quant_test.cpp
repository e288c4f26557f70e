// Several ranks on the SIMD backend: the release's storages, and drafts of a multi-token-prediction
// layer.
#include <cstddef>

#include <doctest/doctest.h>
#include <mpi/same_as_one.hpp>

#include <ds4/kernels/mpi.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <support/golden.hpp>
#include <support/golden_model.hpp>

namespace {

using Ranks = ds4::Distributed<ds4::Simd>;
using OnRanks = ds4::Model<ds4::models::quant, Ranks>;
using OnOne = ds4::Model<ds4::models::quant, ds4::Simd>;

}  // namespace

TEST_CASE("quant on ranks: the golden logits, in one pass, in chunks, as a batch, greedily") {
  ds4::test::GoldenCase<ds4::models::quant, Ranks> setup(
      Ranks(ds4::Simd({.threads = 1, .exact = true}), {.whole_bytes = 0}));
  check_one_pass(setup);
  check_chunks(setup);
  check_batch(setup);
  check_greedy(setup);
  check_stages(setup);
}

TEST_CASE("quant on ranks: bit for bit as in one process") {
  const auto dir = ds4::test::data_dir("quant");
  struct Case {
    bool exact;
    std::size_t threads;
    std::size_t whole_bytes;
  };
  for (const auto& [exact, threads, whole_bytes] :
       {Case{false, 1, 0}, Case{false, 2, 1 << 14}, Case{true, 1, 1 << 14}}) {
    CAPTURE(exact);
    CAPTURE(threads);
    CAPTURE(whole_bytes);
    const ds4::SimdOptions options{.threads = threads, .exact = exact};
    auto one = OnOne::load(dir, ds4::Simd(options));
    auto ranks = OnRanks::load(dir, Ranks(ds4::Simd(options), {.whole_bytes = whole_bytes}));
    ds4::test::check_same_passes(ranks, one, threads == 1 ? 160 : 40);
    ds4::test::check_same_batch(ranks, one);
    ds4::test::check_same_drafts(ranks, one);
    if (threads == 1) ds4::test::check_same_states(ranks, one);
  }
}

TEST_CASE("quant on ranks: weights that stay in the files") {
  const auto dir = ds4::test::data_dir("quant");
  const ds4::SimdOptions options{.threads = 1, .memory_budget = 0};
  auto one = OnOne::load(dir, ds4::Simd(options));
  auto ranks = OnRanks::load(dir, Ranks(ds4::Simd(options), {.whole_bytes = 0}));
  ds4::test::check_same_passes(ranks, one, 60);
}
