// Tests of ds4/checkpoint/convert.hpp: the golden checkpoints and random ones stored in every other
// format, there and back, and what must not leave anything behind.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/checkpoint/convert.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/synth.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/totals.hpp>

namespace {

namespace fs = std::filesystem;
using ds4::Checkpoint;
using ds4::Conversion;
using ds4::convert;
using ds4::ConvertOptions;
using ds4::DType;
using ds4::StorageFormat;
using ds4::StoredMatrix;
using ds4::StoredTensor;
using ds4::test::CheckpointCopy;
using ds4::test::content_of;
using ds4::test::data_dir;
using ds4::test::error_text;
using ds4::test::TempDir;

Conversion convert_to(StorageFormat format, const fs::path& from, const fs::path& to) {
  ConvertOptions options;
  options.format = format;
  return convert(from, to, options);
}

bool same_bytes(const StoredTensor& a, const StoredTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.size()) == 0;
}

/// All tensors of two checkpoints equal, byte by byte.
void check_same_tensors(const fs::path& a, const fs::path& b) {
  const auto first = Checkpoint::open(a);
  const auto second = Checkpoint::open(b);
  REQUIRE(first.tensors().size() == second.tensors().size());
  for (std::size_t i = 0; i < first.tensors().size(); ++i) {
    INFO(first.tensors()[i].name);
    CHECK(first.tensors()[i].name == second.tensors()[i].name);
    CHECK(same_bytes(first.tensors()[i], second.tensors()[i]));
  }
}

/// The values of a tensor with its scales if it has some, by its logical shape.
std::vector<float> values_of(const Checkpoint& checkpoint, const ds4::TensorInfo& info) {
  const StoredTensor* tensor = checkpoint.find(info.name);
  REQUIRE(tensor != nullptr);
  StoredMatrix stored;
  stored.values = tensor->data.data();
  stored.dtype = tensor->dtype;
  stored.cols = info.shape.back();
  stored.rows = info.shape.size() == 2 ? info.shape[0] : 1;
  if (tensor->dtype == DType::f8_e4m3 || tensor->dtype == DType::i8) {
    const StoredTensor* scale = checkpoint.find(ds4::scale_name(info.name));
    REQUIRE(scale != nullptr);
    stored.scales = scale->data.data();
    stored.scale_dtype = scale->dtype;
  }
  std::vector<float> values(stored.rows * stored.cols);
  for (std::size_t r = 0; r < stored.rows; ++r) {
    stored.decode_row(r, values.data() + r * stored.cols);
  }
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_same_values(const fs::path& a, const fs::path& b) {
  const auto first = Checkpoint::open(a);
  const auto second = Checkpoint::open(b);
  for (const ds4::TensorInfo& info : ds4::list_tensors(ds4::read_config(a / "config.json"))) {
    INFO(info.name);
    if (info.role == ds4::TensorRole::table) continue;
    CHECK(same_bits(values_of(first, info), values_of(second, info)));
  }
}

/// Checks that every tensor of the configuration is there in its storage, and nothing else; of an
/// extra layer that is not there, none.
void check_storage(const fs::path& dir, StorageFormat format) {
  const auto checkpoint = Checkpoint::open(dir);
  const bool has_mtp = checkpoint.find("mtp.0.attn_norm.weight") != nullptr;
  std::size_t found = 0;
  for (const ds4::TensorInfo& info : ds4::list_tensors(ds4::read_config(dir / "config.json"))) {
    if (info.name.starts_with("mtp.") && !has_mtp) continue;
    for (const ds4::TensorSpec& spec : ds4::stored_tensors(info, format)) {
      CAPTURE(spec.name);
      const StoredTensor* tensor = checkpoint.find(spec.name);
      REQUIRE(tensor != nullptr);
      CHECK(tensor->stored_name == spec.name);
      CHECK(tensor->dtype == spec.dtype);
      CHECK(tensor->shape == spec.shape);
      ++found;
    }
  }
  CHECK(found == checkpoint.tensors().size());
}

template <class C>
std::vector<float> logits_of(const fs::path& dir) {
  auto model = ds4::Model<C>::load(dir);
  const std::array<std::int32_t, 40> ids{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7,
                                         9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3};
  auto state = model.new_state();
  const auto logits = model.forward(state, ids);
  return {logits.flat().begin(), logits.flat().end()};
}

/// The random checkpoint of tests/data/odd in BF16, with blocks that are made to be difficult:
/// largest values around those that rounding brings to half of what the scale allows, over all
/// exponents that BF16 has, denormals, zeros.
void write_odd(const TempDir& dir) {
  const TempDir plain;
  ds4::synthesise(ds4::read_config(data_dir("odd") / "config.json"), StorageFormat::bf16, 3,
                  plain.path());
  CheckpointCopy copy(plain.path().string());
  std::mt19937 random(7);
  for (auto& [name, content] : copy.tensors) {
    if (content.dtype != DType::bf16) continue;
    const std::size_t cols = content.shape[1];
    const bool expert = name.find(".experts.") != std::string::npos;
    const float half = expert ? 3.0f : 224.0f;
    int exponent = 0;
    float amax = 0.0f;
    for (std::size_t i = 0; i < content.bytes.size() / 2; ++i) {
      if (expert ? i % cols % 32 == 0 : i == 0) {
        exponent = static_cast<int>(random() % 240) - 133;
        amax = std::ldexp(half * (1.0f + static_cast<float>(random() % 64) / 256.0f), exponent);
        if (random() % 10 == 0) amax = 0.0f;
        content.set(i, ds4::bf16_from_float(amax));
        continue;
      }
      const float value = std::ldexp(amax * (static_cast<float>(random() % 2001) / 1000.0f - 1.0f),
                                     -static_cast<int>(random() % 20));
      content.set(i, ds4::bf16_from_float(value));
    }
  }
  copy.write(dir);
}

}  // namespace

