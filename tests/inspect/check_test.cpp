// Tests of ds4/inspect/check.hpp: backends that agree, and damage that has to be found where it is.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/synth.hpp>
#include <ds4/core/error.hpp>
#include <ds4/inspect/check.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/models/dspark.hpp>
#include <ds4/models/odd.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::check_backend;
using ds4::check_ids;
using ds4::CheckOptions;
using ds4::CheckReport;
using ds4::StageCheck;
using ds4::test::CheckpointCopy;
using ds4::test::error_text;
using ds4::test::model_of;
using ds4::test::TempDir;

using TinyFlash = ds4::models::tiny_flash;
using Reference = ds4::Model<TinyFlash>;

const StageCheck& stage_of(const CheckReport& report, std::string_view name) {
  const auto found = std::ranges::find(report.stages, name, &StageCheck::name);
  REQUIRE(found != report.stages.end());
  return *found;
}

/// "" or the first problem, with its place.
std::string first_problem(const CheckReport& report) {
  const StageCheck* first = report.first_past();
  return first == nullptr ? "" : first->name() + ", " + first->problem;
}

/// tiny-flash with some of its tensors changed, as a checkpoint of its own.
template <class Change>
Reference changed(Change&& change) {
  const TempDir dir;
  CheckpointCopy copy("tiny-flash");
  change(copy);
  copy.write(dir);
  return Reference::load(dir.path());  // the files stay mapped
}

/// The tensor whose name ends so.
CheckpointCopy::Content& tensor(CheckpointCopy& copy, std::string_view end) {
  const auto found = std::ranges::find_if(
      copy.tensors, [&](const auto& named) { return named.first.ends_with(end); });
  REQUIRE(found != copy.tensors.end());
  return found->second;
}

/// A backend that shows one value of a stage, or one pick, otherwise than it is.
class Meddler {
 public:
  using Scalar = float;

  Meddler(std::size_t layer, std::string stage, std::size_t index, float value)
      : layer_(layer), stage_(std::move(stage)), index_(index), value_(value) {}

  const auto& config() const { return model_.config(); }
  const auto& checkpoint() const { return model_.checkpoint(); }
  auto new_state() const { return model_.new_state(); }
  auto forward(Reference::State& state, std::span<const std::int32_t> ids,
               ds4::StageObserver<float>* observer) {
    Shown shown(*this, *observer);
    return model_.forward(state, ids, &shown);
  }

 private:
  class Shown final : public ds4::StageObserver<float> {
   public:
    Shown(const Meddler& owner, ds4::StageObserver<float>& observer)
        : owner_(owner), observer_(observer) {}
    void values(std::size_t layer, std::string_view stage, std::span<const float> v) override {
      std::vector<float> copy(v.begin(), v.end());
      if (layer == owner_.layer_ && stage == owner_.stage_) copy[owner_.index_] = owner_.value_;
      observer_.values(layer, stage, copy);
    }
    void indices(std::size_t layer, std::string_view stage,
                 std::span<const std::int32_t> v) override {
      std::vector<std::int32_t> copy(v.begin(), v.end());
      if (layer == owner_.layer_ && stage == owner_.stage_) {
        copy[owner_.index_] = static_cast<std::int32_t>(owner_.value_);
      }
      observer_.indices(layer, stage, copy);
    }

   private:
    const Meddler& owner_;
    ds4::StageObserver<float>& observer_;
  };

  Reference model_ = model_of<Reference>();
  std::size_t layer_;
  std::string stage_;
  std::size_t index_;
  float value_;
};

}  // namespace

TEST_CASE("check: the reference agrees with itself, bit for bit") {
  auto model = model_of<Reference>();
  auto reference = model_of<Reference>();
  const auto ids = check_ids(model.config());
  CHECK(ids.size() == 264);  // two entries of HCA, of 128 tokens each, and 8
  const CheckReport report = check_backend(model, reference, ids, {.tolerance = 0.0});
  CHECK(first_problem(report).empty());
  CHECK(report.tokens == ids.size());
  CHECK(report.same_top == ids.size());
  for (const StageCheck& stage : report.stages) {
    CHECK(stage.clean.largest == 0.0);
    CHECK(stage.clean.differing == 0);
    CHECK(stage.behind.rows == 0);
    CHECK(stage.unit > 0.0);
  }
  CHECK(stage_of(report, "layer 3 compressor.kv").clean.rows == 2);
  CHECK(stage_of(report, "layer 6 indexer.kv").clean.rows == 66);
  CHECK(stage_of(report, "layer 6 indexer.topk").picks);
  CHECK(stage_of(report, "head logits").clean.rows == ids.size());
}

