// Tests of ds4/checkpoint/safetensors.hpp.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <support/files.hpp>
#include <support/mutate.hpp>
#include <support/paths.hpp>

namespace {

using ds4::Checkpoint;
using ds4::DType;
using ds4::Safetensors;
using ds4::SafetensorsWriter;
using ds4::TensorSpec;
using ds4::test::content_of;
using ds4::test::error_text;
using ds4::test::TempDir;
using Shape = std::vector<std::size_t>;

std::string bytes_of(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}
std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

/// A file with this header, padded to 8 bytes, and data.
std::string file_of(std::string header, std::string_view data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string length;
  for (unsigned i = 0; i < 8; ++i) length += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return length + header + std::string(data);
}

const std::string kValid = file_of(
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"I8","shape":[1,3],"data_offsets":[8,11]}})",
    "01234567890");

doctest::String open_error(std::string_view content) {
  const TempDir dir;
  const auto file = dir.write("x.safetensors", content);
  return error_text([&] { Safetensors{file}; });
}
/// The error for a header and this many bytes of data.
doctest::String header_error(std::string header, std::size_t size) {
  return open_error(file_of(std::move(header), std::string(size, 'x')));
}

TEST_CASE("safetensors: a file's tensors") {
  const TempDir dir;
  const Safetensors file(dir.write("x.safetensors", kValid));
  REQUIRE(file.tensors().size() == 2);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  const ds4::StoredTensor& a = file.tensors()[0];
  CHECK(a.name == "a");
  CHECK(a.dtype == DType::f32);
  CHECK(a.shape == Shape{2});
  CHECK(bytes_of(a.data) == "01234567");
  CHECK(a.where().ends_with("x.safetensors: a"));
  CHECK(file.find("b") == &file.tensors()[1]);
  CHECK(bytes_of(file.find("b")->data) == "890");
  CHECK(file.find("c") == nullptr);
  CHECK(file.find("") == nullptr);
}

TEST_CASE("safetensors: scalars and empty tensors") {
  const TempDir dir;
  const Safetensors file(dir.write(
      "x.safetensors", file_of(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                               R"("e":{"dtype":"F64","shape":[0,5],"data_offsets":[0,0]},)"
                               R"("f":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
                               "0123")));
  CHECK(file.find("s")->shape.empty());
  CHECK(file.find("s")->data.size() == 4);
  CHECK(file.find("e")->data.empty());
  CHECK(Safetensors(dir.write("y.safetensors", file_of("{}", ""))).tensors().empty());
}

TEST_CASE("safetensors: golden files open, with every byte theirs") {
  for (const char* name : {"/tiny-flash/golden.safetensors", "/ops/ops.safetensors"}) {
    const Safetensors file(ds4::test::data(name));
    CHECK(file.tensors().size() > 50);
  }
}

TEST_CASE("safetensors: a tensor keeps its file mapped") {
  const TempDir dir;
  ds4::StoredTensor kept;
  {
    const Safetensors file(dir.write("x.safetensors", kValid));
    kept = file.tensors()[0];
  }
  CHECK(bytes_of(kept.data) == "01234567");
}

TEST_CASE("safetensors: file too short for its header") {
  CHECK(open_error("1234567") ==
        doctest::Contains("expected 8 bytes of header length, found a file of 7"));
  CHECK(open_error(std::string(8, '\0')) == doctest::Contains("a header that begins with {"));
  CHECK(open_error(std::string("\x09\0\0\0\0\0\0\0{}      ", 16)) ==
        doctest::Contains("expected a header of at most 8 bytes, found length 9"));
  CHECK(open_error(std::string(8, '\xff') + "{}") ==
        doctest::Contains("at most 2 bytes, found length 18446744073709551615"));
}

TEST_CASE("safetensors: a header above the format's limit") {
  const TempDir dir;
  const auto path = dir.write("x.safetensors", "");
  {
    std::ofstream stream(path, std::ios::binary);
    stream << std::string("\x01\xe1\xf5\x05\0\0\0\0{", 9);  // 100,000,001
  }
  std::filesystem::resize_file(path, 200'000'000);  // sparse
  CHECK(error_text([&] { Safetensors{path}; }) ==
        doctest::Contains("at most 100000000 bytes, found length 100000001"));
}

