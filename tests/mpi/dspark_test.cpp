// Several ranks on the SIMD backend: drafts of DSpark.
#include <doctest/doctest.h>
#include <mpi/same_as_one.hpp>

#include <ds4/kernels/mpi.hpp>
#include <ds4/model.hpp>
#include <ds4/models/dspark.hpp>
#include <support/golden.hpp>

TEST_CASE("dspark on ranks: drafts are bit for bit as in one process") {
  using Ranks = ds4::Distributed<ds4::Simd>;
  const auto dir = ds4::test::data_dir("dspark");
  const ds4::SimdOptions options{.threads = 1};
  auto one = ds4::Model<ds4::models::dspark, ds4::Simd>::load(dir, ds4::Simd(options));
  auto ranks = ds4::Model<ds4::models::dspark, Ranks>::load(
      dir, Ranks(ds4::Simd(options), {.whole_bytes = 0}));
  ds4::test::check_same_batch(ranks, one);
  ds4::test::check_same_drafts(ranks, one);
}