// Float32 in another order of summation: kFloat32Tolerance, and its reason, is in check_report.hpp.
TEST_CASE("check: SIMD agrees with the reference") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config());
  for (const ds4::simd::Kernels* kernels : ds4::simd::available_kernels()) {
    for (const std::size_t threads : {1U, 2U}) {
      CAPTURE(kernels->name);
      auto model = ds4::Model<TinyFlash, ds4::Simd>::load(
          ds4::test::data_dir("tiny-flash"),
          ds4::Simd({.threads = threads, .exact = true, .kernels = kernels}));
      const CheckReport report = check_backend(model, reference, ids);
      CHECK(first_problem(report).empty());
      const StageCheck& logits = stage_of(report, "head logits");
      CHECK(logits.clean.largest > 0.0);
      CHECK(logits.clean.mean > 0.0);
      CHECK(logits.clean.mean < logits.clean.largest);
      CHECK(logits.clean.largest < 2e-5);  // as in simd_model_test.cpp
    }
  }
}

TEST_CASE("check: float64 is a reference for float32") {
  auto model = model_of<Reference>();
  auto reference = model_of<ds4::Model<TinyFlash, ds4::Reference<double>>>();
  const CheckReport report = check_backend(model, reference, check_ids(model.config(), 100));
  CHECK(first_problem(report).empty());
  CHECK(stage_of(report, "head logits").clean.largest > 0.0);
}

TEST_CASE("check: passes of any size give the same report") {
  const TempDir dir;
  const auto config = ds4::read_config(ds4::test::data_dir("odd") / "config.json");
  ds4::synthesise(config, ds4::StorageFormat::f32, 3, dir.path());
  auto reference = ds4::Model<ds4::models::odd>::load(dir.path());
  auto model = ds4::Model<ds4::models::odd, ds4::Simd>::load(dir.path(), ds4::Simd({.threads = 2}));
  const auto ids = check_ids(config);
  const CheckReport whole = check_backend(model, reference, ids);
  CHECK(first_problem(whole).empty());
  for (const std::vector<std::size_t>& passes :
       {std::vector<std::size_t>{1}, std::vector<std::size_t>{3, 60, 1, 70}}) {
    std::size_t done = 0;
    CheckOptions options{.passes = passes};
    options.progress = [&](std::size_t count, std::size_t total) {
      CHECK(count > done);
      CHECK(total == ids.size());
      done = count;
    };
    const CheckReport report = check_backend(model, reference, ids, options);
    CHECK(done == ids.size());
    REQUIRE(report.stages.size() == whole.stages.size());
    for (std::size_t i = 0; i < whole.stages.size(); ++i) {
      CHECK(report.stages[i].name() == whole.stages[i].name());
      CHECK(report.stages[i].clean.rows == whole.stages[i].clean.rows);
      CHECK(report.stages[i].clean.largest == whole.stages[i].clean.largest);
      CHECK(report.stages[i].clean.mean == doctest::Approx(whole.stages[i].clean.mean));
    }
  }
}

// With BF16 activations: kBf16Tolerance. Picks differ, but only where scores are nearly equal.
TEST_CASE("check: BF16 activations stay within their tolerance, and not within float32's") {
  using Quant = ds4::models::quant;
  auto reference = model_of<ds4::Model<Quant>>();
  auto model = model_of<ds4::Model<Quant, ds4::Simd>>();
  const auto ids = check_ids(reference.config());
  const CheckReport report =
      check_backend(model, reference, ids, {.tolerance = ds4::kBf16Tolerance});
  CHECK(first_problem(report).empty());
  std::size_t differing = 0;
  std::size_t behind = 0;
  for (const StageCheck& stage : report.stages) {
    if (stage.picks) differing += stage.clean.differing;
    behind += stage.behind.rows;
  }
  CHECK((differing > 0) == (behind > 0));

  const CheckReport strict = check_backend(model, reference, ids);
  CHECK(first_problem(strict).starts_with("layer 0 attn"));
}