TEST_CASE("safetensors: headers that are not of the format") {
  CHECK(header_error("[]", 0) == doctest::Contains("begins with {, found \"[]"));
  CHECK(header_error("{\"a\":", 0) == doctest::Contains("expected JSON"));
  CHECK(header_error(R"({"a":1})", 0) ==
        doctest::Contains("a: expected dtype, shape and data_offsets, found 1"));
  CHECK(header_error(R"({"a":{"dtype":"F32","shape":[1]}})", 4) ==
        doctest::Contains("found dtype, shape"));
  CHECK(header_error(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1],"x":0}})", 1) ==
        doctest::Contains("found data_offsets, dtype, shape, x"));
  CHECK(header_error(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1) ==
        doctest::Contains("a: dtype: expected one of F64, F32, BF16"));
  CHECK(header_error(R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", 1) ==
        doctest::Contains("U8, found 3"));
  for (const char* shape : {"4", "[-4]", "[4.0]", "[\"4\"]", "[null]", "[18446744073709551616]"}) {
    CAPTURE(shape);
    CHECK(header_error(
              R"({"a":{"dtype":"I8","shape":)" + std::string(shape) + R"(,"data_offsets":[0,4]}})",
              4) == doctest::Contains("a: shape: expected an array of non-negative integers"));
  }
  for (const char* offsets : {"4", "[4]", "[0,2,4]", "[0,-4]", "[0,4.0]", "{}"}) {
    CAPTURE(offsets);
    CHECK(header_error(
              R"({"a":{"dtype":"I8","shape":[4],"data_offsets":)" + std::string(offsets) + "}}",
              4) == doctest::Contains("a: data_offsets: expected [begin, end]"));
  }
  CHECK(header_error(R"({"__metadata__":4})", 0) ==
        doctest::Contains("__metadata__: expected an object, found 4"));
  CHECK(header_error(R"({"__metadata__":{"a":4}})", 0) ==
        doctest::Contains("__metadata__: a: expected a string, found 4"));
  CHECK(header_error(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                     R"("a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}})",
                     2) == doctest::Contains("expected each key once, found \"a\" again"));
}

TEST_CASE("safetensors: sizes and ranges that do not fit") {
  const auto text = [](const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
    return header_error(R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape +
                            R"(,"data_offsets":)" + offsets + "}}",
                        8);
  };
  CHECK(text("F32", "[2]", "[0,8]") == "");
  CHECK(text("F32", "[3]", "[0,8]") ==
        doctest::Contains("a: data_offsets: expected 12 bytes for F32 [3], found 8"));
  CHECK(text("F32", "[2]", "[8,0]") ==
        doctest::Contains("expected a range within the 8 bytes of data, found [8, 0]"));
  CHECK(text("F32", "[3]", "[0,12]") == doctest::Contains("within the 8 bytes of data"));
  CHECK(text("F32", "[2]", "[18446744073709551608,18446744073709551615]") ==
        doctest::Contains("within the 8 bytes of data"));
  CHECK(text("F32", "[4611686018427387905]", "[0,4]") == doctest::Contains("overflows"));
  CHECK(text("I8", "[4294967296,4294967296,8]", "[0,8]") == doctest::Contains("overflows"));
  CHECK(text("I8", "[4294967296,4294967296,0]", "[0,0]") == doctest::Contains("overflows"));
}

TEST_CASE("safetensors: gaps and overlaps") {
  const auto bytes = [](const std::string& a, const std::string& b) {
    return header_error(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                            R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                        9);
  };
  CHECK(bytes("[0,4]", "[4,8]") == doctest::Contains("data bytes 8 to 9 belong to no tensor"));
  CHECK(bytes("[5,9]", "[0,4]") == doctest::Contains("data bytes 4 to 5 belong to no tensor"));
  CHECK(bytes("[1,5]", "[5,9]") == doctest::Contains("data bytes 0 to 1 belong to no tensor"));
  CHECK(bytes("[0,4]", "[3,7]") ==
        doctest::Contains("b: data_offsets: expected a begin of at least 4, found 3"));
  CHECK(bytes("[2,6]", "[2,6]") == doctest::Contains("overlaps another tensor"));
}

