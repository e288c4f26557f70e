// The forms in which models are published, in small: DSpark, a part that sees images, FP8 experts
// with float32 scales. What is refused, and what is set aside without a trace in the logits.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/load.hpp>
#include <ds4/checkpoint/synth.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/releases.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::DrafterKind;
using ds4::DType;
using ds4::test::CheckpointCopy;
using ds4::test::error_text;
using ds4::test::TempDir;
using Quant = ds4::Model<ds4::models::quant>;

/// quant with room for either drafter.
struct WithDspark : ds4::models::quant {
  static constexpr std::string_view name = "with_dspark";
  static constexpr std::size_t dspark_stages = 2;
  static constexpr std::size_t dspark_block_size = 3;
  static constexpr std::size_t dspark_noise_token_id = 500;
  static constexpr std::array<std::size_t, 2> dspark_target_layer_ids{1, 3};
  static constexpr std::size_t dspark_markov_rank = 4;
};
/// And without any.
struct WithoutDrafter : ds4::models::quant {
  static constexpr std::string_view name = "without_drafter";
  static constexpr std::size_t num_nextn_predict_layers = 0;
};

const CheckpointCopy& quant() {
  static const CheckpointCopy copy("quant");
  return copy;
}

/// A random checkpoint of WithDspark with a drafter of this many stages.
const CheckpointCopy& dspark(std::size_t stages = 2) {
  static std::map<std::size_t, CheckpointCopy> copies;
  const auto found = copies.find(stages);
  if (found != copies.end()) return found->second;
  const TempDir dir;
  auto config = ds4::with_drafter(ds4::config_values<WithDspark>(), DrafterKind::dspark);
  config.dspark_stages = stages;
  ds4::synthesise(config, ds4::StorageFormat::bf16, 5, dir.path() / "model");
  return copies.emplace(stages, CheckpointCopy((dir.path() / "model").string())).first->second;
}

/// What loading does with a checkpoint: the reader's part of it, without a backend.
struct Loaded {
  DrafterKind drafter = DrafterKind::none;
  ds4::ConfigValues config;
};
template <class C>
Loaded read(const CheckpointCopy& copy) {
  const TempDir dir;
  copy.write(dir);
  Loaded loaded;
  loaded.config = ds4::read_config_of<C>(dir.path());
  const auto checkpoint = ds4::Checkpoint::open(dir.path());
  loaded.drafter = ds4::complete_drafter_of<C>(loaded.config, checkpoint);
  ds4::TensorReader reader(checkpoint);
  ds4::set_aside_unread(reader, loaded.config, loaded.drafter);
  for (const ds4::TensorInfo& tensor : ds4::list_tensors(loaded.config, loaded.drafter)) {
    if (tensor.role == ds4::TensorRole::table) {
      reader.table(tensor.name, tensor.shape[0], tensor.shape[1], loaded.config.n_routed_experts);
    } else if (tensor.shape.size() == 2 && tensor.role != ds4::TensorRole::vector) {
      reader.matrix(tensor.name, tensor.shape[0], tensor.shape[1]);
    } else {
      reader.vector(tensor.name, tensor.shape);
    }
  }
  reader.finish();
  return loaded;
}
template <class C>
doctest::String error(const CheckpointCopy& copy) {
  return error_text([&] { read<C>(copy); });
}

template <class Model>
std::vector<float> logits_of(const CheckpointCopy& copy) {
  const TempDir dir;
  copy.write(dir);
  auto model = Model::load(dir.path());
  const std::array<std::int32_t, 9> ids{3, 1, 4, 1, 5, 9, 2, 6, 5};
  auto state = model.new_state();
  const auto logits = model.forward(state, ids);
  return {logits.flat().begin(), logits.flat().end()};
}

CheckpointCopy without(CheckpointCopy copy, std::string_view prefix) {
  std::erase_if(copy.tensors, [&](const auto& item) { return item.first.starts_with(prefix); });
  return copy;
}