TEST_CASE("check: a changed weight is found at the stage that it enters") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config());
  const auto problem = [&](std::string_view name, std::size_t index, float value) {
    auto model = changed([&](CheckpointCopy& copy) { tensor(copy, name).set(index, value); });
    return first_problem(check_backend(model, reference, ids));
  };
  CHECK(problem("layers.3.attn.q_norm.weight", 0, 1.5f)
            .starts_with("layer 3 attn.q_residual, token 0: error "));
  CHECK(problem("layers.4.attn.wq_b.weight", 7, 1.0f)
            .starts_with("layer 4 attn.q_rope, token 0: error "));
  CHECK(problem("layers.5.ffn.gate.weight", 3, 1.0f)
            .starts_with("layer 5 mlp.router_logits, token 0: error "));
  CHECK(problem("layers.0.ffn.shared_experts.w2.weight", 0, 1.0f)
            .starts_with("layer 0 mlp.shared, token 0: error "));
  CHECK(problem("layers.6.hc_ffn_base", 4, 1.0f).starts_with("layer 6 ffn_hc.post, token 0: "));
  // The first entry is that of tokens 0 to 127, and 127 the first one to see it.
  CHECK(problem("layers.3.attn.compressor.norm.weight", 0, 3.0f)
            .starts_with("layer 3 compressor.kv, token 127: error "));
  CHECK(problem("model.norm.weight", 0, 3.0f).starts_with("head final_norm, token 0: error "));
  CHECK(problem("head.weight", 0, 3.0f).starts_with("head logits, token 0: error "));
  CHECK(problem("layers.3.attn.q_norm.weight", 0, std::numeric_limits<float>::quiet_NaN())
            .starts_with("layer 3 attn.q_residual, token 0: error inf, "));
}

TEST_CASE_TEMPLATE("check: drafts are compared, and a change of the drafter shows in them alone", C,
                   ds4::models::dspark, ds4::models::quant) {
  const auto load = [](const std::filesystem::path& dir) {
    return ds4::Model<C, ds4::Simd>::load(dir, ds4::Simd({.threads = 1, .exact = true}));
  };
  const std::string folder(C::name);
  auto reference = model_of<ds4::Model<C>>();
  auto model = load(ds4::test::data_dir(folder));
  const auto ids = check_ids(reference.config(), 90);
  const CheckReport report = check_backend(model, reference, ids);
  CHECK(first_problem(report).empty());
  CHECK(report.tokens == ids.size());
  const StageCheck& drafts = stage_of(report, "head draft");
  CHECK(drafts.clean.rows + drafts.behind.rows == 5);
  CHECK(drafts.clean.largest > 0.0);
  // The drafter's own layers: window rows and what is drafted.
  const std::string first = "layer " + std::to_string(C::num_hidden_layers) + " ";
  CHECK(stage_of(report, first + "mlp.router_indices").picks);
  const std::size_t block = C::dspark_stages > 0 ? C::dspark_block_size : 1;
  CHECK(stage_of(report, first + "attn_hc.collapsed").clean.rows == block);
  CHECK(stage_of(report, first + "attn.kv_rope").clean.rows > block);
  if (C::dspark_stages > 0) {
    CHECK(stage_of(report, first + "main_x").clean.rows == C::sliding_window);
    stage_of(report, "layer " + std::to_string(C::num_hidden_layers + 2) + " output");
  }

  const TempDir dir;
  CheckpointCopy copy(folder);
  auto& changed =
      tensor(copy, C::dspark_stages > 0 ? "mtp.0.main_norm.weight" : "mtp.0.norm.weight");
  REQUIRE(changed.dtype == ds4::DType::bf16);
  changed.template set<std::uint16_t>(0, 0x4100);  // 8
  copy.write(dir);
  auto other = load(dir.path());
  const CheckReport found = check_backend(other, reference, ids);
  CAPTURE(first_problem(found));
  CHECK(first_problem(found).starts_with(C::dspark_stages > 0 ? first + "main_x, token 74: error "
                                                              : first + "final_norm, token "));
}

TEST_CASE("check: other biases of the router show in its picks alone") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config());
  auto model = changed([&](CheckpointCopy& copy) {
    auto& bias = tensor(copy, "layers.4.ffn.gate.bias");
    bias.set(2, bias.at<float>(2) + 0.2f);
  });
  const CheckReport report = check_backend(model, reference, ids);
  CHECK(first_problem(report).starts_with("layer 4 mlp.router_indices, token "));
  CHECK(first_problem(report).find(": other picks, by a gap of ") != std::string::npos);
  const StageCheck& picks = stage_of(report, "layer 4 mlp.router_indices");
  CHECK(picks.clean.rows == ids.size());
  CHECK(picks.clean.differing > 5);
  CHECK(picks.clean.differing < ids.size());
  CHECK(picks.past <= picks.clean.differing);
  REQUIRE(picks.first_past);
  // What is not behind them is the same, and what is behind them is not held against anybody.
  for (const StageCheck& stage : report.stages) {
    if (!stage.picks) CHECK(stage.clean.largest == 0.0);
  }
  CHECK(stage_of(report, "layer 4 mlp.router_logits").behind.rows == 0);
  CHECK(stage_of(report, "layer 4 output").behind.rows == picks.clean.differing);
  CHECK(stage_of(report, "layer 5 output").clean.rows <= *picks.first_past);
  CHECK(stage_of(report, "layer 5 output").behind.largest > 0.0);
  CHECK(report.passed() == false);

  // Within a tolerance of half the gap, they are picks that were as good.
  const CheckReport lenient =
      check_backend(model, reference, ids, {.tolerance = picks.clean.largest});
  CHECK(stage_of(lenient, "layer 4 mlp.router_indices").past == 0);
}

