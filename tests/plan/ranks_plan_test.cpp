// The plan of several ranks against that of one, and against how rows are divided.
#include <cstddef>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/kernels/division.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/ranks_plan.hpp>

TEST_CASE("plan of ranks: one rank has all and gathers nothing") {
  const auto one = ds4::plan_ranks(ds4::Flash{}, {}, {.ranks = 1, .bytes_per_s = 1e9});
  const ds4::Plan whole = ds4::plan(ds4::Flash{});
  CHECK(one.decode.gathers == 0);
  CHECK(one.decode.latency == 0.0);
  CHECK(one.whole_bytes == one.weight_bytes);
  // The file's bytes but for tables, which are half as large in memory, and BF16 norms, which are
  // float32 there.
  CHECK(static_cast<double>(one.weight_bytes + one.looked_up_bytes) ==
        doctest::Approx(static_cast<double>(whole.weight_bytes)).epsilon(0.001));
}

TEST_CASE("plan of ranks: shares add up, and more ranks have less each") {
  const auto one = ds4::plan_ranks(ds4::Flash{}, {}, {.ranks = 1});
  std::size_t before = one.weight_bytes;
  for (const std::size_t ranks : {2u, 4u, 8u, 16u}) {
    CAPTURE(ranks);
    const auto plan = ds4::plan_ranks(ds4::Flash{}, {}, {.ranks = ranks});
    CHECK(plan.weight_bytes < before);
    // Powers of two divide all that is not whole into equal parts, up to blocks of scales.
    const std::size_t all = (plan.weight_bytes - plan.whole_bytes) * ranks + plan.whole_bytes;
    CHECK(static_cast<double>(all) ==
          doctest::Approx(static_cast<double>(one.weight_bytes)).epsilon(0.01));
    CHECK(plan.looked_up_bytes == one.looked_up_bytes);
    CHECK(plan.decode.gathers > 0);
    CHECK(plan.prefill.gathers == plan.decode.gathers);
    CHECK(plan.prefill.sent_bytes > plan.decode.sent_bytes);
    before = plan.weight_bytes;
  }
}

TEST_CASE("division: all rows are on one rank each, and groups and blocks of scales are not cut") {
  for (const std::size_t ranks : {1u, 2u, 3u, 5u, 16u}) {
    for (const std::size_t rows : {1u, 2u, 31u, 33u, 100u, 128u, 4096u}) {
      for (const std::size_t scale_rows : {0u, 1u, 128u}) {
        for (const std::size_t group : {0u, 6u, 64u}) {
          const ds4::Division division = ds4::division_of(rows, scale_rows, group, ranks);
          if (ranks == 1) {
            CHECK(division.is_whole());
            continue;
          }
          std::size_t end = 0;
          for (std::size_t r = 0; r < ranks; ++r) {
            const auto part = division.part(r, ranks);
            CHECK(part.begin == end);
            CHECK(part.end >= part.begin);
            if (part.end < rows && scale_rows > 0) CHECK(part.end % scale_rows == 0);
            if (part.end < rows && group > 0) CHECK(part.end % group == 0);
            end = part.end;
          }
          CHECK(end == rows);
        }
      }
    }
  }
}