/// The tensors of a part that sees images, over a checkpoint.
CheckpointCopy with_images(CheckpointCopy copy, DrafterKind drafter) {
  copy.config["vision_n_layers"] = 1;
  copy.config["vision_dim"] = 6;  // the other sizes are unknown, and so are shapes
  const TempDir dir;
  copy.write(dir);
  ds4::ConfigValues config = ds4::read_config(dir.path() / "config.json");
  ds4::complete_drafter(config, ds4::Checkpoint::open(dir.path()));
  for (const auto& tensor : ds4::list_vision_tensors(config, drafter)) {
    auto& content = copy.tensors[tensor.name];
    content.reset(DType::f32, {tensor.name.ends_with("bias") ? 6ul : 5ul});
    for (std::size_t i = 0; i < content.shape[0]; ++i) content.set(i, 1e6f);  // not to be used
  }
  return copy;
}

}  // namespace

TEST_CASE("published forms: DSpark, with its stages in compress_ratios or in the tensors alone") {
  const Loaded stated = read<WithDspark>(dspark());
  CHECK(stated.drafter == DrafterKind::dspark);
  CHECK(stated.config.dspark_stages == 2);
  for (const std::size_t stages : {1u, 2u}) {
    CheckpointCopy copy = dspark(stages);
    copy.config["compress_ratios"] = {0, 4, 128, 4};
    for (const auto& count : {nlohmann::json(0), nlohmann::json(1), nlohmann::json(nullptr)}) {
      copy.config["num_nextn_predict_layers"] = count;
      const Loaded counted = read<WithDspark>(copy);
      CHECK(counted.drafter == DrafterKind::dspark);
      CHECK(counted.config.dspark_stages == stages);
    }
  }
  // A type that has no DSpark, or no room for either, sets it aside.
  CHECK(read<ds4::models::quant>(dspark()).drafter == DrafterKind::none);
  CHECK(read<WithoutDrafter>(dspark()).drafter == DrafterKind::none);
}

TEST_CASE("published forms: DSpark whose stages do not fit together") {
  CheckpointCopy copy = dspark(3);
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains("config.json: dspark_stages: found 3, expected at most 2"));
  copy.config["compress_ratios"] = {0, 4, 128, 4};
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains(": dspark_stages: found 3, expected at most 2"));
  copy.config["compress_ratios"] = {0, 4, 128, 4, 0, 0};
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains(": mtp.*: found stages [0, 1, 2], expected 2 as config.json says"));
  copy = without(dspark(3), "mtp.1.");
  copy.config["compress_ratios"] = {0, 4, 128, 4};
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains(": mtp.*: found stages [0, 2], expected 0, 1, ... without a gap"));
  for (int i = 3; i < 17; ++i) {
    copy.tensors["mtp." + std::to_string(i) + ".attn_norm.weight"].reset(DType::f32, {3});
  }
  CHECK(error<WithDspark>(copy) == doctest::Contains(": mtp.*: found stages [0, 2, 3,"));
  copy.tensors["mtp.1.attn_norm.weight"].reset(DType::f32, {3});
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains(": mtp.*: found 17 stages, expected at most 16"));
  copy = without(dspark(2), "mtp.1.");
  CHECK(error<WithDspark>(copy) ==
        doctest::Contains(": mtp.*: found stages [0], expected 2 as config.json says"));
}

TEST_CASE("published forms: the first layers of a release with its drafter") {
  const auto five = ds4::truncated(ds4::released_config("flash-0731").value(), 5);
  CHECK(five.compress_ratios == std::vector<std::size_t>{0, 0, 4, 128, 4});
  CHECK(five.dspark_stages == 3);
  CHECK(five.dspark_target_layer_ids == std::vector<std::size_t>{2, 3, 4});
  CHECK(ds4::drafter_of(five) == DrafterKind::dspark);
  // As before, none of the release of April.
  CHECK(ds4::drafter_of(ds4::truncated(ds4::released_config("flash").value(), 5)) ==
        DrafterKind::none);
}