TEST_CASE("check: other entries of the indexer are told by their gap") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config());
  auto model = changed([&](CheckpointCopy& copy) {
    auto& weights = tensor(copy, "layers.4.attn.indexer.weights_proj.weight");
    for (std::size_t i = 0; i < 64; ++i) weights.set(i, -weights.at<float>(i));
  });
  const CheckReport report = check_backend(model, reference, ids);
  CHECK(first_problem(report).starts_with("layer 4 indexer.weights, token 0: error "));
  const StageCheck& picks = stage_of(report, "layer 4 indexer.topk");
  CHECK(picks.clean.differing > 0);
  REQUIRE(picks.first_past);
  CHECK(*picks.first_past >= 8 * 4 + 3);  // up to index_topk entries, all are picked
  CHECK(picks.clean.largest > 0.1);
  CHECK(picks.clean.largest < 20.0);
}

TEST_CASE("check: picks that no score explains are past any tolerance") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config(), 50);
  // Of a hash router; of an indexer, an entry that cannot be seen; of a router, no expert.
  struct Case {
    std::size_t layer;
    const char* stage;
    std::size_t index;
    float value;
    const char* problem;
  };
  for (const Case& c :
       {Case{1, "mlp.router_indices", 2 * 11, -1.0f, "layer 1 mlp.router_indices, token 11: "},
        Case{4, "indexer.topk", 8 * 45, 12.0f, "layer 4 indexer.topk, token 45: "},
        Case{5, "mlp.router_indices", 2 * 49, 8.0f, "layer 5 mlp.router_indices, token 49: "}}) {
    Meddler model(c.layer, c.stage, c.index, c.value);
    const CheckReport report = check_backend(model, reference, ids, {.tolerance = 1e30});
    CHECK(first_problem(report) ==
          std::string(c.problem) + "other picks, by a gap of inf, expected at most 2e+30");
  }
}

TEST_CASE("check: values that differ in one place are found there") {
  auto reference = model_of<Reference>();
  const auto ids = check_ids(reference.config(), 50);
  Meddler model(2, "attn.kv_rope", 17 * 32 + 5, 1e3f);  // nothing follows from what is shown
  const CheckReport report = check_backend(model, reference, ids, {.passes = {50}});
  CHECK(first_problem(report).starts_with("layer 2 attn.kv_rope, token 17: error "));
  std::size_t past = 0;
  for (const StageCheck& stage : report.stages) past += stage.past;
  CHECK(past == 1);
}

TEST_CASE("check: errors of the input, and stages that are not the same") {
  auto reference = model_of<Reference>();
  auto model = model_of<Reference>();
  const auto text = [&](const std::vector<std::int32_t>& ids) {
    return error_text([&] { check_backend(model, reference, ids); });
  };
  CHECK(text({}) == "ds4: tokens: found none, expected at least one");
  CHECK(text({1, 256}) == "ds4: token 1: found id 256, expected 0 to 255");
  CHECK(text({1, -1}) == "ds4: token 1: found id -1, expected 0 to 255");

  for (const std::vector<std::size_t>& passes :
       {std::vector<std::size_t>{}, std::vector<std::size_t>{2, 0}}) {
    CHECK(error_text([&] {
            check_backend(model, reference, std::vector<std::int32_t>{1}, {.passes = passes});
          }) ==
          "ds4: passes: found one of no tokens or none at all, expected at least one token each");
  }

  // A backend of another schedule: layer 3 is HCA there, CSA here.
  auto quant = model_of<ds4::Model<ds4::models::quant>>();
  const std::vector<std::int32_t> ids(20, 1);
  CHECK(error_text([&] { check_backend(quant, reference, ids); }) ==
        "ds4: layer 0 attn_hc.collapsed: found 5120 values, expected 1280");
  CHECK(error_text([&] { check_backend(reference, quant, ids); }) ==
        "ds4: layer 0 attn_hc.collapsed: found 1280 values, expected 5120");
}

TEST_CASE("check: tokens that reach every kind of attention") {
  const auto flash = ds4::config_values<ds4::Flash>();
  const auto ids = check_ids(flash);
  CHECK(ids.size() == 513 * 4 + 8);
  CHECK(std::ranges::min(ids) >= 0);
  CHECK(std::ranges::max(ids) < 129280);
  CHECK(check_ids(flash) == ids);
  CHECK(check_ids(flash, 3).size() == 3);
}