TEST_CASE("safetensors: tensors at any address") {
  const TempDir dir;
  for (std::size_t before = 0; before < 8; ++before) {
    const std::string begin = std::to_string(before);
    const std::string end = std::to_string(before + 8);
    const std::string name = "x" + begin;
    const Safetensors file(dir.write(
        name, file_of(R"({"a":{"dtype":"U8","shape":[)" + begin + R"(],"data_offsets":[0,)" +
                          begin + R"(]},"late":{"dtype":"F64","shape":[1],"data_offsets":[)" +
                          begin + "," + end + "]}}",
                      std::string(before, 'x') + "01234567")));
    CHECK(bytes_of(file.find("late")->data) == "01234567");
    CHECK(reinterpret_cast<std::uintptr_t>(file.find("late")->data.data()) % 8 == before);
  }
}

TEST_CASE("safetensors: several problems come in one error, names made printable") {
  std::string header = "{";
  for (int i = 10; i < 35; ++i) {
    header += "\"t\\n" + std::to_string(i) + "\":" + (i == 34 ? "0}" : "0,");
  }
  const doctest::String text = header_error(header, 0);
  CHECK(text == doctest::Contains("t\\x0a10: expected"));
  CHECK(text == doctest::Contains("t\\x0a29: expected"));
  CHECK(text == doctest::Contains("; and 5 more"));
  CHECK(header_error("{\"" + std::string(100'000, 'n') + "\":0}", 0) ==
        doctest::Contains("nnn...nnn"));
}

TEST_CASE("safetensors: random damage gives a file or an Error") {
  const TempDir dir;
  std::mt19937 random(3);
  int refused = 0;
  constexpr int kRounds = 2000;
  for (int i = 0; i < kRounds; ++i) {
    const auto path = dir.write("x.safetensors", ds4::test::mutated(kValid, random));
    const auto text = error_text([&] {
      const Safetensors file(path);
      for (const auto& tensor : file.tensors()) {
        const auto whole = tensor.file->bytes();
        CHECK(tensor.data.data() >= whole.data() + 8);
        CHECK(tensor.data.data() + tensor.data.size() <= whole.data() + whole.size());
        CHECK(tensor.data.size() == ds4::detail::byte_count(tensor.shape, tensor.dtype));
      }
    });
    if (text != "") ++refused;
  }
  CHECK(refused > kRounds / 2);
  CHECK(refused < kRounds);
}

// Checkpoint

/// A file with tensors of one byte.
std::string bytes_file(const std::vector<std::string>& names) {
  nlohmann::json header = nlohmann::json::object();
  std::size_t at = 0;
  for (const std::string& name : names) {
    header[name] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {at, at + 1}}};
    ++at;
  }
  return file_of(header.dump(), std::string(at, 'x'));
}

/// A folder with shards s1 (a, b) and s2 (c), and an index.
class Sharded {
 public:
  Sharded() {
    dir.write("s1", bytes_file({"a", "b"}));
    dir.write("s2", bytes_file({"c"}));
    index = {{"metadata", {{"total_size", 3}}},
             {"weight_map", {{"a", "s1"}, {"b", "s1"}, {"c", "s2"}}}};
  }
  doctest::String error() const {
    dir.write("model.safetensors.index.json", index.dump());
    return error_text([&] { Checkpoint::open(dir.path()); });
  }
  TempDir dir;
  nlohmann::json index;
};

TEST_CASE("checkpoint: one file, names of transformers under the release's") {
  const auto checkpoint = Checkpoint::open(ds4::test::data("/tiny-flash"));
  CHECK(checkpoint.path() == ds4::test::data("/tiny-flash"));
  CHECK(checkpoint.tensors().size() == 359);
  const ds4::StoredTensor* embed = checkpoint.find("embed.weight");
  REQUIRE(embed != nullptr);
  CHECK(embed->stored_name == "model.embed_tokens.weight");
  CHECK(embed->shape == Shape{256, 64});
  CHECK(embed->where().ends_with("model.safetensors: model.embed_tokens.weight"));
  CHECK(checkpoint.find("model.embed_tokens.weight") == nullptr);
  CHECK(checkpoint.find("layers.6.attn.kv_norm.weight") != nullptr);
  CHECK(std::ranges::is_sorted(checkpoint.tensors(), {}, &ds4::StoredTensor::name));
}

TEST_CASE("checkpoint: shards") {
  const auto checkpoint = Checkpoint::open(ds4::test::data("/quant"));
  CHECK(checkpoint.tensors().size() == 367);
  CHECK(checkpoint.find("mtp.0.norm.weight")->file->path().filename() ==
        "model-00002-of-00002.safetensors");
  CHECK(checkpoint.find("embed.weight")->dtype == DType::bf16);
}

