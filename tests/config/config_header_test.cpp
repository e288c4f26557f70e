// Tests of ds4/config/config_header.hpp. What is compiled of it is in add_model_test.cpp.
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/config/config_header.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <support/paths.hpp>

namespace {

using Json = nlohmann::json;
using Ratios = std::vector<std::size_t>;

Json release() { return ds4::detail::read_json(ds4::test::data("/quant/config.json")); }
Json transformers() { return ds4::detail::read_json(ds4::test::data("/tiny-flash/config.json")); }

doctest::String header(const Json& json) {
  return ds4::config_header(ds4::detail::config_from_json("file", json), "mine", "folder/file")
      .c_str();
}

/// A member's line contains this.
doctest::Contains member(const char* text) {
  return doctest::Contains(("\n  static constexpr " + std::string(text) + ";\n").c_str());
}

TEST_CASE("config header: all of it") {
  CHECK(header(release()) ==
        R"(// The configuration of folder/file; written by ds4_add_model(), do not edit.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <ds4/config/config.hpp>

namespace ds4::models {

struct mine {
  static constexpr std::string_view name = "mine";
  static constexpr std::size_t vocab_size = 512;
  static constexpr std::size_t hidden_size = 256;
  static constexpr std::size_t num_hidden_layers = 4;
  static constexpr std::size_t num_attention_heads = 4;
  static constexpr std::size_t head_dim = 128;
  static constexpr std::size_t qk_rope_head_dim = 32;
  static constexpr std::size_t q_lora_rank = 128;
  static constexpr std::size_t o_groups = 2;
  static constexpr std::size_t o_lora_rank = 64;
  static constexpr std::size_t n_routed_experts = 6;
  static constexpr std::size_t num_experts_per_tok = 2;
  static constexpr std::size_t moe_intermediate_size = 128;
  static constexpr double routed_scaling_factor = 1.5;
  static constexpr double swiglu_limit = 1.5;
  static constexpr std::size_t num_hash_layers = 2;
  static constexpr std::size_t index_n_heads = 4;
  static constexpr std::size_t index_head_dim = 64;
  static constexpr std::size_t index_topk = 8;
  static constexpr std::size_t sliding_window = 32;
  static constexpr std::array<std::size_t, 4> compress_ratios{0, 4, 128, 4};
  static constexpr CompressRates compress_rates{4, 128};
  static constexpr double rope_theta = 10000.0;
  static constexpr double compress_rope_theta = 160000.0;
  static constexpr RopeScaling rope_scaling{16.0, 65536.0, 32.0, 1.0};
  static constexpr std::size_t hc_mult = 4;
  static constexpr std::size_t hc_sinkhorn_iters = 20;
  static constexpr double hc_eps = 1e-06;
  static constexpr double rms_norm_eps = 1e-06;
  static constexpr std::size_t max_position_embeddings = 1048576;
  static constexpr std::size_t num_nextn_predict_layers = 1;
  static constexpr std::size_t dspark_stages = 0;
  static constexpr std::size_t dspark_block_size = 0;
  static constexpr std::size_t dspark_noise_token_id = 0;
  static constexpr std::array<std::size_t, 0> dspark_target_layer_ids{};
  static constexpr std::size_t dspark_markov_rank = 0;
};
static_assert(checked_config<mine>());

}  // namespace ds4::models
)");
}

TEST_CASE("config header: what a file leaves out is written out") {
  auto json = transformers();
  json.erase("qk_rope_head_dim");
  CHECK(header(json) == member("std::size_t qk_rope_head_dim = 8"));

  const auto with_ratios = [](Ratios ratios) {
    auto file = release();
    file["compress_ratios"] = std::move(ratios);
    return header(file);
  };
  CHECK(with_ratios({0, 8, 8, 0}) == member("CompressRates compress_rates{8, 128}"));
  CHECK(with_ratios({0, 8, 8, 0}) ==
        member("std::array<std::size_t, 4> compress_ratios{0, 8, 8, 0}"));
  CHECK(with_ratios({0, 64, 64, 0}) == member("CompressRates compress_rates{4, 64}"));
  CHECK(with_ratios({0, 64, 32, 0, 0}) == member("CompressRates compress_rates{32, 64}"));
  CHECK(with_ratios({0, 64, 32, 0, 0}) ==
        member("std::array<std::size_t, 4> compress_ratios{0, 64, 32, 0}"));

  json = release();
  json["rope_scaling"] = nullptr;
  CHECK(header(json) == member("RopeScaling rope_scaling{1.0, 0.0, 32.0, 1.0}"));
  json.erase("num_nextn_predict_layers");
  json["compress_ratios"].erase(4);
  CHECK(header(json) == member("std::size_t num_nextn_predict_layers = 0"));
}

TEST_CASE("config header: a number is the one that was read") {
  auto json = release();
  json["rope_theta"] = 18446744073709551616.0;  // in digits, more than an integer holds
  CHECK(header(json) == member("double rope_theta = 18446744073709551616.0"));
  json["rope_theta"] = 1e300;
  CHECK(header(json) == member("double rope_theta = 1e+300"));
  json["rope_theta"] = 10000.000000000002;
  CHECK(header(json) == member("double rope_theta = 10000.000000000002"));
}

TEST_CASE("config header: the name of the file cannot end the comment") {
  const auto values = ds4::detail::config_from_json("file", release());
  CHECK(ds4::config_header(values, "mine", "a\nint b;")
            .starts_with("// The configuration of a\\x0aint b;; written by ds4_add_model(), do not "
                         "edit.\n#pragma"));
}

TEST_CASE("config header: one type for checkpoints with different drafters") {
  const auto read = [](const Json& json) { return ds4::detail::config_from_json("file", json); };
  const auto mtp = read(release());
  REQUIRE(mtp.num_nextn_predict_layers == 1);
  Json json = release();
  const auto layers = json.at("num_hidden_layers").get<std::size_t>();
  auto ratios = json.at("compress_ratios").get<Ratios>();
  ratios.resize(layers);
  ratios.insert(ratios.end(), {0, 0});
  json["compress_ratios"] = ratios;
  json.update(Json{{"dspark_block_size", 4},
                   {"dspark_noise_token_id", 9},
                   {"dspark_target_layer_ids", {1, 3}},
                   {"dspark_markov_rank", 8}});
  const auto dspark = read(json);
  for (const auto& values : {ds4::with_drafters_of(mtp, dspark, "second"),
                             ds4::with_drafters_of(dspark, mtp, "second")}) {
    CHECK(values.num_nextn_predict_layers == 1);
    CHECK(values.dspark_stages == 2);
    CHECK(values.dspark_block_size == 4);
    CHECK(values.dspark_noise_token_id == 9);
    CHECK(values.dspark_target_layer_ids == Ratios{1, 3});
    CHECK(values.dspark_markov_rank == 8);
    CHECK(compare(mtp, values).empty());
    CHECK(compare(dspark, values).empty());
  }
  CHECK(compare(ds4::with_drafters_of(mtp, mtp, "second"), mtp).empty());
  json["sliding_window"] = 16;
  CHECK_THROWS_WITH_AS(ds4::with_drafters_of(mtp, read(json), "second"),
                       "ds4: second: sliding_window: found 16, expected 32 as in the other "
                       "configuration of one model",
                       ds4::Error);
}

}  // namespace