TEST_CASE("convert: the release's values are exact in BF16 and F32") {
  for (const StorageFormat format : {StorageFormat::bf16, StorageFormat::f32}) {
    const TempDir dir;
    const Conversion conversion = convert_to(format, data_dir("quant"), dir.path() / "out");
    check_storage(dir.path() / "out", format);
    check_same_values(data_dir("quant"), dir.path() / "out");
    for (const auto& change : conversion.changes) {
      CAPTURE(change.kind);
      CHECK(change.error.largest == 0.0);
      CHECK(change.error.relative_rms() == 0.0);
    }
    const auto expected =
        ds4::test::totals(ds4::read_config(data_dir("quant") / "config.json"), format);
    CHECK(conversion.bytes == expected.second);
    CHECK(conversion.tensors == expected.first);
    CHECK(conversion.files == 1);
    CHECK(conversion.left_out == 0);
  }
}

TEST_CASE("convert: a model of the converted checkpoint gives the same logits") {
  const TempDir dir;
  const std::vector<float> quant = logits_of<ds4::models::quant>(data_dir("quant"));
  convert_to(StorageFormat::bf16, data_dir("quant"), dir.path() / "bf16");
  CHECK(logits_of<ds4::models::quant>(dir.path() / "bf16") == quant);
  CHECK(ds4::Model<ds4::models::quant>::load(dir.path() / "bf16").drafter() ==
        ds4::DrafterKind::mtp);
  // The release's norms are BF16, and some of the fixture's F32: that is the only difference.
  convert_to(StorageFormat::release, data_dir("quant"), dir.path() / "norms");
  convert_to(StorageFormat::bf16, dir.path() / "norms", dir.path() / "norms-bf16");
  convert_to(StorageFormat::release, dir.path() / "norms-bf16", dir.path() / "release");
  CHECK(logits_of<ds4::models::quant>(dir.path() / "release") ==
        logits_of<ds4::models::quant>(dir.path() / "norms"));

  // From transformers' names and F32; FP4 experts are a rough copy of random ones.
  const std::vector<float> tiny = logits_of<ds4::models::tiny_flash>(data_dir("tiny-flash"));
  const auto error = [&](StorageFormat format, const fs::path& out) {
    convert_to(format, data_dir("tiny-flash"), out);
    check_storage(out, format);
    const std::vector<float> logits = logits_of<ds4::models::tiny_flash>(out);
    double squares = 0.0;
    double of_values = 0.0;
    for (std::size_t i = 0; i < tiny.size(); ++i) {
      const double value = static_cast<double>(tiny[i]);
      squares += std::pow(static_cast<double>(logits[i]) - value, 2);
      of_values += value * value;
    }
    return std::sqrt(squares / of_values);
  };
  CHECK(error(StorageFormat::f32, dir.path() / "tiny-f32") == 0.0);
  const double bf16 = error(StorageFormat::bf16, dir.path() / "tiny-bf16");
  CHECK(bf16 > 0.0);
  CHECK(bf16 < 0.1);  // a router or an indexer may choose otherwise
  CHECK(error(StorageFormat::release, dir.path() / "tiny-release") < 0.4);
}