TEST_CASE("published forms: DSpark's tensors, each where it belongs, once") {
  CheckpointCopy copy = dspark();
  copy.tensors["mtp.0.e_proj.weight"].reset(DType::bf16, {256, 256});
  copy.tensors["mtp.1.hnorm.weight"].reset(DType::bf16, {256});
  for (const auto& text : {error<WithDspark>(copy), error<ds4::models::quant>(copy)}) {
    CHECK(text == doctest::Contains("mtp.0.e_proj.weight: found a tensor of a "
                                    "multi-token-prediction layer, expected none beside the "
                                    "dspark_* fields of config.json; mtp.1.hnorm.weight: found"));
  }
  for (const char* name :
       {"mtp.0.main_proj.weight", "mtp.0.main_norm.weight", "mtp.1.norm.weight", "mtp.1.hc_head_fn",
        "mtp.1.markov_head.markov_w1.weight", "mtp.1.markov_head.markov_w2.weight",
        "mtp.1.confidence_head.proj.weight", "mtp.0.ffn.gate.bias",
        "mtp.1.ffn.shared_experts.w2.weight", "mtp.1.attn.attn_sink"}) {
    copy = dspark();
    REQUIRE(copy.tensors.erase(name) == 1);
    CHECK(error<WithDspark>(copy) == doctest::Contains((std::string(name) + ": missing").c_str()));
  }
  // In another stage than its own, or what a stage has none of.
  for (const char* name :
       {"mtp.1.main_proj.weight", "mtp.1.main_norm.weight", "mtp.0.norm.weight", "mtp.0.hc_head_fn",
        "mtp.0.markov_head.markov_w1.weight", "mtp.0.confidence_head.proj.weight",
        "mtp.0.ffn.gate.tid2eid", "mtp.1.attn.compressor.ape", "mtp.0.ffn.gate.bias_vl",
        "mtp.00x.norm.weight"}) {
    copy = dspark();
    copy.tensors[name].reset(DType::f32, {3});
    CHECK(error<WithDspark>(copy) ==
          doctest::Contains(
              (std::string(name) + ": found F32 [3], expected no such tensor").c_str()));
  }
  copy = dspark();
  copy.tensors["mtp.0.main_proj.weight"].reset(DType::bf16, {256, 256});
  CHECK(error<WithDspark>(copy) == doctest::Contains("expected shape [256, 512]"));
}

TEST_CASE("published forms: without the drafter's tensors, the main model loads") {
  const Loaded loaded = read<WithDspark>(without(dspark(), "mtp."));
  CHECK(loaded.drafter == DrafterKind::none);
  CHECK(logits_of<Quant>(without(dspark(), "mtp.")) == logits_of<Quant>(dspark()));
  CHECK(logits_of<ds4::Model<WithoutDrafter>>(quant()) == logits_of<Quant>(quant()));
  // A file that says there is none, though its tensors are there.
  CheckpointCopy copy = quant();
  copy.config["num_nextn_predict_layers"] = 0;
  CHECK(logits_of<Quant>(copy) == logits_of<Quant>(quant()));
}

