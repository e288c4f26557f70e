// The plan against the published figures (model.md 11) and against the lists of real tensors.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/plan/plan.hpp>
#include <support/golden.hpp>
#include <support/totals.hpp>

namespace {

constexpr std::size_t kMillion = 1'048'576;
constexpr ds4::Plan kFlash = ds4::plan(ds4::Flash{}, {.context = kMillion});
constexpr ds4::Plan kPro = ds4::plan(ds4::Pro{}, {.context = kMillion});

static_assert(kFlash.parameters == 284'332'240'471);
static_assert(kFlash.parameters_mtp == 6'610'048'891);
static_assert(kFlash.hash_entries == std::size_t{3} * 129'280 * 6);
static_assert(kFlash.tensors == 69'187);
static_assert(kFlash.weight_bytes == 159'609'485'896);
static_assert(kPro.parameters == 1'572'997'201'763);
static_assert(kPro.parameters_mtp == 25'840'145'979);
static_assert(kPro.tensors == 145'116);
static_assert(kPro.weight_bytes == 864'704'792'696);

double rounded(std::size_t value, double unit, double digits) {
  return std::round(static_cast<double>(value) / unit * digits) / digits;
}

}  // namespace

TEST_CASE("plan: the published figures") {
  CHECK(rounded(kFlash.parameters_active, 1e9, 100.0) == 13.27);
  CHECK(rounded(kPro.parameters_active, 1e9, 100.0) == 48.85);
  CHECK(rounded(kFlash.weight_bytes_per_token, 1e9, 100.0) == 11.22);
  CHECK(rounded(kPro.weight_bytes_per_token, 1e9, 10.0) == 39.7);
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  CHECK(rounded(kFlash.state_bytes, kGiB, 100.0) == 6.72);
  CHECK(rounded(kPro.state_bytes, kGiB, 100.0) == 9.62);
  const ds4::PlanOptions fp8{.state = ds4::StateFormat::fp8, .context = kMillion};
  CHECK(rounded(ds4::plan(ds4::Flash{}, fp8).state_bytes, kGiB, 100.0) == 3.43);
  CHECK(rounded(ds4::plan(ds4::Pro{}, fp8).state_bytes, kGiB, 100.0) == 4.92);
}

TEST_CASE("plan: a type and its values give the same") {
  CHECK(ds4::plan(ds4::config_values<ds4::Flash>(), {.context = kMillion}) == kFlash);
  CHECK(ds4::plan(ds4::config_values<ds4::Pro>(), {.context = kMillion}) == kPro);
}

TEST_CASE("plan: bytes are those of the tensors that a checkpoint lists") {
  for (const char* name : {"tiny-flash", "tiny-pro-yarn", "quant", "odd"}) {
    CAPTURE(std::string(name));
    const auto config = ds4::read_config(ds4::test::data_dir(name) / "config.json");
    for (const auto format :
         {ds4::StorageFormat::f32, ds4::StorageFormat::bf16, ds4::StorageFormat::release}) {
      const auto [tensors, bytes] = ds4::test::totals(config, format);
      const ds4::Plan plan = ds4::plan(config, {.storage = format});
      CHECK(plan.tensors == tensors);
      CHECK(plan.weight_bytes == bytes);
      CHECK(plan.fp4_bytes + plan.fp8_bytes + plan.bf16_bytes + plan.f32_bytes + plan.table_bytes ==
            bytes);
    }
  }
}

TEST_CASE("plan: operations of attention, against a sum over tokens, layers and keys") {
  for (const char* name : {"tiny-flash", "tiny-pro-yarn", "odd"}) {
    CAPTURE(std::string(name));
    const auto c = ds4::read_config(ds4::test::data_dir(name) / "config.json");
    std::size_t attention = 0;
    std::size_t indexer = 0;
    std::size_t wrong = 0;
    for (std::size_t t = 0; t < 700; ++t) {
      const auto before = ds4::attention_flops_before(c, t);
      if (before.attention != attention || before.indexer != indexer) ++wrong;
      std::size_t keys = 0;
      std::size_t scored = 0;
      for (const std::size_t ratio : c.compress_ratios) {
        keys += std::min(t + 1, c.sliding_window);
        if (ratio == 0) continue;
        const std::size_t entries = (t + 1) / ratio;
        const bool indexed = ratio == c.compress_rates.compressed_sparse_attention;
        keys += indexed ? std::min(entries, c.index_topk) : entries;
        scored += indexed ? entries : 0;
      }
      const std::size_t a = 4 * c.num_attention_heads * c.head_dim * keys;
      const std::size_t i = 2 * c.index_n_heads * c.index_head_dim * scored;
      const auto at = ds4::attention_flops(c, t);
      if (at.attention != a || at.indexer != i) ++wrong;
      attention += a;
      indexer += i;
    }
    CHECK(wrong == 0);
  }
}
