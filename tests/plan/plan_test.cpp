// The plan against the published figures (model.md 11) and against the lists of real tensors.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/releases.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/json.hpp>
#include <ds4/plan/plan.hpp>
#include <support/golden.hpp>
#include <support/totals.hpp>

namespace {

constexpr std::size_t kMillion = 1'048'576;
/// The releases of April 2026, without DSpark.
struct AprilFlash : ds4::Flash {
  static constexpr std::size_t dspark_stages = 0;
};
struct AprilPro : ds4::Pro {
  static constexpr std::size_t dspark_stages = 0;
};
constexpr ds4::Plan kFlash = ds4::plan(AprilFlash{}, {.context = kMillion});
constexpr ds4::Plan kPro = ds4::plan(AprilPro{}, {.context = kMillion});

static_assert(kFlash.parameters == 284'332'240'471);
static_assert(kFlash.parameters_mtp == 6'610'048'891);
static_assert(kFlash.hash_entries == std::size_t{3} * 129'280 * 6);
static_assert(kFlash.tensors == 69'187);
static_assert(kFlash.weight_bytes == 159'609'485'896);
static_assert(kPro.parameters == 1'572'997'201'763);
static_assert(kPro.parameters_mtp == 25'840'145'979);
static_assert(kPro.tensors == 145'116);
static_assert(kPro.weight_bytes == 864'704'792'696);
// A type that allows for either drafter is that of the newer release.
static_assert(ds4::plan(ds4::Flash{}).tensors == 72'317);
static_assert(ds4::plan(ds4::Pro{}).weight_bytes == 892'727'580'904);

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
  CHECK(ds4::plan(ds4::released_config("flash").value(), {.context = kMillion}) == kFlash);
  CHECK(ds4::plan(ds4::released_config("pro").value(), {.context = kMillion}) == kPro);
  CHECK(ds4::plan(ds4::config_values<ds4::Flash>()) == ds4::plan(ds4::Flash{}));
}

TEST_CASE("plan: tensors and bytes of every published checkpoint, to the last one") {
  const auto folder = ds4::test::data_dir("real-configs");
  const auto counts = ds4::detail::read_json(folder / "counts.json");
  for (const char* file :
       {"flash-0731.config.json", "flash-0731.inference-config.json", "flash-2026-04.config.json",
        "flash-2026-04-early.config.json", "flash-base.config.json", "flash-vision-exp.config.json",
        "pro-0813.config.json", "pro-0813.inference-config.json", "pro-2026-04.config.json"}) {
    CAPTURE(std::string(file));
    const std::string stem = std::string(file).substr(0, std::string(file).find('.'));
    const auto& published = counts.at(stem == "flash-2026-04-early" ? "flash-2026-04" : stem);
    const ds4::ConfigValues config = ds4::read_config(folder / file);
    const ds4::StorageFormat format = ds4::release_format(config);
    const ds4::Plan plan = ds4::plan(config, {.storage = format});
    CHECK(plan.tensors == published.at("tensors").get<std::size_t>());
    CHECK(plan.weight_bytes == published.at("bytes").get<std::size_t>());
    CHECK(plan.fp4_bytes + plan.fp8_bytes + plan.bf16_bytes + plan.f32_bytes + plan.table_bytes ==
          plan.weight_bytes);
    const bool sees_images = stem == "flash-vision-exp";
    CHECK(plan.tensors_set_aside == (sees_images ? 259 + 4 + 4 + 46 + 3 : 0));

    // By type, and of the drafter, from the names.
    auto tensors = ds4::list_tensors(config);
    const auto images = ds4::list_vision_tensors(config, ds4::drafter_of(config));
    CHECK(images.size() == plan.tensors_set_aside);
    tensors.insert(tensors.end(), images.begin(), images.end());
    std::map<std::string, std::size_t> by_dtype;
    std::size_t drafter_tensors = 0;
    std::size_t drafter_bytes = 0;
    std::set<std::string> names;
    for (const ds4::TensorInfo& tensor : tensors) {
      for (const ds4::TensorSpec& stored : ds4::stored_tensors(tensor, format)) {
        names.insert(stored.name);
        ++by_dtype[std::string(ds4::dtype_name(stored.dtype))];
        if (!stored.name.starts_with("mtp.")) continue;
        std::size_t bytes = ds4::dtype_size(stored.dtype);
        for (const std::size_t extent : stored.shape) bytes *= extent;
        ++drafter_tensors;
        drafter_bytes += bytes;
      }
    }
    CHECK(names.size() == plan.tensors);
    CHECK(by_dtype == published.at("dtype_counts").get<std::map<std::string, std::size_t>>());
    CHECK(drafter_tensors == published.at("mtp_tensors").get<std::size_t>());
    CHECK(drafter_bytes == published.at("mtp_bytes").get<std::size_t>());
  }
}

TEST_CASE("plan: bytes are those of the tensors that a checkpoint lists") {
  std::vector<ds4::ConfigValues> configs;
  for (const char* name : {"tiny-flash", "tiny-pro-yarn", "quant", "odd"}) {
    configs.push_back(ds4::read_config(ds4::test::data_dir(name) / "config.json"));
  }
  ds4::ConfigValues dspark = configs.back();
  dspark.dspark_stages = 2;
  dspark.dspark_block_size = 3;
  dspark.dspark_target_layer_ids = {1, 4};
  dspark.dspark_markov_rank = 7;
  configs.push_back(dspark);
  for (const ds4::ConfigValues& config : configs) {
    for (const auto format : {ds4::StorageFormat::f32, ds4::StorageFormat::bf16,
                              ds4::StorageFormat::release, ds4::StorageFormat::base}) {
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
