// Tests of ds4/checkpoint/load.hpp and Model::load, on damaged copies of the golden checkpoints.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/load.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

namespace {

using ds4::DType;
using ds4::test::CheckpointCopy;
using ds4::test::error_text;
using ds4::test::TempDir;
using TinyFlash = ds4::Model<ds4::models::tiny_flash>;
using TinyFlashSimd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using Quant = ds4::Model<ds4::models::quant>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;

const CheckpointCopy& tiny_flash() {
  static const CheckpointCopy copy("tiny-flash");
  return copy;
}
const CheckpointCopy& quant() {
  static const CheckpointCopy copy("quant");
  return copy;
}

template <class Model>
Model load(const CheckpointCopy& copy) {
  const TempDir dir;
  copy.write(dir);
  return Model::load(dir.path());  // the files stay mapped when their names are gone
}

/// Checks that load() throws exactly "ds4: <folder>/<file>: <problems>".
template <class Model>
void expect_error(const CheckpointCopy& copy, const std::string& problems,
                  const std::string& file = "") {
  const TempDir dir;
  copy.write(dir);
  const std::string where = file.empty() ? dir.path().string() : (dir.path() / file).string();
  const std::string expected = "ds4: " + where + ": " + problems;
  CHECK(error_text([&] { Model::load(dir.path()); }) == expected.c_str());
}

template <class Model>
std::vector<float> logits_of(Model model) {
  const std::array<std::int32_t, 9> ids{3, 1, 4, 1, 5, 9, 2, 6, 5};
  auto state = model.new_state();
  const auto logits = model.forward(state, ids);
  return {logits.flat().begin(), logits.flat().end()};
}

/// A part with one matrix, to load alone.
template <std::size_t Rows, std::size_t Cols>
struct OneMatrix {
  ds4::Matrix<Rows, Cols> w;
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("w.weight", w);
  }
};

}  // namespace

TEST_CASE("load: an unchanged copy is the same model") {
  CHECK(logits_of(load<TinyFlash>(tiny_flash())) ==
        logits_of(TinyFlash::load(ds4::test::data_dir("tiny-flash"))));
  const auto model = load<Quant>(quant());
  CHECK(logits_of(model) == logits_of(Quant::load(ds4::test::data_dir("quant"))));
  CHECK(model.config().index_topk == 8);
}

TEST_CASE("load: a missing tensor") {
  for (const char* name :
       {"layers.3.attn.wkv.weight", "layers.0.ffn.gate.tid2eid", "layers.4.attn.attn_sink",
        "layers.2.attn.indexer.compressor.ape", "layers.6.ffn.experts.7.w2.weight",
        "layers.3.ffn.gate.bias", "layers.5.hc_ffn_scale"}) {
    auto copy = tiny_flash();
    REQUIRE(copy.tensors.erase(std::string("model.") + name) == 1);
    expect_error<TinyFlash>(copy, std::string(name) + ": missing");
  }
  auto copy = tiny_flash();
  REQUIRE(copy.tensors.erase("model.layers.1.attn.norm.weight") == 1);
  expect_error<TinyFlash>(copy, "layers.1.attn.kv_norm.weight: missing");
}

TEST_CASE("load: a tensor that no weight uses") {
  for (const char* name : {"model.layers.7.attn.wkv.weight", "model.layers.0.attn.wkv.scale",
                           "model.layers.0.attn.compressor.ape", "rotary.inv_freq",
                           "model.layers.3.ffn.gate.tid2eid", "model.layers.0.attn.wq_a.bias"}) {
    auto copy = tiny_flash();
    copy.tensors[name].reset(DType::bf16, {2, 3});
    expect_error<TinyFlash>(copy,
                            std::string(name) + ": found BF16 [2, 3], expected no such tensor");
  }
}