TEST_CASE("checkpoint: copies share files") {
  const Sharded folder;
  REQUIRE(folder.error() == "");
  auto first = std::make_unique<Checkpoint>(Checkpoint::open(folder.dir.path()));
  const Checkpoint copy = *first;
  CHECK(copy.find("b") == first->find("b"));
  first.reset();
  CHECK(bytes_of(copy.find("b")->data) == "x");
}

TEST_CASE("checkpoint: folders without exactly one of file and index") {
  const Sharded folder;
  REQUIRE(folder.error() == "");
  folder.dir.write("model.safetensors", kValid);
  CHECK(folder.error() == doctest::Contains("index.json, found both"));
  const TempDir empty;
  CHECK(error_text([&] { Checkpoint::open(empty.path()); }) == doctest::Contains("found neither"));
  CHECK(error_text([&] { Checkpoint::open(empty.path() / "none"); }) ==
        doctest::Contains("none: expected model.safetensors or"));
}

TEST_CASE("checkpoint: index and shards that do not match") {
  {
    Sharded folder;
    folder.index["weight_map"]["d"] = "s2";
    CHECK(folder.error() == doctest::Contains("d: expected in s2, which does not have it"));
  }
  {
    Sharded folder;
    folder.index["weight_map"].erase("b");
    CHECK(folder.error() ==
          doctest::Contains("b: found in s1, where weight_map does not place it"));
  }
  {
    Sharded folder;
    folder.index["weight_map"]["b"] = "s2";
    CHECK(folder.error() == doctest::Contains("b: expected in s2, which does not have it"));
    CHECK(folder.error() == doctest::Contains("b: found in s1"));
  }
  {
    Sharded folder;
    folder.index["weight_map"]["c"] = "s3";
    CHECK(folder.error() == doctest::Contains("s3: cannot open: No such file"));
  }
  {
    Sharded folder;
    folder.dir.write("s2", bytes_file({"b", "c"}));  // b twice
    CHECK(folder.error() == doctest::Contains("b: found in s2"));
  }
}

TEST_CASE("checkpoint: shard names do not lead out of the folder") {
  using namespace std::string_literals;
  for (const std::string& name :
       {"../s1"s, "/etc/passwd"s, "a/s1"s, ".."s, "."s, ""s, "a\\s1"s, "s1\0x"s}) {
    Sharded folder;
    folder.index["weight_map"]["a"] = name;
    CHECK(folder.error() == doctest::Contains("a: expected the name of a file in this folder"));
  }
  Sharded folder;
  folder.index["weight_map"]["a"] = 4;
  CHECK(folder.error() == doctest::Contains("in this folder, found 4"));
}

TEST_CASE("checkpoint: indexes that are not of the format") {
  Sharded folder;
  for (const nlohmann::json& index :
       {nlohmann::json::array(), nlohmann::json::object(), nlohmann::json{{"weight_map", 4}}}) {
    folder.index = index;
    CHECK(folder.error() == doctest::Contains("expected an object with weight_map, an object"));
  }
}

TEST_CASE("checkpoint: a total_size that is not the sum of all tensors is a warning") {
  Sharded folder;
  const auto warnings = [&] {
    REQUIRE(folder.error() == "");
    const auto checkpoint = Checkpoint::open(folder.dir.path());
    CHECK(checkpoint.tensors().size() == 3);
    return std::vector<std::string>(checkpoint.warnings().begin(), checkpoint.warnings().end());
  };
  CHECK(warnings().empty());
  folder.index["metadata"]["total_size"] = 3.0;
  CHECK(warnings().empty());
  const std::string where = (folder.dir.path() / "model.safetensors.index.json").string();
  for (const auto& [size, found] : {std::pair<nlohmann::json, std::string>{4, "4"},
                                    {"3", "\"3\""},
                                    {-3, "-3"},
                                    {3.5, "3.5"},
                                    {nullptr, "null"},
                                    {"a\nb", "\"a\\x0ab\""},
                                    {nlohmann::json::array(), "an array of 0"}}) {
    folder.index["metadata"]["total_size"] = size;
    CHECK(warnings() == std::vector{where +
                                    ": metadata.total_size: expected 3, the bytes of all "
                                    "tensors, found " +
                                    found + ", which is not used"});
  }
  for (const nlohmann::json& metadata :
       {nlohmann::json::object(), nlohmann::json(), nlohmann::json("3")}) {
    folder.index["metadata"] = metadata;
    CHECK(warnings().empty());
  }
  folder.index.erase("metadata");
  CHECK(warnings().empty());
}

