// Tests of ds4/checkpoint/weight_names.hpp.
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/weight_names.hpp>
#include <support/paths.hpp>

namespace {

using ds4::canonical_name;

TEST_CASE("weight names: transformers' are renamed to the release's") {
  const std::pair<const char*, const char*> names[] = {
      {"model.embed_tokens.weight", "embed.weight"},
      {"model.norm.weight", "norm.weight"},
      {"model.hc_head.hc_fn", "hc_head_fn"},
      {"model.hc_head.hc_base", "hc_head_base"},
      {"model.hc_head.hc_scale", "hc_head_scale"},
      {"model.layers.3.attn.norm.weight", "layers.3.attn.kv_norm.weight"},
      {"model.layers.3.attn.compressor.norm.weight", "layers.3.attn.compressor.norm.weight"},
      {"model.layers.3.attn_norm.weight", "layers.3.attn_norm.weight"},
      {"model.layers.12.hc_attn_fn", "layers.12.hc_attn_fn"},
      {"head.weight", "head.weight"},
      {"layers.0.attn.wkv.weight_scale_inv", "layers.0.attn.wkv.scale"},
      {"model.layers.0.attn.wkv.weight_scale_inv", "layers.0.attn.wkv.scale"},
      {"layers.0.weight_scale_inv.weight", "layers.0.weight_scale_inv.weight"},
      {"weight_scale_inv", "weight_scale_inv"}};
  for (const auto& [from, to] : names) CHECK(canonical_name(from) == to);
}

TEST_CASE("weight names: the release's stay, and renaming twice changes nothing") {
  for (const char* folder : {"/tiny-flash", "/tiny-pro-yarn", "/quant"}) {
    const auto checkpoint = ds4::Checkpoint::open(ds4::test::data(folder));
    for (const auto& tensor : checkpoint.tensors()) {
      CHECK(canonical_name(tensor.name) == tensor.name);
      if (tensor.where().find("/quant/") != std::string::npos) {
        CHECK(tensor.name == tensor.stored_name);
      }
    }
  }
}

}  // namespace