TEST_CASE("load: a tensor of another shape") {
  auto copy = tiny_flash();
  std::swap(copy.tensors["model.layers.0.attn.wq_b.weight"].shape[0],
            copy.tensors["model.layers.0.attn.wq_b.weight"].shape[1]);
  expect_error<TinyFlash>(
      copy, "model.layers.0.attn.wq_b.weight: found F32 [32, 128], expected shape [128, 32]");

  // As many elements in another rank are no better.
  copy = tiny_flash();
  copy.tensors["model.norm.weight"].shape = {1, 64};
  expect_error<TinyFlash>(copy, "model.norm.weight: found F32 [1, 64], expected shape [64]");

  copy = tiny_flash();
  copy.tensors["model.layers.3.attn.compressor.ape"].reset(DType::f32, {4, 32});
  expect_error<TinyFlash>(
      copy, "model.layers.3.attn.compressor.ape: found F32 [4, 32], expected shape [128, 32]");

  copy = tiny_flash();
  copy.tensors["model.layers.1.ffn.gate.tid2eid"].reset(DType::i64, {255, 2});
  expect_error<TinyFlash>(
      copy, "model.layers.1.ffn.gate.tid2eid: found I64 [255, 2], expected shape [256, 2]");
}

TEST_CASE("load: a tensor of another storage") {
  for (const DType dtype : {DType::f64, DType::i64, DType::i32, DType::f8_e8m0}) {
    const std::string found = ": found " + std::string(dtype_name(dtype));
    auto copy = tiny_flash();
    copy.tensors["model.layers.0.attn.wkv.weight"].reset(dtype, {32, 64});
    expect_error<TinyFlash>(copy, "model.layers.0.attn.wkv.weight" + found +
                                      " [32, 64], expected dtype F32, BF16, F16, F8_E4M3, "
                                      "I8 (packed FP4) or U8 (packed FP4)");
  }
  for (const DType dtype : {DType::f64, DType::i64, DType::f8_e4m3, DType::i8}) {
    const std::string found = ": found " + std::string(dtype_name(dtype));
    auto copy = tiny_flash();
    copy.tensors["model.norm.weight"].reset(dtype, {64});
    expect_error<TinyFlash>(copy,
                            "model.norm.weight" + found + " [64], expected dtype F32, BF16 or F16");
  }
  for (const DType dtype : {DType::f32, DType::u8, DType::i8}) {
    const std::string found = ": found " + std::string(dtype_name(dtype));
    auto copy = tiny_flash();
    copy.tensors["model.layers.0.ffn.gate.tid2eid"].reset(dtype, {256, 2});
    expect_error<TinyFlash>(
        copy, "model.layers.0.ffn.gate.tid2eid" + found + " [256, 2], expected dtype I64 or I32");
  }
}

TEST_CASE("load: all problems come in one error") {
  auto copy = tiny_flash();
  copy.tensors.erase("model.layers.3.attn.wkv.weight");
  copy.tensors["extra"].reset(DType::i8, {3});
  copy.tensors["lm_head.scale"].reset(DType::f32, {});
  copy.tensors["model.norm.weight"].reset(DType::f32, {65});
  expect_error<TinyFlash>(copy,
                          "layers.3.attn.wkv.weight: missing; "
                          "model.norm.weight: found F32 [65], expected shape [64]; "
                          "extra: found I8 [3], expected no such tensor; "
                          "lm_head.scale: found F32 [], expected no such tensor");
}

TEST_CASE("load: of more than 20 problems, 20 are told and the rest counted") {
  for (const std::size_t count : std::array<std::size_t, 3>{20, 21, 27}) {
    auto copy = tiny_flash();
    std::string expected;
    for (std::size_t i = 0; i < count; ++i) {
      const std::string name = "extra" + std::to_string(100 + i);
      copy.tensors[name].reset(DType::f32, {1});
      if (i < 20) {
        expected += (i == 0 ? "" : "; ") + name + ": found F32 [1], expected no such tensor";
      }
    }
    if (count > 20) expected += "; and " + std::to_string(count - 20) + " more";
    expect_error<TinyFlash>(copy, expected);
  }
}

TEST_CASE("load: a hash table that names no expert") {
  const std::string name = "model.layers.2.ffn.gate.tid2eid";
  // The last one would be expert 1 in 32 bits.
  for (const std::int64_t expert :
       {std::int64_t{8}, std::int64_t{-1}, (std::int64_t{1} << 32) + 1}) {
    auto copy = tiny_flash();
    copy.tensors[name].set(2 * 255 + 1, expert);
    expect_error<TinyFlash>(
        copy, name + ": row 255 names expert " + std::to_string(expert) + ", expected 0 to 7");
  }
  auto copy = quant();
  copy.tensors["layers.1.ffn.gate.tid2eid"].set(0, std::int32_t{6});  // I32 in this layer
  expect_error<Quant>(copy, "layers.1.ffn.gate.tid2eid: row 0 names expert 6, expected 0 to 5");
}