TEST_CASE("convert: tensors at any address, under names and types of tools") {
  CheckpointCopy copy("quant");
  for (auto& [name, content] : std::exchange(copy.tensors, {})) {
    std::string stored = name;
    if (name.ends_with(".scale")) stored.replace(name.size() - 6, 6, ".weight_scale_inv");
    if (content.dtype == DType::i8 || content.dtype == DType::f8_e8m0) content.dtype = DType::u8;
    copy.tensors[stored] = std::move(content);
  }
  const TempDir dir;
  copy.write_unaligned(dir, 3);
  for (const auto format : {StorageFormat::f32, StorageFormat::bf16, StorageFormat::release}) {
    const std::string name = std::to_string(static_cast<int>(format));
    convert_to(format, data_dir("quant"), dir.path() / ("expected" + name));
    const Conversion conversion = convert_to(format, dir.path(), dir.path() / ("found" + name));
    CHECK(conversion.warnings.empty());
    check_storage(dir.path() / ("found" + name), format);
    check_same_tensors(dir.path() / ("expected" + name), dir.path() / ("found" + name));
    if (format == StorageFormat::release) CHECK(conversion.changes.size() < 5);  // packed as it was
  }
}

TEST_CASE("convert: the release's scale rule finds the fixture's own scales again") {
  const TempDir dir;
  convert_to(StorageFormat::bf16, data_dir("quant"), dir.path() / "bf16");
  convert_to(StorageFormat::release, dir.path() / "bf16", dir.path() / "release");
  const auto source = Checkpoint::open(data_dir("quant"));
  const auto again = Checkpoint::open(dir.path() / "release");
  std::size_t same = 0;
  for (const ds4::TensorInfo& info :
       ds4::list_tensors(ds4::read_config(data_dir("quant") / "config.json"))) {
    if (ds4::stored_tensors(info, StorageFormat::release).size() < 2) continue;
    const StoredTensor& before = *source.find(ds4::scale_name(info.name));
    const StoredTensor& after = *again.find(ds4::scale_name(info.name));
    INFO(info.name);
    CHECK(same_bits(values_of(source, info), values_of(again, info)));
    REQUIRE(before.data.size() == after.data.size());
    bool halved = false;
    for (std::size_t i = 0; i < before.data.size(); ++i) {
      const int difference =
          std::to_integer<int>(before.data[i]) - std::to_integer<int>(after.data[i]);
      CHECK((difference == 0 || difference == 1));
      halved = halved || difference != 0;
      if (difference == 0) ++same;
    }
    if (!halved) CHECK(same_bytes(*source.find(info.name), *again.find(info.name)));
  }
  CHECK(same > 70'000);
}

TEST_CASE("convert: BF16 and release, there and back, settle at once") {
  const TempDir dir;
  const auto at = [&](const char* name) { return dir.path() / name; };
  const TempDir odd;
  write_odd(odd);
  const Conversion first = convert_to(StorageFormat::release, odd.path(), at("release1"));
  CHECK(first.left_out == 0);
  convert_to(StorageFormat::bf16, at("release1"), at("bf16-1"));
  convert_to(StorageFormat::release, at("bf16-1"), at("release2"));
  convert_to(StorageFormat::bf16, at("release2"), at("bf16-2"));
  convert_to(StorageFormat::release, at("bf16-2"), at("release3"));

  check_storage(at("release1"), StorageFormat::release);
  check_storage(at("bf16-1"), StorageFormat::bf16);
  check_same_values(at("release1"), at("bf16-1"));  // exact
  check_same_tensors(at("bf16-1"), at("bf16-2"));   // the values, always
  check_same_values(at("release1"), at("release2"));
  check_same_tensors(at("release2"), at("release3"));  // the bytes, from the second release on
  // The bytes of the first release differ where scales have been halved, and only there.
  const auto one = Checkpoint::open(at("release1"));
  const auto two = Checkpoint::open(at("release2"));
  std::size_t halved = 0;
  for (const StoredTensor& before : one.tensors()) {
    if (!before.name.ends_with(".scale")) continue;
    const StoredTensor& after = *two.find(before.name);
    for (std::size_t i = 0; i < before.data.size(); ++i) {
      const int difference =
          std::to_integer<int>(before.data[i]) - std::to_integer<int>(after.data[i]);
      REQUIRE((difference == 0 || difference == 1));
      halved += static_cast<std::size_t>(difference);
    }
    const std::string weight = before.name.substr(0, before.name.rfind('.')) + ".weight";
    CHECK(same_bytes(before, after) == same_bytes(*one.find(weight), *two.find(weight)));
  }
  CHECK(halved > 100);  // the case is met
}

TEST_CASE("convert: what is stored so already is copied byte by byte") {
  const TempDir dir;
  auto copy = CheckpointCopy("quant");
  // Codes and scales that quantising would not give.
  auto& codes = copy.tensors.at("layers.0.attn.wkv.weight").bytes;
  std::ranges::fill(codes, std::byte{0x01});
  codes[5] = std::byte{0x7f};
  copy.tensors.at("layers.0.attn.wkv.scale").bytes[0] = std::byte{255};
  copy.write(dir);
  const Conversion conversion = convert_to(StorageFormat::release, dir.path(), dir.path() / "out");
  const auto out = Checkpoint::open(dir.path() / "out");
  const auto source = Checkpoint::open(dir.path());
  for (const StoredTensor& tensor : source.tensors()) {
    INFO(tensor.name);
    if (tensor.dtype == DType::i32) continue;
    if (tensor.name.find("norm") != std::string::npos) continue;  // some are F32
    CHECK(same_bytes(tensor, *out.find(tensor.name)));
  }
  for (const auto& change : conversion.changes) {
    const bool expected =
        change.kind == "norms" || change.kind == "hash tables" || change.kind == "drafter";
    CHECK(expected);
  }
}

TEST_CASE("convert: any mixture of storages, with the errors of each kind") {
  const TempDir dir;
  auto copy = CheckpointCopy("tiny-flash");
  const auto restore = [&](const std::string& name, DType dtype) -> CheckpointCopy::Content& {
    auto& content = copy.tensors.at("model." + name);
    content.reset(dtype, content.shape);
    return content;
  };
  auto& f16 = restore("layers.0.attn.wq_a.weight", DType::f16);  // [32, 64]
  for (std::size_t i = 0; i < f16.bytes.size() / 2; ++i) {
    f16.set(i, static_cast<std::uint16_t>(0x2c00u + 37 * i % 0x1000u));
  }
  auto& fp8 = restore("layers.1.attn.wq_a.weight", DType::f8_e4m3);
  for (std::size_t i = 0; i < fp8.bytes.size(); ++i) {
    fp8.bytes[i] = static_cast<std::byte>(i * 29 % 0x7f);
  }
  auto& scale = copy.tensors["model.layers.1.attn.wq_a.scale"];
  scale.reset(DType::f32, {1, 1});
  scale.set(0, 0.0123f);
  auto& norm = restore("layers.0.ffn_norm.weight", DType::bf16);
  for (std::size_t i = 0; i < norm.bytes.size() / 2; ++i) {
    norm.set(i, ds4::bf16_from_float(1.0f + static_cast<float>(i) / 64.0f));
  }
  copy.write(dir);
  const Conversion conversion = convert_to(StorageFormat::release, dir.path(), dir.path() / "out");
  check_storage(dir.path() / "out", StorageFormat::release);

  // The table again, from the files alone.
  struct Row {
    std::size_t tensors = 0;
    double largest = 0.0;
    double squares = 0.0;
    double of_values = 0.0;
  };
  std::map<std::string, Row> rows;
  const auto source = Checkpoint::open(dir.path());
  const auto out = Checkpoint::open(dir.path() / "out");
  for (const ds4::TensorInfo& info :
       ds4::list_tensors(ds4::read_config(dir.path() / "config.json"))) {
    if (info.name.starts_with("mtp.") || info.role == ds4::TensorRole::table) continue;
    const DType from = source.find(info.name)->dtype;
    const DType to = out.find(info.name)->dtype;
    if (from == to && from != DType::f8_e4m3) continue;
    const auto values = values_of(source, info);
    const auto stored = values_of(out, info);
    Row& row = rows[std::string(dtype_name(from)) + " " + std::string(dtype_name(to))];
    ++row.tensors;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double value = static_cast<double>(values[i]);
      const double error = static_cast<double>(stored[i]) - value;
      row.largest = std::max(row.largest, std::abs(error));
      row.squares += error * error;
      row.of_values += value * value;
    }
  }
  std::map<std::string, Row> told;
  for (const auto& change : conversion.changes) {
    const std::string from = change.from == "F8_E4M3 (F32 scales)" ? "F8_E4M3" : change.from;
    Row& row = told[from + " " + (change.to == "FP4" ? "I8" : change.to)];
    row.tensors += change.tensors;
    row.largest = std::max(row.largest, change.error.largest);
    row.squares += change.error.squares;
    row.of_values += change.error.of_values;
    CHECK(change.error.compared > 0);
  }
  REQUIRE(told.size() == rows.size());
  CHECK(rows.size() == 5);  // F32 to BF16, F8_E4M3 and I8; F16 and F8_E4M3 to F8_E4M3
  for (const auto& [key, row] : rows) {
    INFO(key);
    CHECK(told[key].tensors == row.tensors);
    CHECK(told[key].largest == row.largest);
    CHECK(told[key].squares == doctest::Approx(row.squares).epsilon(1e-9));
    CHECK(told[key].of_values == doctest::Approx(row.of_values).epsilon(1e-9));
  }
  std::map<std::string, std::size_t> kinds;
  for (const auto& change : conversion.changes) kinds[change.kind] += change.tensors;
  CHECK(kinds["routed experts"] == 7 * 8 * 3);
  CHECK(kinds["shared experts"] == 7 * 3);
  CHECK(kinds["attention projections"] == 7 * 5);
  CHECK(kinds["embedding and head"] == 2);
  CHECK(kinds["routers"] == 7);
  CHECK(kinds["norms"] == 7 * 4 + 1 + 5 + 3 - 1);  // one is in BF16 already
  CHECK(kinds["hyper-connections"] == 0);
}

