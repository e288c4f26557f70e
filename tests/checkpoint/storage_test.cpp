// How checkpoints store tensors, against the sizes of the published ones (model.md 11) and the
// storage of the release-format fixture.
#include <cstddef>
#include <string>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/releases.hpp>
#include <support/golden.hpp>
#include <support/totals.hpp>

using ds4::StorageFormat;
using ds4::test::totals;

TEST_CASE("storage: tensors and bytes of the published checkpoints") {
  const auto flash = totals(ds4::released_config("flash").value(), StorageFormat::release);
  CHECK(flash.first == 69'187);
  CHECK(flash.second == 159'609'485'896);
  const auto pro = totals(ds4::released_config("pro").value(), StorageFormat::release);
  CHECK(pro.first == 145'116);
  CHECK(pro.second == 864'704'792'696);
}

TEST_CASE("storage: the release-format fixture is stored as the rule says") {
  const auto folder = ds4::test::data_dir("quant");
  const ds4::Checkpoint checkpoint = ds4::Checkpoint::open(folder);
  std::size_t found = 0;
  for (const ds4::TensorInfo& tensor :
       ds4::list_tensors(ds4::read_config(folder / "config.json"))) {
    for (const ds4::TensorSpec& expected : ds4::stored_tensors(tensor, StorageFormat::release)) {
      CAPTURE(expected.name);
      const ds4::StoredTensor* stored = checkpoint.find(expected.name);
      REQUIRE(stored != nullptr);
      ++found;
      CHECK(stored->shape == expected.shape);
      // The fixture varies the storage of small tensors.
      if (tensor.role == ds4::TensorRole::norm || tensor.role == ds4::TensorRole::table) continue;
      CHECK(stored->dtype == expected.dtype);
    }
  }
  CHECK(found == checkpoint.tensors().size());
}