TEST_CASE("load: a hash table in 32 or 64 bits is the same") {
  auto copy = tiny_flash();
  const std::string name = "model.layers.0.ffn.gate.tid2eid";
  const auto wide = copy.tensors.at(name);
  copy.tensors[name].reset(DType::i32, wide.shape);
  for (std::size_t i = 0; i < 512; ++i) {
    copy.tensors[name].set(i, static_cast<std::int32_t>(wide.at<std::int64_t>(i)));
  }
  CHECK(logits_of(load<TinyFlash>(copy)) == logits_of(load<TinyFlash>(tiny_flash())));
}

TEST_CASE("load: a parameter or matrix in BF16 or F16 has its values") {
  for (const char* name : {"model.layers.0.attn_norm.weight", "model.layers.2.attn.wkv.weight"}) {
    INFO(std::string(name));
    const auto original = tiny_flash().tensors.at(name);
    const std::size_t size = original.bytes.size() / 4;
    for (const DType dtype : {DType::bf16, DType::f16}) {
      auto narrow = tiny_flash();
      auto exact = tiny_flash();
      narrow.tensors[name].reset(dtype, original.shape);
      for (std::size_t i = 0; i < size; ++i) {
        // Finite codes of moderate size, varied by the weights; and the same values in F32.
        const auto bits = std::bit_cast<std::uint32_t>(original.at<float>(i));
        auto code = static_cast<std::uint16_t>(bits >> 16);
        if (dtype == DType::f16) code = static_cast<std::uint16_t>(0x3000u + (bits >> 9 & 0x8fffu));
        narrow.tensors[name].set(i, code);
        exact.tensors[name].set(
            i, dtype == DType::f16 ? ds4::f16_to_float(code) : ds4::bf16_to_float(code));
      }
      CHECK(logits_of(load<TinyFlash>(narrow)) == logits_of(load<TinyFlash>(exact)));
    }
  }
}

TEST_CASE("load: a configuration that is not the compiled one, field by field") {
  auto copy = tiny_flash();
  copy.config["hidden_size"] = 65;
  copy.config["swiglu_limit"] = 10.5;
  copy.config["layer_types"][3] = "sliding_attention";
  copy.config["index_topk"] = 512;
  expect_error<TinyFlash>(copy,
                          "hidden_size: found 65, expected 64; "
                          "swiglu_limit: found 10.5, expected 1; "
                          "index_topk: found 512, expected 8; "
                          "compress_ratios[3]: found 0, expected 128",
                          "config.json");

  copy = tiny_flash();
  copy.config["mlp_layer_types"][2] = "moe";
  expect_error<TinyFlash>(copy, "num_hash_layers: found 2, expected 3", "config.json");

  // The other model's: everything that differs, before any tensor is looked at.
  const auto text = error_text([] { TinyFlash::load(ds4::test::data_dir("quant")); });
  const std::string_view view = text.c_str();
  CHECK(view.find("config.json: vocab_size: found 512, expected 256; hidden_size: found 256, "
                  "expected 64; num_hidden_layers: found 4, expected 7") != view.npos);
  CHECK(view.find("compress_ratios: found [0, 4, 128, 4], expected [0, 0, 4, 128, 4, 128, 4]") !=
        view.npos);
  CHECK(view.find("missing") == view.npos);
}