// Fingerprints

/// A tensor of a file whose fingerprint is asked for.
struct Tensor {
  std::string name;
  DType dtype;
  Shape shape;
  std::string bytes;
};

/// Writes them to a file, in this order in the header's sense and in the data.
void write_tensors(const std::filesystem::path& file, const std::vector<Tensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const Tensor& tensor : tensors) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(file, specs);
  for (std::size_t i = 0; i < tensors.size(); ++i) writer.write(i, as_bytes(tensors[i].bytes));
  writer.finish();
}

std::uint64_t fingerprint_of(const std::vector<Tensor>& tensors) {
  const TempDir dir;
  write_tensors(dir.path() / "model.safetensors", tensors);
  return Checkpoint::open(dir.path()).fingerprint();
}

std::vector<Tensor> some_tensors() {
  std::vector<Tensor> tensors{{"layers.0.attn.kv_norm.weight", DType::f32, {3}, ""},
                              {"embed.weight", DType::u8, {40, 50}, ""},
                              {"head.weight", DType::bf16, {129, 1}, ""},
                              {"mtp.0.norm.weight", DType::u8, {255}, ""},
                              {"none", DType::f32, {0}, ""}};
  std::mt19937 random(5);
  for (Tensor& tensor : tensors) {
    tensor.bytes.resize(*ds4::detail::byte_count(tensor.shape, tensor.dtype));
    for (char& byte : tensor.bytes) byte = static_cast<char>(random());
  }
  return tensors;
}

TEST_CASE("checkpoint: the fingerprint is that of the tensors, wherever they lie") {
  const auto tensors = some_tensors();
  const std::uint64_t expected = fingerprint_of(tensors);
  CHECK(expected != 0);
  auto other = tensors;
  std::ranges::reverse(other);
  CHECK(fingerprint_of(other) == expected);
  other[4].name = "model.layers.0.attn.norm.weight";  // transformers' names
  other[3].name = "model.embed_tokens.weight";
  CHECK(fingerprint_of(other) == expected);

  for (std::size_t first = 1; first < tensors.size(); ++first) {  // tensors in the first shard
    const TempDir dir;
    const auto middle = tensors.begin() + static_cast<std::ptrdiff_t>(first);
    write_tensors(dir.path() / "s2", {tensors.begin(), middle});
    write_tensors(dir.path() / "s1", {middle, tensors.end()});
    nlohmann::json map;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      map[tensors[i].name] = i < first ? "s2" : "s1";
    }
    dir.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    const auto checkpoint = Checkpoint::open(dir.path());
    const Checkpoint copy = checkpoint;
    CHECK(copy.fingerprint() == expected);
    CHECK(checkpoint.fingerprint() == expected);
  }
}

TEST_CASE("checkpoint: what the fingerprint tells apart") {
  const auto tensors = some_tensors();
  const std::uint64_t expected = fingerprint_of(tensors);
  std::vector<std::uint64_t> found{expected};
  const auto add = [&](auto&& change) {
    auto other = tensors;
    change(other);
    found.push_back(fingerprint_of(other));
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    add([&](auto& other) { other[i].name += "x"; });
    add([&](auto& other) { other.erase(other.begin() + static_cast<std::ptrdiff_t>(i)); });
    const std::size_t size = tensors[i].bytes.size();
    const auto flip = [&, i](std::size_t at) {
      return [&, i, at](auto& other) {
        other[i].bytes[at] = static_cast<char>(other[i].bytes[at] ^ 1);
      };
    };
    for (const std::size_t at : {0u, 5u, 127u, 128u, 255u}) {
      if (at >= size) break;
      const bool is_seen = size <= 256 || at < 128 || size - at <= 128;
      if (is_seen) {
        add(flip(at));
        if (at < size - 1 - at) add(flip(size - 1 - at));
      } else {
        auto other = tensors;
        flip(at)(other);
        flip(size - 1 - at)(other);
        CHECK(fingerprint_of(other) == expected);
      }
    }
  }
  add([](auto& other) { other[0].dtype = DType::i32; });
  add([](auto& other) { other[1].shape = {50, 40}; });
  add([](auto& other) { other[1].shape = {2000}; });
  add([](auto& other) { other[4].shape = {0, 1}; });
  add([](auto& other) { std::swap(other[1].name, other[3].name); });
  std::ranges::sort(found);
  CHECK(std::ranges::adjacent_find(found) == found.end());
}

