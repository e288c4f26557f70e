#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/core/error.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/memory_checkpoint.hpp>
#include <ds4/runtime/simd.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>

TEST_CASE("memory_checkpoint: a model from memory is that of the files, also without the folder") {
  const auto dir = ds4::test::data_dir("tiny-flash");
  const auto compiled = ds4::compiled_model<ds4::models::tiny_flash, ds4::Simd>();
  const auto from_files = compiled.load(dir, {});
  std::vector<ds4::GivenTensor> tensors;
  for (const ds4::StoredTensor& tensor : from_files->checkpoint().tensors()) {
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.data});
  }
  const std::string config = ds4::test::content_of(dir / "config.json");
  std::unique_ptr<ds4::AnyModel> from_memory;
  std::filesystem::path folder;
  {
    const ds4::MemoryCheckpoint checkpoint(config, tensors);
    folder = checkpoint.path();
    from_memory = compiled.load(folder, {});
  }
  CHECK(!std::filesystem::exists(folder));
  CHECK(from_memory->checkpoint().fingerprint() == from_files->checkpoint().fingerprint());
  const std::vector<std::int32_t> ids{0, 7, 3, 200};
  ds4::AnyState one = from_files->new_state();
  ds4::AnyState two = from_memory->new_state();
  const ds4::Logits expected = from_files->prefill(one, ids);
  const ds4::Logits logits = from_memory->prefill(two, ids);
  CHECK(std::ranges::equal(logits.values, expected.values));
}

TEST_CASE("memory_checkpoint: data of another size and names used twice are refused") {
  const std::vector<std::byte> bytes(12);
  const ds4::GivenTensor good{"a", ds4::DType::f32, {3}, bytes};
  ds4::GivenTensor small = good;
  small.shape = {4};
  for (const auto& tensors : {std::vector{good, good}, std::vector{small}}) {
    CHECK_THROWS_AS(ds4::MemoryCheckpoint("{}", tensors), ds4::Error);
  }
}