TEST_CASE("convert: errors within half a unit of the last place") {
  const TempDir dir;
  const auto conversion =
      convert_to(StorageFormat::release, data_dir("tiny-flash"), dir.path() / "out");
  for (const auto& change : conversion.changes) {
    CAPTURE(change.kind);
    const double rms = change.error.relative_rms();
    CHECK(rms > 0.0);
    if (change.to == "BF16") CHECK(rms < 0x1p-9);
    if (change.to == "F8_E4M3") CHECK(rms < 0x1p-4);
    if (change.to == "FP4") CHECK(rms < 0.2);
  }
}

TEST_CASE("convert: shards have an index, and keep a matrix with its scales") {
  const TempDir dir;
  ConvertOptions options;
  std::size_t last = 0;
  std::size_t total = 0;
  options.progress = [&](std::size_t written, std::size_t all) {
    CHECK(written >= last);
    last = written;
    total = all;
  };
  const Conversion single = convert(data_dir("tiny-flash"), dir.path() / "single", options);
  CHECK(single.files == 1);
  CHECK(last == total);
  CHECK(total == single.bytes);

  last = 0;
  options.shard_bytes = 50'000;
  const Conversion sharded = convert(data_dir("tiny-flash"), dir.path() / "sharded", options);
  CHECK(sharded.files > 5);
  CHECK(sharded.bytes == single.bytes);
  check_same_tensors(dir.path() / "single", dir.path() / "sharded");  // opens: the index is right

  std::size_t shards = 0;
  for (const auto& entry : fs::directory_iterator(dir.path() / "sharded")) {
    const std::string name = entry.path().filename().string();
    CHECK(name.find(".tmp") == name.npos);
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    CHECK(name.ends_with("-of-000" + std::to_string(sharded.files) + ".safetensors"));
    const ds4::Safetensors shard(entry.path());
    std::size_t bytes = 0;
    for (const StoredTensor& tensor : shard.tensors()) {
      bytes += tensor.data.size();
      if (tensor.dtype == DType::i8 || tensor.dtype == DType::f8_e4m3) {
        CHECK(shard.find(ds4::scale_name(tensor.name)) != nullptr);
      }
    }
    CHECK(bytes <= 50'000);
  }
  CHECK(shards == sharded.files);
  const auto index =
      nlohmann::json::parse(content_of(dir.path() / "sharded" / "model.safetensors.index.json"));
  CHECK(index["metadata"]["total_size"] == sharded.bytes);

  // A group that is larger than a shard is one of its own.
  options.shard_bytes = 1;
  options.progress = {};
  const Conversion finest = convert(data_dir("tiny-flash"), dir.path() / "finest", options);
  CHECK(finest.files == finest.tensors);
  check_same_tensors(dir.path() / "single", dir.path() / "finest");
}

TEST_CASE("convert: config.json states the new storage and is otherwise the source's") {
  const TempDir dir;
  const auto config_of = [](const fs::path& folder) {
    return nlohmann::ordered_json::parse(content_of(folder / "config.json"));
  };
  const auto source = config_of(data_dir("quant"));
  convert_to(StorageFormat::bf16, data_dir("quant"), dir.path() / "bf16");
  auto expected = source;
  expected.erase("quantization_config");
  expected.erase("expert_dtype");
  CHECK(config_of(dir.path() / "bf16") == expected);
  convert_to(StorageFormat::f32, data_dir("quant"), dir.path() / "f32");
  expected["torch_dtype"] = "float32";
  CHECK(config_of(dir.path() / "f32").dump() == expected.dump());  // the order as well
  convert_to(StorageFormat::release, dir.path() / "f32", dir.path() / "release");
  CHECK(nlohmann::json(config_of(dir.path() / "release")) == nlohmann::json(source));

  expected = config_of(data_dir("tiny-flash"));
  expected["dtype"] = "bfloat16";  // not torch_dtype: as the source spells it
  convert_to(StorageFormat::bf16, data_dir("tiny-flash"), dir.path() / "tiny");
  CHECK(config_of(dir.path() / "tiny").dump() == expected.dump());
  CHECK(ds4::config_json(ds4::read_config(dir.path() / "tiny" / "config.json")) ==
        ds4::config_json(ds4::read_config(data_dir("tiny-flash") / "config.json")));

  const TempDir with_tokenizer;
  CheckpointCopy("tiny-flash").write(with_tokenizer);
  with_tokenizer.write("tokenizer.json", "{\"a\": 1}\n");
  with_tokenizer.write("generation_config.json", "{}");
  with_tokenizer.write("notes.txt", "not part of a checkpoint");
  convert_to(StorageFormat::bf16, with_tokenizer.path(), dir.path() / "tokenizer");
  CHECK(content_of(dir.path() / "tokenizer" / "tokenizer.json") == "{\"a\": 1}\n");
  CHECK(content_of(dir.path() / "tokenizer" / "generation_config.json") == "{}");
  CHECK_FALSE(fs::exists(dir.path() / "tokenizer" / "tokenizer_config.json"));
  CHECK_FALSE(fs::exists(dir.path() / "tokenizer" / "notes.txt"));
}

TEST_CASE("convert: DSpark stays, as the release stores it") {
  auto config = ds4::read_config(data_dir("quant") / "config.json");
  config.num_nextn_predict_layers = 0;
  config.has_dspark = true;
  config.dspark_stages = 2;
  config.dspark_block_size = 3;
  config.dspark_noise_token_id = 500;
  config.dspark_target_layer_ids = {1, 3};
  config.dspark_markov_rank = 4;
  const TempDir dir;
  ds4::synthesise(config, StorageFormat::f32, 3, dir.path() / "f32");
  const auto release =
      convert_to(StorageFormat::release, dir.path() / "f32", dir.path() / "release");
  CHECK(release.left_out == 0);
  check_storage(dir.path() / "release", StorageFormat::release);
  const auto checkpoint = Checkpoint::open(dir.path() / "release");
  const auto dtype = [&](const char* name) { return checkpoint.find(name)->dtype; };
  CHECK(dtype("mtp.0.main_proj.weight") == DType::f8_e4m3);
  CHECK(dtype("mtp.0.main_proj.scale") == DType::f8_e8m0);
  CHECK(dtype("mtp.0.main_norm.weight") == DType::bf16);
  CHECK(dtype("mtp.1.markov_head.markov_w1.weight") == DType::bf16);
  CHECK(dtype("mtp.1.confidence_head.proj.weight") == DType::bf16);
  CHECK(dtype("mtp.1.ffn.experts.5.w1.weight") == DType::i8);
  const auto back = ds4::read_config(dir.path() / "release" / "config.json");
  CHECK(back.dspark_stages == 2);
  CHECK(ds4::compare(back, config).empty());

  // Base's storage is read, and the vision release's other tensors are left out.
  ds4::synthesise(config, StorageFormat::base, 3, dir.path() / "base");
  const auto from_base = convert_to(StorageFormat::bf16, dir.path() / "base", dir.path() / "bf16");
  CHECK(std::ranges::any_of(from_base.changes, [](const auto& change) {
    return change.kind == "routed experts" && change.from == "F8_E4M3 (F32 scales)";
  }));
  CheckpointCopy copy((dir.path() / "f32").string());
  copy.config["vision_n_layers"] = 1;
  auto seeing = config;
  seeing.vision.emplace().n_layers = 1;
  const auto images = ds4::list_vision_tensors(seeing, ds4::DrafterKind::dspark);
  for (const auto& tensor : images) copy.tensors[tensor.name].reset(DType::bf16, {2});
  const TempDir vision;
  copy.write(vision);
  const auto text = convert_to(StorageFormat::f32, vision.path(), vision.path() / "out");
  CHECK(text.images_left_out == images.size());
  CHECK(text.tensors == release.tensors);
  CHECK_FALSE(ds4::read_config(vision.path() / "out" / "config.json").vision.has_value());
}

TEST_CASE("convert: drafters that the configuration does not announce are left out") {
  const auto mtp_tensors = [](const fs::path& folder) {
    std::size_t count = 0;
    const auto checkpoint = Checkpoint::open(folder);
    for (const StoredTensor& tensor : checkpoint.tensors()) {
      if (tensor.name.starts_with("mtp.")) ++count;
    }
    return count;
  };
  const std::size_t all = mtp_tensors(data_dir("quant"));
  REQUIRE(all > 50);

  const TempDir unlisted;
  auto copy = CheckpointCopy("quant");
  copy.config["num_nextn_predict_layers"] = 0;
  copy.config["compress_ratios"] = {0, 4, 128, 4};
  copy.write(unlisted);
  const auto short_one = convert_to(StorageFormat::bf16, unlisted.path(), unlisted.path() / "out");
  CHECK(short_one.left_out == all);
  CHECK(mtp_tensors(unlisted.path() / "out") == 0);

  const TempDir absent;  // listed, but the file has none
  copy = CheckpointCopy("quant");
  std::erase_if(copy.tensors, [](const auto& item) { return item.first.starts_with("mtp."); });
  copy.write(absent);
  const auto none = convert_to(StorageFormat::bf16, absent.path(), absent.path() / "out");
  CHECK(none.left_out == 0);
  CHECK(ds4::Model<ds4::models::quant>::load(absent.path() / "out").drafter() ==
        ds4::DrafterKind::none);
}

TEST_CASE("convert: a wrong source is one error, before anything is written") {
  const auto expect = [](const CheckpointCopy& copy, const std::string& problems) {
    const TempDir dir;
    copy.write(dir);
    const std::string text = error_text([&] {
                               convert_to(StorageFormat::release, dir.path(), dir.path() / "out");
                             }).c_str();
    CHECK(text == "ds4: " + dir.path().string() + problems);
    CHECK_FALSE(fs::exists(dir.path() / "out"));
  };
  auto copy = CheckpointCopy("tiny-flash");
  copy.tensors.erase("model.layers.3.attn.wkv.weight");
  copy.tensors["extra"].reset(DType::i8, {3});
  copy.tensors["model.norm.weight"].reset(DType::f32, {65});
  copy.tensors["model.layers.1.ffn.gate.tid2eid"].set(7, std::int64_t{8});
  expect(copy,
         ": model.layers.1.ffn.gate.tid2eid: row 3 names expert 8, expected 0 to 7; "
         "layers.3.attn.wkv.weight: missing; "
         "model.norm.weight: found F32 [65], expected shape [64]; "
         "extra: found I8 [3], expected no such tensor");
  copy = CheckpointCopy("quant");
  copy.tensors.erase("mtp.0.attn.wkv.scale");
  copy.tensors["layers.1.attn.wkv.scale"].reset(DType::i8, {1, 2});
  expect(copy,
         ": layers.1.attn.wkv.scale: found I8 [1, 2], expected dtype F8_E8M0, U8 or F32; "
         "mtp.0.attn.wkv.scale: missing");
  copy = CheckpointCopy("quant");
  copy.config["o_groups"] = 0;
  expect(copy, "/config.json: o_groups: expected at least 1, found 0");
  copy = CheckpointCopy("quant");
  copy.config["n_routed_experts"] = 2'000'000'000;
  expect(copy,
         "/config.json: n_routed_experts: expected at most 131072 in all layers, found 2000000000");
  copy.config["n_routed_experts"] = 10'000;
  expect(copy, "/config.json: n_routed_experts: expected at most as many as there are tensors, " +
                   std::to_string(copy.tensors.size()) + ", found 10000");
}

TEST_CASE("convert: neither the source's folder nor another checkpoint is written to") {
  const TempDir dir;
  CheckpointCopy("tiny-flash").write(dir);
  const std::string before = content_of(dir.path() / "model.safetensors");
  const auto error = [&](const fs::path& out) -> std::string {
    return error_text([&] { convert_to(StorageFormat::bf16, dir.path(), out); }).c_str();
  };
  CHECK(error(dir.path()).ends_with("expected another folder than the checkpoint's own"));
  CHECK(error(dir.path() / ".").ends_with("expected another folder than the checkpoint's own"));
  CHECK(content_of(dir.path() / "model.safetensors") == before);

  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    const TempDir other;
    other.write(name, "of somebody else");
    CHECK(error(other.path())
              .ends_with("expected a folder without a checkpoint, found " + std::string(name)));
    CHECK(content_of(other.path() / name) == "of somebody else");
    CHECK(std::distance(fs::directory_iterator(other.path()), {}) == 1);
  }
  dir.write("file", "");
  CHECK(error(dir.path() / "file").find("cannot create") != std::string::npos);
}