TEST_CASE("checkpoint: a file that was shortened has no fingerprint") {
  const TempDir dir;
  const auto file = dir.path() / "model.safetensors";
  write_tensors(file, some_tensors());
  const auto known = Checkpoint::open(dir.path());
  const auto other = Checkpoint::open(dir.path());
  const std::uint64_t before = known.fingerprint();
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  CHECK(known.fingerprint() == before);
  CHECK(error_text([&] { other.fingerprint(); }) == doctest::Contains("it was shortened while in"));
}

TEST_CASE("checkpoint: two tensors of one canonical name") {
  const TempDir dir;
  dir.write("model.safetensors", bytes_file({"norm.weight", "model.norm.weight"}));
  CHECK(error_text([&] { Checkpoint::open(dir.path()); }) ==
        doctest::Contains("expected one tensor norm.weight, found model.norm.weight and "
                          "norm.weight"));
}

TEST_CASE("checkpoint: random damage of an index gives a checkpoint or an Error") {
  const Sharded folder;
  const std::string valid = folder.index.dump();
  std::mt19937 random(4);
  int refused = 0;
  constexpr int kRounds = 1000;
  for (int i = 0; i < kRounds; ++i) {
    folder.dir.write("model.safetensors.index.json", ds4::test::mutated(valid, random));
    if (error_text([&] { Checkpoint::open(folder.dir.path()); }) != "") ++refused;
  }
  CHECK(refused > kRounds / 2);
  CHECK(refused < kRounds);
}

// SafetensorsWriter

std::size_t files_in(const TempDir& dir) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(dir.path()), {}));
}

TEST_CASE("safetensors writer: what is written is read back, every tensor aligned") {
  const TempDir dir;
  const auto path = dir.path() / "out.safetensors";
  const std::vector<TensorSpec> tensors{
      {"bytes", DType::u8, {3}},    {"none", DType::f32, {0, 4}}, {"halves", DType::bf16, {1, 3}},
      {"doubles", DType::f64, {}},  {"floats", DType::f32, {3}},  {"more bytes", DType::i8, {1}},
      {"long", DType::i64, {2, 1}}, {"empty", DType::u8, {0}}};
  SafetensorsWriter writer(path, tensors, {{"made by", "a test"}});
  const std::string contents[] = {"abc",          "",  "halves",           "12345678",
                                  "floatsfloats", "!", "longlonglonglong", ""};
  for (const std::string& content : contents) {  // in pieces, and an empty one
    writer.write(as_bytes(content).first(content.size() / 2));
    writer.write(as_bytes(content).subspan(content.size() / 2));
  }
  CHECK_FALSE(std::filesystem::exists(path));
  writer.finish();
  CHECK(files_in(dir) == 1);

  const Safetensors file(path);  // checks alignment and coverage
  CHECK(file.metadata().at("made by") == "a test");
  REQUIRE(file.tensors().size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const ds4::StoredTensor* tensor = file.find(tensors[i].name);
    REQUIRE(tensor != nullptr);
    CHECK(tensor->dtype == tensors[i].dtype);
    CHECK(tensor->shape == tensors[i].shape);
    CHECK(bytes_of(tensor->data) == contents[i]);
  }
}

TEST_CASE("safetensors writer: tensors in any order") {
  const TempDir dir;
  SafetensorsWriter writer(dir.path() / "out",
                           {{"a", DType::u8, {3}}, {"b", DType::u8, {2}}, {"c", DType::u8, {1}}});
  writer.write(1, as_bytes("d"));
  writer.write(2, as_bytes("f"));
  writer.write(as_bytes("a"));  // the first that is not complete
  writer.write(1, as_bytes("e"));
  CHECK(error_text([&] { writer.write(1, as_bytes("x")); }) ==
        doctest::Contains("out: b: expected 0 more bytes at most, found 1"));
  CHECK(error_text([&] { writer.finish(); }) ==
        doctest::Contains("out: a: expected 2 more bytes before the end, found none"));
  writer.write(as_bytes("bc"));
  writer.finish();
  const Safetensors file(dir.path() / "out");
  CHECK(bytes_of(file.find("a")->data) == "abc");
  CHECK(bytes_of(file.find("b")->data) == "de");
  CHECK(bytes_of(file.find("c")->data) == "f");
}

