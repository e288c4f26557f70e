// Tests of ds4/checkpoint/checkpoint_writer.hpp; tests/checkpoint/convert_test.cpp uses it at
// large.
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/checkpoint_writer.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/dtype.hpp>
#include <support/files.hpp>

namespace {

namespace fs = std::filesystem;
using ds4::CheckpointWriter;
using ds4::DType;
using ds4::test::content_of;
using ds4::test::error_text;
using ds4::test::TempDir;

/// Three groups of 6, 2 and 4 bytes.
std::vector<CheckpointWriter::Group> groups() {
  return {{{"a.weight", DType::i8, {2, 2}}, {"a.scale", DType::u8, {2}}},
          {{"b", DType::bf16, {1}}},
          {{"c", DType::f32, {1}}}};
}

std::vector<std::byte> bytes(std::size_t count) { return std::vector(count, std::byte{7}); }

std::size_t files_in(const fs::path& dir) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir), {}));
}

}  // namespace

TEST_CASE("checkpoint writer: files fill up to the limit, and appear when complete") {
  const TempDir dir;
  for (const auto& [limit, shards] :
       {std::pair<std::size_t, std::size_t>{12, 1}, {11, 2}, {8, 2}, {6, 2}, {5, 3}, {1, 3}}) {
    CAPTURE(limit);
    const fs::path out = dir.path() / std::to_string(limit);
    CheckpointWriter writer(out, groups(), limit);
    CHECK(writer.shards() == shards);
    CHECK(writer.total_bytes() == 12);
    writer.write(0, 1, bytes(2));  // values and scales in any order
    writer.write(0, 0, bytes(3));
    writer.write(0, 0, bytes(1));
    writer.write(1, 0, bytes(2));
    writer.write(2, 0, bytes(4));
    CHECK_FALSE(fs::exists(out / "model.safetensors"));
    CHECK_FALSE(fs::exists(out / "model.safetensors.index.json"));
    CHECK_FALSE(fs::exists(out / "config.json"));
    writer.finish({{"config.json", "{}"}});
    CHECK(content_of(out / "config.json") == "{}");
    CHECK(files_in(out) == shards + (shards > 1 ? 2 : 1));
    CHECK(ds4::Checkpoint::open(out).tensors().size() == 4);
    CHECK(error_text([&] { writer.finish({}); }) != "");
    CHECK(error_text([&] { writer.write(2, 0, bytes(1)); }) != "");
  }
}

TEST_CASE("checkpoint writer: data that are missing or out of order leave no checkpoint") {
  const TempDir dir;
  const std::string out = (dir.path() / "out").string();
  for (const std::size_t limit : {std::size_t{100}, std::size_t{1}}) {
    CAPTURE(limit);
    {
      CheckpointWriter writer(out, groups(), limit);
      writer.write(0, 0, bytes(4));
      writer.write(0, 1, bytes(2));
      // What the others lack is said of the first.
      const std::string name =
          limit == 1 ? "/model-00002-of-00003.safetensors" : "/model.safetensors";
      CHECK(
          error_text([&] { writer.finish({{"config.json", "{}"}}); }) ==
          ("ds4: " + out + name + ": b: expected 2 more bytes before the end, found none").c_str());
    }
    CHECK_FALSE(fs::exists(out));
  }
  {
    CheckpointWriter writer(out, groups(), 1);
    writer.write(0, 0, bytes(4));
    writer.write(0, 1, bytes(2));
    writer.write(1, 0, bytes(1));
    CHECK(error_text([&] { writer.write(0, 0, bytes(1)); }) ==
          ("ds4: " + out + ": expected the group written last or the next one, found group 0")
              .c_str());
    CHECK(error_text([&] { writer.write(2, 0, bytes(1)); }) != "");  // group 1 is not complete
  }
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("checkpoint writer: a file that cannot be written takes back those that were") {
  const TempDir dir;
  fs::create_directory(dir.path() / "model.safetensors.index.json.d");
  {
    CheckpointWriter writer(dir.path(), groups(), 1);
    writer.write(0, 0, bytes(4));
    writer.write(0, 1, bytes(2));
    writer.write(1, 0, bytes(2));
    writer.write(2, 0, bytes(4));
    CHECK(files_in(dir.path()) == 4);  // two shards, a temporary file, the folder
    // A file cannot take the place of this folder.
    CHECK(error_text([&] { writer.finish({{"model.safetensors.index.json.d", "{}"}}); }) != "");
  }
  CHECK(files_in(dir.path()) == 1);
}