TEST_CASE("convert: what is cut short leaves nothing behind") {
  for (const std::size_t shard_bytes : {std::size_t{50'000}, std::size_t{5'000'000'000}}) {
    for (const double part : {0.0, 0.5, 1.0}) {
      const TempDir dir;
      const TempDir present;
      present.write("notes.txt", "stay");
      ConvertOptions options;
      options.shard_bytes = shard_bytes;
      options.progress = [&](std::size_t written, std::size_t total) {
        if (static_cast<double>(written) >= part * static_cast<double>(total)) {
          throw std::runtime_error("enough");
        }
      };
      for (const fs::path& out : {dir.path() / "out", present.path()}) {
        CHECK_THROWS_WITH(convert(data_dir("tiny-flash"), out, options), "enough");
      }
      CHECK(fs::is_empty(dir.path()));
      CHECK(std::distance(fs::directory_iterator(present.path()), {}) == 1);
    }
  }
}

TEST_CASE("convert: values that FP8 and FP4 do not have") {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto with = [](const std::string& name, std::size_t index, float value) {
    auto copy = CheckpointCopy("tiny-flash");
    copy.tensors.at("model." + name).set(index, value);
    return copy;
  };
  const auto error = [](const CheckpointCopy& copy) -> std::string {
    const TempDir dir;
    copy.write(dir);
    const std::string text = error_text([&] {
                               convert_to(StorageFormat::release, dir.path(), dir.path() / "out");
                             }).c_str();
    CHECK_FALSE(fs::exists(dir.path() / "out"));
    return text;
  };
  const std::string wkv = "layers.3.attn.wkv.weight";         // [32, 64]
  const std::string w2 = "layers.5.ffn.experts.6.w2.weight";  // [64, 32]
  for (const auto& [name, value, row] :
       {std::tuple{wkv, -infinity, 17}, std::tuple{w2, infinity, 40}, std::tuple{w2, nan, 63}}) {
    const std::size_t cols = name == wkv ? 64 : 32;
    CHECK(error(with(name, static_cast<std::size_t>(row) * cols + 5, value))
              .ends_with("model.safetensors: model." + name + ": row " + std::to_string(row) +
                         ": found a value that is not finite, which " +
                         (name == wkv ? "F8_E4M3" : "FP4") + " does not have"));
  }

  const TempDir dir;
  with(wkv, 5, nan).write(dir);
  const auto conversion = convert_to(StorageFormat::release, dir.path(), dir.path() / "out");
  const auto values = values_of(Checkpoint::open(dir.path() / "out"), {wkv, {32, 64}, {}});
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::isnan(values[i]) == (i == 5));
  for (const auto& change : conversion.changes) CHECK(std::isfinite(change.error.relative_rms()));
}
