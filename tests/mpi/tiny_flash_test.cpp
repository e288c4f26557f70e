// Several ranks on the reference backend.
#include <doctest/doctest.h>
#include <mpi/same_as_one.hpp>

#include <ds4/kernels/mpi.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/model.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/golden.hpp>

template class ds4::Model<ds4::models::tiny_flash, ds4::Distributed<ds4::Reference<float>>>;

TEST_CASE("tiny_flash on ranks: bit for bit as in one process") {
  using Ranks = ds4::Distributed<ds4::Reference<float>>;
  const auto dir = ds4::test::data_dir("tiny-flash");
  auto one = ds4::Model<ds4::models::tiny_flash>::load(dir);
  auto ranks = ds4::Model<ds4::models::tiny_flash, Ranks>::load(
      dir, Ranks(ds4::Reference<float>(), {.whole_bytes = 0}));
  ds4::test::check_same_passes(ranks, one, 200);
  ds4::test::check_same_batch(ranks, one);
  ds4::test::check_same_states(ranks, one);
}