TEST_CASE("load: scales that are missing, misshapen or of another storage") {
  // FP8 has one scale for 128 x 128 values, FP4 one for 32 of a row.
  for (const auto& [scale, shape, wrong] :
       {std::array<std::string, 3>{"layers.0.attn.wq_b.scale", "[4, 1]", "[1, 4]"},
        std::array<std::string, 3>{"layers.2.ffn.experts.4.w1.scale", "[128, 8]", "[1, 4]"}}) {
    auto copy = quant();
    REQUIRE(copy.tensors.erase(scale) == 1);
    expect_error<Quant>(copy, scale + ": missing");

    copy = quant();
    copy.tensors[scale].reset(DType::f8_e8m0, {1, 4});
    expect_error<Quant>(copy, scale + ": found F8_E8M0 " + wrong + ", expected shape " + shape);
    for (const DType dtype : {DType::i8, DType::bf16}) {
      copy = quant();
      copy.tensors[scale].reset(dtype, quant().tensors.at(scale).shape);
      expect_error<Quant>(copy, scale + ": found " + std::string(dtype_name(dtype)) + " " + shape +
                                    ", expected dtype F8_E8M0, U8 or F32");
    }
  }
  // A scale beside a weight that needs none.
  auto copy = quant();
  copy.tensors["layers.0.ffn.gate.scale"].reset(DType::f8_e8m0, {1, 2});
  expect_error<Quant>(copy,
                      "layers.0.ffn.gate.scale: found F8_E8M0 [1, 2], expected no such tensor");
}

TEST_CASE("load: scales in F32 are the same as in F8_E8M0") {
  auto copy = quant();
  std::size_t changed = 0;
  for (auto& [name, content] : copy.tensors) {
    if (content.dtype != DType::f8_e8m0) continue;
    const auto codes = content.bytes;
    content.reset(DType::f32, content.shape);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      content.set(i, ds4::f8_e8m0_to_float(std::to_integer<std::uint8_t>(codes[i])));
    }
    ++changed;
  }
  CHECK(changed == 134);
  CHECK(logits_of(load<Quant>(copy)) == logits_of(load<Quant>(quant())));
}

TEST_CASE("load: scales and packed values as tools that quantise store them") {
  const auto expected = logits_of(load<Quant>(quant()));
  const auto change = [](bool names, bool scales, bool values) {
    CheckpointCopy copy = quant();
    std::size_t changed = 0;
    auto tensors = std::exchange(copy.tensors, {});
    for (auto& [name, content] : tensors) {
      std::string stored = name;
      const bool is_scale = name.ends_with(".scale");
      if (names && is_scale) {
        stored.replace(name.size() - 6, 6, ".weight_scale_inv");
        ++changed;
      }
      if (content.dtype == DType::f8_e8m0 ? scales : content.dtype == DType::i8 && values) {
        content.dtype = DType::u8;
        ++changed;
      }
      copy.tensors[stored] = std::move(content);
    }
    CHECK(changed > 60);
    return copy;
  };
  CHECK(logits_of(load<Quant>(change(true, false, false))) == expected);
  CHECK(logits_of(load<Quant>(change(false, true, false))) == expected);
  CHECK(logits_of(load<Quant>(change(false, false, true))) == expected);
  const CheckpointCopy all = change(true, true, true);
  CHECK(logits_of(load<Quant>(all)) == expected);
  CHECK(logits_of(load<QuantSimd>(all)) == logits_of(load<QuantSimd>(quant())));

  // What is not these bytes is told as the file has it.
  const std::string w1 = "layers.0.ffn.experts.0.w1.";
  auto copy = all;
  copy.tensors[w1 + "weight"].reset(DType::u8, {128, 256});
  expect_error<Quant>(copy, w1 + "weight: found U8 [128, 256], expected shape [128, 128]");
  copy = all;
  copy.tensors[w1 + "weight_scale_inv"].reset(DType::u8, {1, 8});
  expect_error<Quant>(copy, w1 + "weight_scale_inv: found U8 [1, 8], expected shape [128, 8]");
  copy = all;
  copy.tensors[w1 + "scale"] = copy.tensors[w1 + "weight_scale_inv"];
  expect_error<Quant>(copy, "expected one tensor " + w1 + "scale, found " + w1 + "scale and " + w1 +
                                "weight_scale_inv");
}

