// The tensors of a configuration by the rule, against those of real checkpoints.
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_json.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>

TEST_CASE("tensor_list: names and shapes are those of every checkpoint here") {
  for (const std::filesystem::path& folder :
       {ds4::test::data_dir("tiny-flash"), ds4::test::data_dir("tiny-pro-yarn"),
        ds4::test::data_dir("quant"), std::filesystem::path(ds4::test::models("/austen"))}) {
    CAPTURE(folder.string());
    const ds4::ConfigValues config = ds4::read_config(folder / "config.json");
    const ds4::Checkpoint checkpoint = ds4::Checkpoint::open(folder);
    std::map<std::string, std::vector<std::size_t>> listed;
    for (const ds4::TensorInfo& tensor : ds4::list_tensors(config)) {
      CHECK(listed.emplace(tensor.name, tensor.shape).second);
    }
    bool has_mtp = false;
    for (const ds4::StoredTensor& tensor : checkpoint.tensors()) {
      if (tensor.name.ends_with(".scale")) continue;
      has_mtp = has_mtp || tensor.name.starts_with("mtp.");
      CAPTURE(tensor.name);
      const auto found = listed.find(tensor.name);
      REQUIRE(found != listed.end());
      std::vector<std::size_t> shape = tensor.shape;
      if (tensor.dtype == ds4::DType::i8) shape[1] *= 2;  // packed FP4
      CHECK(shape == found->second);
      listed.erase(found);
    }
    // transformers leaves the extra layer out of what it writes.
    if (!has_mtp) std::erase_if(listed, [](const auto& t) { return t.first.starts_with("mtp."); });
    CHECK(listed.empty());
  }
}