TEST_CASE("safetensors writer: no tensors") {
  const TempDir dir;
  SafetensorsWriter writer(dir.path() / "out", {});
  writer.finish();
  CHECK(Safetensors(dir.path() / "out").tensors().empty());
}

TEST_CASE("safetensors writer: unfinished files never appear, finished ones replace") {
  const TempDir dir;
  const auto path = dir.write("out", "old");
  {
    SafetensorsWriter writer(path, {{"a", DType::u8, {2}}});
    writer.write(as_bytes("a"));
    CHECK(error_text([&] { writer.finish(); }) ==
          doctest::Contains("out: a: expected 1 more bytes before the end, found none"));
    CHECK(files_in(dir) == 2);
  }
  CHECK(files_in(dir) == 1);
  CHECK(content_of(path) == "old");

  SafetensorsWriter writer(path, {{"a", DType::u8, {2}}});
  CHECK(error_text([&] { writer.write(as_bytes("abc")); }) ==
        doctest::Contains("out: a: expected 2 more bytes at most, found 3"));
  writer.write(as_bytes("ab"));
  CHECK(error_text([&] { writer.write(as_bytes("c")); }) ==
        doctest::Contains("found data after the last tensor"));
  writer.finish();
  CHECK(bytes_of(Safetensors(path).find("a")->data) == "ab");
  CHECK(error_text([&] { writer.finish(); }) == doctest::Contains("finished already"));
}

TEST_CASE("safetensors writer: two writers of one target do not disturb each other") {
  const TempDir dir;
  SafetensorsWriter first(dir.path() / "out", {{"a", DType::u8, {1}}});
  SafetensorsWriter second(dir.path() / "out", {{"b", DType::u8, {1}}});
  first.write(as_bytes("1"));
  second.write(as_bytes("2"));
  first.finish();
  second.finish();
  CHECK(bytes_of(Safetensors(dir.path() / "out").find("b")->data) == "2");
}

TEST_CASE("safetensors writer: declarations that make no file") {
  const TempDir dir;
  const auto declare = [&](std::vector<TensorSpec> tensors) {
    return error_text([&] { SafetensorsWriter(dir.path() / "out", std::move(tensors)); });
  };
  constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max() / 8;
  CHECK(declare({{"a", DType::u8, {1}}, {"a", DType::u8, {1}}}) ==
        doctest::Contains("a: expected a name used once"));
  CHECK(declare({{"__metadata__", DType::u8, {1}}}) == doctest::Contains("and not __metadata__"));
  CHECK(declare({{"a", DType::f64, {2, kHuge}}}) == doctest::Contains("a: its size overflows"));
  CHECK(declare({{"a", DType::u8, {kHuge}}, {"b", DType::u8, {2, kHuge}}}) ==
        doctest::Contains("the size of all tensors overflows"));
  CHECK(declare({{"\xff", DType::u8, {1}}}) == doctest::Contains("expected names and metadata in"));
  CHECK(files_in(dir) == 0);
}

TEST_CASE("safetensors writer: what the system refuses is an Error with its reason") {
  const TempDir dir;
  CHECK(error_text([&] { SafetensorsWriter(dir.path() / "none" / "out", {}); }) ==
        doctest::Contains("out: cannot create: No such file or directory"));
  std::filesystem::create_directory(dir.path() / "folder");
  CHECK(error_text([&] { SafetensorsWriter(dir.path() / "folder", {}); }) ==
        doctest::Contains("folder: cannot create: found a folder of this name"));
  CHECK(files_in(dir) == 1);

  // A file size limit stands for a full disk.
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ::rlimit old_limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  {
    SafetensorsWriter writer(dir.path() / "out", {{"a", DType::u8, {100'000}}});
    const ::rlimit limit{4096, old_limit.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const std::string data(100'000, 'x');
    const auto text = error_text([&] { writer.write(as_bytes(data)); });
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &old_limit) == 0);
    CHECK(text == doctest::Contains("out: cannot write: File too large"));
  }
  std::signal(SIGXFSZ, old_handler);
  CHECK(files_in(dir) == 1);
}

}  // namespace