TEST_CASE("published forms: a part that sees images is set aside, by name and count") {
  const CheckpointCopy seeing = with_images(quant(), DrafterKind::mtp);
  // 11 of vision.*, 4 of the aligner, 4 of images, a bias_vl for each layer, a bias for two.
  CHECK(seeing.tensors.size() == quant().tensors.size() + 11 + 4 + 4 + 5 + 2);
  CHECK(logits_of<Quant>(seeing) == logits_of<Quant>(quant()));
  CHECK(read<WithDspark>(with_images(dspark(), DrafterKind::dspark)).drafter ==
        DrafterKind::dspark);
  CHECK(read<ds4::models::quant>(with_images(dspark(), DrafterKind::dspark)).drafter ==
        DrafterKind::none);

  // There together or not at all.
  CHECK(error<ds4::models::quant>(without(with_images(quant(), DrafterKind::mtp), "image_pad")) ==
        doctest::Contains(": image_pad: missing"));
  CHECK(error<ds4::models::quant>(
            without(with_images(quant(), DrafterKind::mtp), "layers.3.ffn.gate.bias_vl")) ==
        doctest::Contains(": layers.3.ffn.gate.bias_vl: missing"));
  CheckpointCopy copy = quant();
  copy.config["vision_n_layers"] = 1;
  CHECK(error<ds4::models::quant>(copy) == "");
  copy = seeing;
  copy.config["vision_n_layers"] = 2;
  CHECK(error<ds4::models::quant>(copy) ==
        doctest::Contains(": vision.blocks.1.norm1.weight: missing"));
  copy.config["vision_n_layers"] = 0;
  CHECK(error<ds4::models::quant>(copy) ==
        doctest::Contains("vision.blocks.0.norm2.weight: found F32 [5], expected no such tensor"));
  copy = seeing;
  copy.tensors["vision.cls"].reset(DType::f32, {1});
  CHECK(error<ds4::models::quant>(copy) ==
        doctest::Contains("vision.cls: found F32 [1], expected no such tensor"));

  // Errors, where config.json does not announce it.
  copy = quant();
  for (const auto& [name, content] : seeing.tensors) {
    if (quant().tensors.contains(name)) continue;
    copy.tensors = quant().tensors;
    copy.tensors[name] = content;
    CHECK(error<ds4::models::quant>(copy) == doctest::Contains((name + ": found F32 [").c_str()));
  }
}

TEST_CASE("published forms: experts in FP8 with a float32 scale per block, as Base has them") {
  CheckpointCopy base = quant();
  CheckpointCopy plain = quant();  // the same values in float32
  base.config["expert_dtype"] = "fp8";
  std::size_t changed = 0;
  for (auto& [name, content] : quant().tensors) {
    if (content.dtype != DType::i8 && content.dtype != DType::f8_e4m3) continue;
    const std::size_t rows = content.shape[0];
    const std::size_t cols = content.shape[1] * (content.dtype == DType::i8 ? 2 : 1);
    const std::string scale = name.substr(0, name.rfind('.')) + ".scale";
    auto& codes = base.tensors[name];
    codes.reset(DType::f8_e4m3, {rows, cols});
    const std::size_t blocks = (cols + 127) / 128;
    base.tensors[scale].reset(DType::f32, {(rows + 127) / 128, blocks});
    for (std::size_t i = 0; i < base.tensors[scale].bytes.size() / 4; ++i) {
      // No power of two: an engine that reads it as one is 40 % off.
      base.tensors[scale].set(i, std::ldexp(1.4142f + 0.01f * static_cast<float>(i % 7), -9));
    }
    plain.tensors.erase(scale);
    plain.tensors[name].reset(DType::f32, {rows, cols});
    for (std::size_t i = 0; i < rows * cols; ++i) {
      // Codes up to 14, varied by the weights.
      const auto bits = std::to_integer<unsigned>(content.bytes[i % content.bytes.size()]) + 7 * i;
      const auto code = static_cast<std::uint8_t>((bits & 0x80u) | (bits % 0x58u));
      codes.set(i, code);
      const std::size_t block = i / cols / 128 * blocks + i % cols / 128;
      plain.tensors[name].set(i,
                              ds4::f8_e4m3_to_float(code) * base.tensors[scale].at<float>(block));
    }
    ++changed;
  }
  REQUIRE(changed > 100);
  const std::vector<float> expected = logits_of<Quant>(plain);
  CHECK(logits_of<Quant>(base) == expected);

  // Beside the reference, with activations in float32: rounding alone.
  const TempDir dir;
  base.write(dir);
  using Simd = ds4::Model<ds4::models::quant, ds4::Simd>;
  auto model = Simd::load(dir.path(), ds4::Simd({.exact = true}));
  auto state = model.new_state();
  const auto logits = model.forward(state, std::array<std::int32_t, 9>{3, 1, 4, 1, 5, 9, 2, 6, 5});
  double worst = 0.0;
  double squares = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{logits.flat()[i]} - double{expected[i]};
    worst = std::max(worst, std::abs(difference));
    squares += double{expected[i]} * double{expected[i]};
  }
  CHECK(worst < 1e-4 * std::sqrt(squares / static_cast<double>(expected.size())));
}
