#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/inspect/check_report.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/simd.hpp>
#include <ds4/runtime/stages.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

std::unique_ptr<ds4::AnyModel> tiny_flash() {
  return ds4::compiled_model<ds4::models::tiny_flash, ds4::Simd>().load(
      ds4::test::data_dir("tiny-flash"), {});
}

const ds4::StageArray& stage_of(const std::vector<ds4::StageArray>& stages,
                                const std::string& name) {
  const auto at = std::ranges::find(stages, name, &ds4::StageArray::name);
  REQUIRE(at != stages.end());
  return *at;
}

}  // namespace

TEST_CASE("stages: have the names, shapes and values of the golden data") {
  const auto model = tiny_flash();
  const ds4::test::Golden golden(ds4::test::data_dir("tiny-flash") / "golden.safetensors");
  const auto ids = golden.indices("input_ids");
  const auto stages = ds4::record_stages(*model, ids);
  std::size_t compared = 0;
  for (const ds4::StageArray& stage : stages) {
    if (!golden.has(stage.name)) continue;
    CAPTURE(stage.name);
    std::vector<std::size_t> shape = golden.tensor(stage.name).shape;
    if (shape.front() == 1) shape.erase(shape.begin());  // a batch of one
    if (stage.name.ends_with("attn.q_rope")) std::swap(shape[0], shape[1]);
    if (stage.name.ends_with("attn.kv_rope")) shape.erase(shape.begin());  // one head
    CHECK(stage.shape == shape);
    ++compared;
  }
  CHECK(compared == 65);
  CHECK(stages.back().name == "logits");
  ds4::test::check_close("final_norm", std::span(stage_of(stages, "final_norm").values),
                         golden.values("final_norm"), 2e-5);
  CHECK(stage_of(stages, "layers.2.indexer.topk").values.empty());
}

TEST_CASE("stages: only what is wanted is kept") {
  const auto model = tiny_flash();
  const std::vector<std::int32_t> ids{0, 1, 2, 3, 4};
  const auto stages =
      ds4::record_stages(*model, ids, [](std::size_t layer, std::string_view stage) {
        return layer == 3 && stage == "attn.output";
      });
  REQUIRE(stages.size() == 1);
  CHECK(stages[0].name == "layers.3.attn.output");
  CHECK(stages[0].shape == std::vector<std::size_t>{5, 64});
}

TEST_CASE("stages: a comparison names the first that differs") {
  const auto model = tiny_flash();
  std::vector<std::int32_t> ids(40);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 5 % 256);
  auto stages = ds4::record_stages(*model, ids);
  const ds4::CheckReport same = ds4::compare_stages(*model, ids, stages);
  CHECK(same.passed());
  CHECK(same.stages.size() == stages.size());

  for (ds4::StageArray& stage : stages) {
    if (stage.name == "layers.4.mlp.input" || stage.name == "layers.2.attn.output") {
      stage.values[17 * 64 + 3] += 1.0f;
    }
  }
  const ds4::CheckReport other = ds4::compare_stages(*model, ids, stages);
  REQUIRE(other.first_past() != nullptr);
  CHECK(other.first_past()->name() == "layer 2 attn.output");
  CHECK(other.first_past()->first_past == 17);

  const std::vector<ds4::StageArray> some{stage_of(stages, "layers.4.mlp.input")};
  const ds4::CheckReport few = ds4::compare_stages(*model, ids, some);
  CHECK(few.stages.size() == 1);
  CHECK(!few.passed());
}

TEST_CASE("stages: names and sizes that a pass does not have are refused") {
  const auto model = tiny_flash();
  const std::vector<std::int32_t> ids{0, 1, 2};
  const auto text = [&](ds4::StageArray stage) {
    const std::vector<ds4::StageArray> given{std::move(stage)};
    return ds4::test::error_text([&] { ds4::compare_stages(*model, ids, given); });
  };
  CHECK(text({.name = "layers.9.attn.output", .shape = {}, .values = {1.0f}}) ==
        "ds4: layers.9.attn.output: found no stage of this name in the pass, expected one as "
        "\"layers.0.attn.output\"");
  CHECK(text({.name = "layers.0.attn.output", .shape = {}, .values = {1.0f}}) ==
        "ds4: layers.0.attn.output: found 1 numbers and 0 indices, expected 192 and 0");
}
