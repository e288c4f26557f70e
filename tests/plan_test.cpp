// The plan against the published figures (model.md 11) and against the lists of real tensors.
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/config_json.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config.hpp>
#include <ds4/config_values.hpp>
#include <ds4/plan.hpp>
#include <support/golden.hpp>

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
      std::size_t tensors = 0;
      std::size_t bytes = 0;
      for (const ds4::TensorInfo& tensor : ds4::list_tensors(config)) {
        for (const ds4::TensorSpec& stored : ds4::stored_tensors(tensor, format)) {
          std::size_t size = ds4::dtype_size(stored.dtype);
          for (const std::size_t extent : stored.shape) size *= extent;
          ++tensors;
          bytes += size;
        }
      }
      const ds4::Plan plan = ds4::plan(config, {.storage = format});
      CHECK(plan.tensors == tensors);
      CHECK(plan.weight_bytes == bytes);
      CHECK(plan.fp4_bytes + plan.fp8_bytes + plan.bf16_bytes + plan.f32_bytes + plan.table_bytes ==
            bytes);
    }
  }
}
