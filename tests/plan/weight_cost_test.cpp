#include <cstddef>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/weight_cost.hpp>
#include <support/golden.hpp>

namespace {

const auto kDir = ds4::test::data_dir("tiny-flash");

}  // namespace

TEST_CASE("weight_cost: a token reads what the plan says") {
  const auto config = ds4::read_config(kDir / "config.json");
  const auto checkpoint = ds4::Checkpoint::open(kDir);
  const ds4::Plan plan = ds4::plan(config, {.storage = ds4::StorageFormat::f32});
  const ds4::WeightCost cost = ds4::weight_cost(checkpoint, config);
  CHECK(cost.bytes == doctest::Approx(static_cast<double>(plan.weight_bytes_per_token)));
  CHECK(!cost.reduced_matrices);
}

TEST_CASE("weight_cost: parts add up, and grow with tokens and experts") {
  const auto config = ds4::read_config(kDir / "config.json");
  const auto checkpoint = ds4::Checkpoint::open(kDir);
  ds4::WeightCost sum;
  for (const char* prefix : {"embed.", "layers.", "hc_head_", "norm.", "head."}) {
    const auto part = ds4::weight_cost(checkpoint, config, prefix, 5, 3);
    CHECK(part.bytes > 0.0);
    sum.bytes += part.bytes;
    sum.flops += part.flops;
  }
  const auto all = ds4::weight_cost(checkpoint, config, "", 5, 3);
  CHECK(sum.bytes == doctest::Approx(all.bytes));
  CHECK(sum.flops == doctest::Approx(all.flops));

  // wq_a [32, 64] in float32; w1, w2 and w3 [32, 64] of 8 experts.
  const auto wq_a = ds4::weight_cost(checkpoint, config, "layers.0.attn.wq_a.", 5, 3);
  CHECK(wq_a.bytes == 4.0 * 32 * 64);
  CHECK(wq_a.flops == 5 * 2.0 * 32 * 64);
  const auto experts = ds4::weight_cost(checkpoint, config, "layers.0.ffn.experts.", 5, 3);
  CHECK(experts.bytes == doctest::Approx(3 * 3 * 4.0 * 32 * 64));
  CHECK(experts.flops == doctest::Approx(5 * 2 * 3 * 2.0 * 32 * 64));  // two experts a token
  CHECK(ds4::weight_cost(checkpoint, config, "layers.1").bytes ==
        ds4::weight_cost(checkpoint, config, "layers.1.").bytes);
  CHECK(ds4::weight_cost(checkpoint, config, "no such").bytes == 0.0);
}