TEST_CASE("load: tensors at any address are the same model") {
  const auto check = [](const CheckpointCopy& copy, auto&& load_from) {
    const TempDir aligned;
    copy.write(aligned);
    const auto expected = logits_of(load_from(aligned.path()));
    for (std::size_t offset = 0; offset < 8; ++offset) {
      CAPTURE(offset);
      const TempDir dir;
      copy.write_unaligned(dir, offset);
      CHECK(logits_of(load_from(dir.path())) == expected);
    }
  };
  const auto on_simd = [](std::optional<std::size_t> budget) {
    // Nothing kept: multiplied where the files have it, as far as the instruction set allows.
    return ds4::Simd({.memory_budget = budget});
  };
  check(tiny_flash(), [](const auto& dir) { return TinyFlash::load(dir); });
  check(quant(), [](const auto& dir) { return Quant::load(dir); });
  for (const auto budget : {std::optional<std::size_t>{}, std::optional<std::size_t>{0}}) {
    check(tiny_flash(), [&](const auto& dir) { return TinyFlashSimd::load(dir, on_simd(budget)); });
    check(quant(), [&](const auto& dir) { return QuantSimd::load(dir, on_simd(budget)); });
  }
}

TEST_CASE("load: FP4 and FP8 matrices keep their shapes apart") {
  // FP4 is packed, two columns to a byte; the same matrix in FP8 is not.
  const std::string w1 = "layers.0.ffn.experts.0.w1.weight";
  auto copy = quant();
  copy.tensors[w1].reset(DType::i8, {128, 256});
  expect_error<Quant>(copy, w1 + ": found I8 [128, 256], expected shape [128, 128]");
  copy = quant();
  copy.tensors[w1].dtype = DType::f8_e4m3;
  expect_error<Quant>(copy, w1 + ": found F8_E4M3 [128, 128], expected shape [128, 256]");
}

TEST_CASE("load: the multi-token-prediction layer") {
  CHECK(load<Quant>(quant()).drafter() == ds4::DrafterKind::mtp);

  auto without = quant();
  std::erase_if(without.tensors, [](const auto& item) { return item.first.starts_with("mtp."); });
  const auto model = load<Quant>(without);
  CHECK(model.drafter() == ds4::DrafterKind::none);
  CHECK(logits_of(model) == logits_of(load<Quant>(quant())));

  auto incomplete = quant();
  incomplete.tensors.erase("mtp.0.h_proj.weight");
  incomplete.tensors.erase("mtp.0.attn.attn_sink");
  expect_error<Quant>(incomplete, "mtp.0.h_proj.weight: missing; mtp.0.attn.attn_sink: missing");

  auto misshapen = quant();
  misshapen.tensors["mtp.0.enorm.weight"].reset(DType::f32, {255});
  expect_error<Quant>(misshapen, "mtp.0.enorm.weight: found F32 [255], expected shape [256]");

  auto second = quant();
  second.tensors["mtp.1.enorm.weight"].reset(DType::f32, {256});
  expect_error<Quant>(second, "mtp.1.enorm.weight: found F32 [256], expected no such tensor");
}

TEST_CASE("load: sizes that are no multiple of a block round up") {
  const auto check = [&]<std::size_t Rows, std::size_t Cols>(
                         OneMatrix<Rows, Cols> part, DType dtype, std::vector<std::size_t> shape,
                         std::vector<std::size_t> scale_shape) {
    CheckpointCopy copy = tiny_flash();
    copy.tensors.clear();
    copy.tensors["part.w.weight"].reset(dtype, std::move(shape));
    copy.tensors["part.w.scale"].reset(DType::f8_e8m0, std::move(scale_shape));
    const TempDir dir;
    copy.write(dir);
    const auto checkpoint = ds4::Checkpoint::open(dir.path());
    ds4::Reference<float> backend;
    ds4::WeightLoader<ds4::Reference<float>> loader(checkpoint, backend);
    loader.group("part.", part);
    loader.finish();
    CHECK(part.w.stored.values == checkpoint.find("part.w.weight")->data.data());
    CHECK(part.w.stored.scales == checkpoint.find("part.w.scale")->data.data());
    CHECK(part.w.stored.rows == Rows);
    CHECK(part.w.stored.cols == Cols);
    CHECK(part.w.stored.dtype == dtype);
  };
  check(OneMatrix<129, 300>(), DType::f8_e4m3, {129, 300}, {2, 3});
  check(OneMatrix<128, 128>(), DType::f8_e4m3, {128, 128}, {1, 1});
  check(OneMatrix<5, 33>(), DType::i8, {5, 17}, {5, 2});
  check(OneMatrix<5, 64>(), DType::i8, {5, 32}, {5, 2});
}
