// Tests of ds4/config/config_json.hpp.
#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/releases.hpp>
#include <ds4/core/json.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/mutate.hpp>
#include <support/paths.hpp>

namespace {

using ds4::ConfigValues;
using ds4::test::error_text;
using Json = nlohmann::json;
using Ratios = std::vector<std::size_t>;

Json release() { return ds4::detail::read_json(ds4::test::data("/quant/config.json")); }
Json tiny_flash() { return ds4::detail::read_json(ds4::test::data("/tiny-flash/config.json")); }
Json transformers() {
  return ds4::detail::read_json(ds4::test::data("/tiny-pro-yarn/config.json"));
}

ConfigValues read(const Json& json) { return ds4::detail::config_from_json("file", json); }

/// The error for a form with one value replaced, given its path ("/rope_scaling/type").
doctest::String error_with(Json json, const char* path, Json value) {
  json[Json::json_pointer(path)] = std::move(value);
  return error_text([&] { read(json); });
}

TEST_CASE("config.json: the release's form") {
  const ConfigValues values = ds4::read_config(ds4::test::data("/quant/config.json"));
  CHECK(values.vocab_size == 512);
  CHECK(values.qk_rope_head_dim == 32);
  CHECK(values.num_hash_layers == 2);
  CHECK(values.compress_ratios == Ratios{0, 4, 128, 4});
  CHECK(values.compress_rates == ds4::CompressRates{4, 128});
  CHECK(values.rope_theta == 10000);
  CHECK(values.compress_rope_theta == 160000);
  CHECK(values.rope_scaling == ds4::RopeScaling{16, 65536, 32, 1});
  CHECK(values.hc_eps == 1e-6);
  CHECK(values.num_nextn_predict_layers == 1);
  CHECK(values.bos_token_id == 0);
  CHECK(values.eos_token_ids == Ratios{1});
  CHECK_FALSE(values.has_dspark);
}

TEST_CASE("config.json: transformers' form") {
  const ConfigValues yarn = read(transformers());
  CHECK(yarn.compress_ratios == Ratios{128, 128, 4, 128, 4});
  CHECK(yarn.num_hash_layers == 3);
  CHECK(yarn.rope_scaling == ds4::RopeScaling{16, 64, 32, 1});
  const ConfigValues plain = ds4::read_config(ds4::test::data("/tiny-flash/config.json"));
  CHECK(plain.compress_ratios == Ratios{0, 0, 4, 128, 4, 128, 4});
  CHECK(plain.rope_scaling == ds4::RopeScaling{});
  CHECK(plain.compress_rope_theta == 160000);
}

TEST_CASE("config.json: the rotary width follows from the factor") {
  auto json = transformers();
  json.erase("qk_rope_head_dim");
  auto flash = tiny_flash();
  flash.erase("qk_rope_head_dim");
  CHECK(read(flash).qk_rope_head_dim == 8);  // 32 * 0.25
  CHECK(read(json).qk_rope_head_dim == 16);  // 48 * 0.3333333333333333, which is 16 in double
  CHECK(
      error_with(transformers(), "/qk_rope_head_dim", 14) ==
      "ds4: file: qk_rope_head_dim: expected 16 as in head_dim * partial_rotary_factor, found 14");
  CHECK(error_with(transformers(), "/partial_rotary_factor", 1.5) ==
        doctest::Contains("partial_rotary_factor: expected"));
}

TEST_CASE("config.json: the schedule for either Flash form is the compiled one") {
  auto json = release();
  const auto flash = ds4::config_values<ds4::Flash>();
  ds4::visit_fields(
      [&](std::string_view field, const auto& value) {
        if (field.find('.') == field.npos && field != "dspark_stages") {
          json[std::string(field)] = value;
        }
      },
      flash);
  json["compress_ratios"].push_back(0);
  CHECK(ds4::compare(read(json), flash).empty());
}

TEST_CASE("config.json: every published one, covered by the compiled types") {
  const auto flash = ds4::config_values<ds4::Flash>();
  const auto pro = ds4::config_values<ds4::Pro>();
  const auto vision = ds4::config_values<ds4::FlashVision>();
  struct Published {
    const char* file;
    const ds4::ConfigValues& compiled;
    const char* name;  // of released_config()
  };
  for (const auto& [file, compiled, name] :
       {Published{"flash-2026-04-early.config.json", flash, "flash"},
        Published{"flash-2026-04.config.json", flash, "flash-2026-04"},
        Published{"flash-base.config.json", flash, "flash-base"},
        Published{"flash-0731.config.json", flash, "flash-0731"},
        Published{"flash-0731.inference-config.json", flash, "flash-0731"},
        Published{"flash-vision-exp.config.json", vision, "flash-vision-exp"},
        Published{"pro-2026-04.config.json", pro, "pro"},
        Published{"pro-0813.config.json", pro, "pro-0813"},
        Published{"pro-0813.inference-config.json", pro, "pro-0813"}}) {
    CAPTURE(std::string(file));
    const ConfigValues values = ds4::read_config(ds4::test::data_dir("real-configs") / file);
    for (const auto& difference : ds4::compare(values, compiled)) {
      FAIL_CHECK(difference.field, ": found ", difference.found, ", expected ",
                 difference.expected);
    }
    const ConfigValues named = ds4::released_config(name).value();
    CHECK(ds4::to_string(values) == ds4::to_string(named));
    CHECK(values.has_dspark == named.has_dspark);
    CHECK(values.vision.has_value() == named.vision.has_value());
    if (values.vision) CHECK(values.vision->inter_dim == named.vision->inter_dim);
    if (!values.expert_dtype.empty()) CHECK(values.expert_dtype == named.expert_dtype);
    // The other epsilon is another model.
    if (!values.vision) CHECK(ds4::compare(values, vision).size() >= 1);
  }
  const auto differences = ds4::compare(ds4::released_config("flash-vision-exp").value(), flash);
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].field == "rms_norm_eps");
  CHECK(differences[0].found == "1e-20");
  CHECK_FALSE(ds4::released_config("flash-2027").has_value());
}

TEST_CASE("config.json: how long the drafter and the context are needs no other type") {
  const auto flash = ds4::config_values<ds4::Flash>();
  const auto file = [](const char* name) {
    return ds4::detail::read_json(ds4::test::data_dir("real-configs") / name);
  };
  const auto covered = [&](const Json& json) { return ds4::compare(read(json), flash).empty(); };
  for (const Json& count : {Json(0), Json(1), Json(nullptr)}) {
    for (const bool kept : {true, false}) {
      Json april = file("flash-2026-04.config.json");
      april["num_nextn_predict_layers"] = count;
      if (!kept) april["compress_ratios"].erase(43);
      CHECK(covered(april));
      CHECK(read(april).num_nextn_predict_layers == (count == Json(1) ? 1 : 0));

      Json dspark = file("flash-0731.config.json");
      dspark["num_nextn_predict_layers"] = count;
      if (!kept)
        dspark["compress_ratios"].erase(dspark["compress_ratios"].begin() + 43,
                                        dspark["compress_ratios"].end());
      CHECK(covered(dspark));
      CHECK(read(dspark).num_nextn_predict_layers == 0);
      CHECK(read(dspark).dspark_stages == (kept ? 3 : 0));
    }
  }
  Json json = file("flash-0731.config.json");
  json["max_position_embeddings"] = 65536;
  CHECK(covered(json));
  json["max_position_embeddings"] = 1048577;
  auto differences = ds4::compare(read(json), flash);
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].expected == "at most 1048576");
  json = file("flash-0731.config.json");
  json["compress_ratios"].push_back(0);
  differences = ds4::compare(read(json), flash);
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].field == "dspark_stages");
  CHECK(differences[0].expected == "at most 3");
  // The sizes of a drafter are its type's.
  json = file("flash-0731.config.json");
  json["dspark_block_size"] = 7;
  CHECK(ds4::compare(read(json), flash).size() == 1);
  // A type without a drafter covers a file with one.
  auto none = ds4::with_drafter(flash, ds4::DrafterKind::none);
  CHECK(ds4::compare(read(json), none).empty());
  CHECK(ds4::compare(read(file("flash-2026-04.config.json")), none).empty());
}

TEST_CASE("config.json: what of DSpark is refused, each by name") {
  const Json dspark =
      ds4::detail::read_json(ds4::test::data_dir("real-configs") / "flash-0731.config.json");
  REQUIRE_NOTHROW(read(dspark));
  const auto text = [&](const char* path, Json value) {
    return error_with(dspark, path, std::move(value));
  };
  for (const char* field : {"dspark_block_size", "dspark_noise_token_id", "dspark_target_layer_ids",
                            "dspark_markov_rank"}) {
    Json json = dspark;
    json.erase(field);
    CHECK(error_text([&] { read(json); }) == ("ds4: file: missing " + std::string(field)).c_str());
  }
  for (const char* path : {"/dspark_n_routed_experts", "/dspark_num_experts_per_tok"}) {
    CHECK(text(path, 4) == ("ds4: file: " + std::string(path + 1) +
                            ": expected none but dspark_block_size, dspark_noise_token_id, "
                            "dspark_target_layer_ids and dspark_markov_rank, found another field "
                            "of DSpark")
                               .c_str());
  }
  CHECK(text("/dspark_\n", 4) == doctest::Contains("dspark_\\x0a: expected none but "));
  CHECK(text("/dspark_block_size", 0) ==
        "ds4: file: dspark_block_size: expected at least 1, found 0");
  CHECK(text("/dspark_markov_rank", 0) ==
        "ds4: file: dspark_markov_rank: expected at least 1, found 0");
  CHECK(text("/dspark_noise_token_id", 0) == "");
  CHECK(text("/dspark_noise_token_id", 129280) ==
        "ds4: file: dspark_noise_token_id: expected below vocab_size, 129280, found 129280");
  for (const Json& ids : {Json::array(), Json{40, 41, 43}, Json{40, 42, 41}, Json{40, 40, 41}}) {
    CHECK(text("/dspark_target_layer_ids", ids) ==
          doctest::Contains("dspark_target_layer_ids: expected ids of layers below "
                            "num_hidden_layers, 43, at least one, strictly increasing, found ["));
  }
  CHECK(text("/compress_ratios/44", 4) ==
        "ds4: file: compress_ratios[44]: expected 0 for a layer of the drafter, found 4");
  CHECK(text("/num_nextn_predict_layers", 2) ==
        "ds4: file: num_nextn_predict_layers: expected 0, 1 or the drafter's entries of "
        "compress_ratios, 3, found 2");
  CHECK(text("/num_nextn_predict_layers", 3) == "");
  Json endless = dspark;
  for (int i = 0; i < 100; ++i) endless["compress_ratios"].push_back(0);
  CHECK(error_text([&] { read(endless); }) ==
        "ds4: file: compress_ratios: expected 43 to 59 entries, found 146");
}

TEST_CASE("config.json: V4.1 is another architecture, in one line") {
  Json json = release();
  json["model_type"] = "deepseek_v41";
  json["dspark_n_routed_experts"] = 4;
  json.erase("hidden_size");
  CHECK(error_text([&] { read(json); }) ==
        "ds4: file: model_type: expected \"deepseek_v4\", found \"deepseek_v41\", another "
        "architecture");
}

TEST_CASE("config.json: a part that sees images") {
  Json json = release();
  CHECK_FALSE(read(json).vision.has_value());
  json["vision_n_layers"] = 2;
  REQUIRE(read(json).vision.has_value());
  CHECK(read(json).vision->n_layers == 2);
  CHECK(read(json).vision->dim == 0);  // not stated
  CHECK(error_with(json, "/vision_n_layers", 1025) ==
        "ds4: file: vision_n_layers: expected at most 1024, found 1025");
  CHECK(error_with(json, "/vision_dim", "wide") == doctest::Contains("vision_dim: expected an "));
}

TEST_CASE("config.json: the inference code's form") {
  const Json form = ds4::detail::read_json(ds4::test::data_dir("real-configs") /
                                           "flash-0731.inference-config.json");
  CHECK(read(form).rms_norm_eps == 1e-6);
  CHECK(read(form).max_position_embeddings == 1048576);
  Json json = form;
  json["norm_eps"] = 1e-20;
  CHECK(read(json).rms_norm_eps == 1e-20);
  json["rope_scaling"] = 3;  // not a field of this form
  CHECK(read(json).rope_scaling.factor == 16);
  CHECK(error_with(form, "/n_mtp_layers", 2) == doctest::Contains("num_nextn_predict_layers: "));
  CHECK(error_with(form, "/dim", "wide") == doctest::Contains("hidden_size: expected an integer"));
  CHECK(error_with(form, "/rope_factor", "x") ==
        doctest::Contains("rope_scaling.factor: expected a number"));
  json = form;
  json.erase("n_heads");
  CHECK(error_text([&] { read(json); }) == "ds4: file: missing num_attention_heads");
}

TEST_CASE("config.json: transformers' form with flat rotary parameters, and YaRN without betas") {
  Json json = transformers();
  const Json yarn = {
      {"rope_type", "yarn"}, {"factor", 16}, {"original_max_position_embeddings", 64}};
  json["rope_parameters"] = yarn;
  const ConfigValues nested = read(transformers());
  CHECK(read(json).rope_scaling == ds4::RopeScaling{16, 64, 32, 1});
  CHECK(ds4::to_string(read(json)) == ds4::to_string(nested));
  // What the class says of main and compress wins over what a flat form has of them.
  json["rope_parameters"]["rope_theta"] = 5;
  json["rope_parameters"]["partial_rotary_factor"] = 0.5;
  CHECK(ds4::to_string(read(json)) == ds4::to_string(nested));
  // Its defaults, where thetas are not stated.
  json.erase("rope_theta");
  json.erase("compress_rope_theta");
  CHECK(ds4::to_string(read(json)) == ds4::to_string(nested));
  json["rope_theta"] = 20000;
  CHECK(read(json).rope_theta == 20000);
  // The old name of the type, a null for a beta, betas that are stated.
  json = transformers();
  json["rope_parameters"] = yarn;
  json["rope_parameters"].erase("rope_type");
  CHECK(read(json).rope_scaling == ds4::RopeScaling{});
  json["rope_parameters"]["type"] = "yarn";
  json["rope_parameters"]["beta_fast"] = nullptr;
  json["rope_parameters"]["beta_slow"] = 2;
  CHECK(read(json).rope_scaling == ds4::RopeScaling{16, 64, 32, 2});
  CHECK(error_with(json, "/rope_parameters/factor", nullptr) ==
        "ds4: file: missing rope_parameters.factor");
  CHECK(error_with(json, "/rope_parameters/attention_factor", 1.277) ==
        doctest::Contains("rope_parameters.attention_factor: expected 1"));
  // One of the two alone is not nested.
  json = transformers();
  json["rope_parameters"].erase("main");
  CHECK(read(json).rope_scaling == ds4::RopeScaling{});
  // The release's form.
  json = release();
  json["rope_scaling"].erase("beta_fast");
  json["rope_scaling"].erase("beta_slow");
  CHECK(read(json).rope_scaling == ds4::RopeScaling{16, 65536, 32, 1});
  json["rope_parameters"] = yarn;
  CHECK(error_text([&] { read(json); }) ==
        "ds4: file: rope_scaling: expected the same as rope_parameters, found another scaling");
}

TEST_CASE("config.json: all missing fields are named in one error") {
  auto json = release();
  for (const char* field : {"hidden_size", "hc_eps", "compress_rope_theta", "num_hash_layers"}) {
    json.erase(field);
  }
  json["head_dim"] = nullptr;
  CHECK(error_text([&] { read(json); }) ==
        "ds4: file: missing hidden_size, head_dim, hc_eps, num_hash_layers, compress_rope_theta");
}

TEST_CASE("config.json: what is missing of either form") {
  const auto without = [](Json json, const char* field) {
    json.erase(field);
    return error_text([&] { read(json); });
  };
  auto json = release();
  json.erase("hidden_size");
  CHECK(without(json, "compress_rope_theta") ==
        "ds4: file: missing hidden_size, compress_rope_theta");
  CHECK(without(tiny_flash(), "compress_rates") ==
        "ds4: file: missing compress_rates.compressed_sparse_attention, "
        "compress_rates.heavily_compressed_attention");
  CHECK(without(tiny_flash(), "num_hidden_layers") == "ds4: file: missing num_hidden_layers");
  CHECK(without(release(), "num_hidden_layers") == "ds4: file: missing num_hidden_layers");
  const doctest::String empty = error_text([] { read(Json::object()); });
  CHECK(empty == doctest::Contains("ds4: file: missing model_type, "));
  for (const char* field : {"vocab_size", "num_hash_layers", "qk_rope_head_dim"}) {
    CHECK(empty == doctest::Contains(field));
  }
}

TEST_CASE("config.json: every field of either form is needed") {
  for (const Json& form : {release(), transformers()}) {
    ds4::visit_fields(
        [&](std::string_view field, const auto&) {
          const std::string name(field);
          CAPTURE(name);
          // Stated twice, optional, or the name of the other form.
          const bool twice =
              form.contains("rope_parameters") &&
              (name == "rope_theta" || name == "compress_rope_theta" || name == "qk_rope_head_dim");
          if (!form.contains(name) || twice || name == "num_nextn_predict_layers") return;
          auto json = form;
          json.erase(name);
          CHECK(error_text([&] { read(json); }) == ("ds4: file: missing " + name).c_str());
        },
        ConfigValues{});
  }
  const char* paths[] = {"/rope_parameters/compress/factor",
                         "/compress_rates/heavily_compressed_attention", "/layer_types",
                         "/mlp_layer_types"};
  for (const char* path : paths) {
    CAPTURE(path);
    CHECK(error_with(transformers(), path, nullptr) == doctest::Contains("ds4: file: missing "));
  }
  auto json = transformers();
  for (const char* field : {"partial_rotary_factor", "qk_rope_head_dim"}) json.erase(field);
  for (const char* kind : {"main", "compress"}) {
    json["rope_parameters"][kind].erase("partial_rotary_factor");
    json["rope_parameters"][kind].erase("rope_theta");
  }
  json.erase("compress_rope_theta");
  CHECK(error_text([&] { read(json); }) ==
        "ds4: file: missing qk_rope_head_dim, compress_rope_theta");
}

TEST_CASE("config.json: optional fields") {
  auto json = release();
  for (const char* field : {"bos_token_id", "eos_token_id", "num_nextn_predict_layers",
                            "rope_scaling", "hidden_act", "scoring_func"}) {
    json.erase(field);
  }
  json["compress_ratios"].erase(4);
  ConfigValues values = read(json);
  CHECK_FALSE(values.bos_token_id.has_value());
  CHECK(values.eos_token_ids.empty());
  CHECK(values.num_nextn_predict_layers == 0);
  CHECK(values.rope_scaling == ds4::RopeScaling{});

  json["rope_scaling"] = nullptr;
  json["eos_token_id"] = {1, 7};
  json["norm_topk_prob"] = false;
  values = read(json);
  CHECK(values.rope_scaling == ds4::RopeScaling{});
  CHECK(values.eos_token_ids == Ratios{1, 7});
}

TEST_CASE("config.json: rates follow from the ratios where they are not stated") {
  const auto rates = [](Ratios ratios) {
    auto json = release();
    json["compress_ratios"] = std::move(ratios);
    return read(json).compress_rates;
  };
  CHECK(rates({0, 0, 0, 0}) == ds4::CompressRates{4, 128});
  CHECK(rates({0, 4, 4, 0}) == ds4::CompressRates{4, 128});
  CHECK(rates({0, 128, 4, 128}) == ds4::CompressRates{4, 128});
  CHECK(rates({0, 8, 8, 0}) == ds4::CompressRates{8, 128});
  CHECK(rates({0, 64, 64, 0}) == ds4::CompressRates{4, 64});
  CHECK(rates({0, 64, 32, 0, 0}) == ds4::CompressRates{32, 64});
  CHECK(rates({0, 64, 8, 8}) == ds4::CompressRates{8, 64});
  CHECK(rates({0, 64, 4, 4}) == ds4::CompressRates{4, 64});
  CHECK(rates({0, 16, 0, 0}) == ds4::CompressRates{16, 128});
  CHECK(rates({0, 17, 0, 0}) == ds4::CompressRates{4, 17});
  CHECK(error_with(release(), "/compress_ratios", {4, 8, 16, 0}) ==
        "ds4: file: compress_ratios: expected at most two different ratios above 0, or "
        "compress_rates, found [4, 8, 16, 0]");
  auto json = release();
  json["compress_ratios"] = {0, 4, 0, 0};
  json["compress_rates"] = {{"compressed_sparse_attention", 4},
                            {"heavily_compressed_attention", 32}};
  CHECK(read(json).compress_rates == ds4::CompressRates{4, 32});
}

TEST_CASE("config.json: unsupported values are named") {
  const auto text = [](const char* path, Json value) {
    return error_with(release(), path, std::move(value));
  };
  CHECK(text("/model_type", "llama") ==
        "ds4: file: model_type: expected \"deepseek_v4\", found \"llama\"");
  CHECK(text("/num_key_value_heads", 2) == "ds4: file: num_key_value_heads: expected 1, found 2");
  CHECK(text("/n_shared_experts", 2) == "ds4: file: n_shared_experts: expected 1, found 2");
  CHECK(text("/scoring_func", "sigmoid") ==
        "ds4: file: scoring_func: expected \"sqrtsoftplus\", found \"sigmoid\"");
  CHECK(text("/tie_word_embeddings", true) ==
        "ds4: file: tie_word_embeddings: expected false, found true");
  CHECK(text("/attention_bias", true) == doctest::Contains("attention_bias: expected false"));
  CHECK(text("/mlp_bias", true) == doctest::Contains("mlp_bias: expected false"));
  CHECK(text("/hidden_act", "gelu") == doctest::Contains("hidden_act: expected \"silu\""));
  CHECK(text("/rope_scaling/type", "linear") ==
        "ds4: file: rope_scaling.rope_type: expected default or yarn, found \"linear\"");
  CHECK(text("/rope_scaling/rope_type", "default") ==
        "ds4: file: rope_scaling.rope_type: expected \"yarn\" as in rope_scaling.type, "
        "found \"default\"");
  CHECK(text("/rope_scaling/attention_factor", 1.2) ==
        "ds4: file: rope_scaling.attention_factor: expected 1, found 1.2");
  CHECK(text("/rope_scaling/attention_factor", 2) ==
        "ds4: file: rope_scaling.attention_factor: expected 1, found 2");
  CHECK(text("/rope_scaling/attention_factor", 1) == "");
  CHECK(text("/rope_scaling/truncate", false) == doctest::Contains("truncate: expected true"));
}

TEST_CASE("config.json: schedules that do not fit") {
  CHECK(error_with(release(), "/compress_ratios", {0, 4, 128}) ==
        "ds4: file: compress_ratios: expected 4 to 5 entries, found 3");
  CHECK(error_with(release(), "/compress_ratios", {0, 4}) ==
        "ds4: file: compress_ratios: expected 4 to 5 entries, found 2");
  CHECK(error_with(release(), "/compress_ratios/4", 4) ==
        "ds4: file: compress_ratios[4]: expected 0 for a layer of the drafter, found 4");
  CHECK(error_with(release(), "/compress_ratios", {0, 4, 128, 4, 0, 0}) ==
        "ds4: file: compress_ratios: expected 4 to 5 entries, found 6");
  CHECK(error_with(transformers(), "/layer_types/1", "full_attention") ==
        "ds4: file: layer_types[1]: expected sliding_attention, compressed_sparse_attention or "
        "heavily_compressed_attention, found \"full_attention\"");
  CHECK(error_with(tiny_flash(), "/layer_types/0", "full_attention") ==
        doctest::Contains("layer_types[0]: expected sliding_attention, "));
  CHECK(error_with(tiny_flash(), "/mlp_layer_types/5", "hash_moe") ==
        doctest::Contains("mlp_layer_types[5]: expected moe, as hash_moe layers come first"));
  CHECK(error_with(transformers(), "/layer_types", {"sliding_attention"}) ==
        "ds4: file: layer_types: expected 5 entries, found 1");
  CHECK(error_with(transformers(), "/mlp_layer_types/4", "hash_moe") ==
        "ds4: file: mlp_layer_types[4]: expected moe, as hash_moe layers come first, "
        "found hash_moe");
  CHECK(error_with(transformers(), "/mlp_layer_types/0", "dense") ==
        "ds4: file: mlp_layer_types[0]: expected hash_moe or moe, found \"dense\"");
}

TEST_CASE("config.json: statements that contradict each other") {
  const auto text = [](const char* path, Json value) {
    return error_with(transformers(), path, std::move(value));
  };
  CHECK(text("/rope_theta", 5000) ==
        "ds4: file: rope_theta: expected 10000 as in rope_parameters.main.rope_theta, found 5000");
  CHECK(text("/compress_rope_theta", 10000) ==
        "ds4: file: compress_rope_theta: expected 160000 as in "
        "rope_parameters.compress.rope_theta, found 10000");
  CHECK(error_with(tiny_flash(), "/compress_rope_theta", 1) ==
        "ds4: file: compress_rope_theta: expected 160000 as in "
        "rope_parameters.compress.rope_theta, found 1");
  CHECK(text("/rope_parameters/main/rope_type", "yarn") ==
        doctest::Contains("missing rope_parameters.main.factor"));
  auto main = transformers()["rope_parameters"]["compress"];
  main["rope_theta"] = 10000;
  CHECK(text("/rope_parameters/main", main) ==
        "ds4: file: rope_parameters.main.rope_type: expected default, as only compress is scaled, "
        "found yarn");
  CHECK(text("/rope_scaling", {{"type", "default"}}) ==
        "ds4: file: rope_scaling: expected the same as rope_parameters.compress, "
        "found another scaling");
  CHECK(text("/num_hash_layers", 2) ==
        "ds4: file: num_hash_layers: expected 3 as in mlp_layer_types, found 2");
  CHECK(text("/compress_ratios", {128, 128, 4, 128, 4}) == "");
  CHECK(text("/compress_ratios", {128, 128, 4, 4, 4}) ==
        doctest::Contains("compress_ratios: expected [128, 128, 4, 128, 4] as in layer_types"));
}

TEST_CASE("config.json: values of another type") {
  const auto text = [](const char* path, Json value) {
    return error_with(release(), path, std::move(value));
  };
  for (const Json& value :
       {Json("a\nb"), Json("wide"), Json(-1), Json(-4), Json(4.5), Json(4.0), Json(1e30),
        Json(true), Json::array({1}), Json::object(), Json(2147483648)}) {
    const std::string expected =
        "ds4: file: hidden_size: expected an integer from 0 to 2147483647, found " +
        ds4::detail::describe(value);
    CHECK(text("/hidden_size", value) == expected.c_str());
  }
  CHECK(text("/rope_theta", "10000") ==
        "ds4: file: rope_theta: expected a number of at least 0, found \"10000\"");
  CHECK(text("/hc_eps", -1e-6) == doctest::Contains("hc_eps: expected a number of at least 0"));
  CHECK(text("/model_type", 4) == doctest::Contains("model_type: expected a string, found 4"));
  CHECK(text("/compress_ratios/0", "0") ==
        "ds4: file: compress_ratios: expected an array, each entry an integer from 0 to "
        "2147483647, found an array of 5");
  CHECK(text("/eos_token_id", {1, -1}) == doctest::Contains("eos_token_id: expected an array"));
  CHECK(text("/eos_token_id", "1") == doctest::Contains("eos_token_id: expected an integer"));
  CHECK(text("/rope_scaling", "yarn") ==
        "ds4: file: rope_scaling: expected an object, found \"yarn\"");
  CHECK(error_text([] { read(Json::array()); }) ==
        "ds4: file: expected an object, found an array of 0");
}

TEST_CASE("config.json: fields that do not fit together") {
  const auto text = [](const char* path, Json value) {
    return error_with(release(), path, std::move(value));
  };
  // Each of these once divided by zero, or listed more tensors than there is memory for.
  CHECK(text("/o_groups", 0) == "ds4: file: o_groups: expected at least 1, found 0");
  CHECK(text("/vocab_size", 0) == "ds4: file: vocab_size: expected at least 1, found 0");
  CHECK(text("/sliding_window", 0) == "ds4: file: sliding_window: expected at least 1, found 0");
  CHECK(text("/num_nextn_predict_layers", 2147483647) ==
        "ds4: file: num_nextn_predict_layers: expected 0 or 1, found 2147483647");
  CHECK(text("/n_routed_experts", 2147483647) ==
        "ds4: file: n_routed_experts: expected at most 131072 in all layers, found 2147483647");

  CHECK(text("/o_groups", 3) == doctest::Contains("num_attention_heads: expected a multiple of "
                                                  "o_groups, 3, found "));
  CHECK(text("/qk_rope_head_dim", 31) ==
        "ds4: file: qk_rope_head_dim: expected an even number, found 31");
  CHECK(text("/qk_rope_head_dim", 4096) ==
        doctest::Contains("qk_rope_head_dim: expected at most head_dim and index_head_dim, "));
  CHECK(text("/num_experts_per_tok", 4096) ==
        doctest::Contains("num_experts_per_tok: expected at most n_routed_experts, "));
  CHECK(text("/num_hash_layers", 100) ==
        "ds4: file: num_hash_layers: expected at most num_hidden_layers, 4, found 100");
  CHECK(text("/compress_rates",
             {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 4}}) ==
        "ds4: file: compress_rates.heavily_compressed_attention: expected another rate than "
        "compressed_sparse_attention, found 4; compress_ratios: expected 0 or one of "
        "compress_rates, found 128");
  CHECK(text("/rope_theta", 1) == "ds4: file: rope_theta: expected more than 1, found 1");
  CHECK(text("/compress_rope_theta", 0) ==
        "ds4: file: compress_rope_theta: expected more than 1, found 0");
  CHECK(text("/swiglu_limit", 0) == "ds4: file: swiglu_limit: expected more than 0, found 0");
  CHECK(text("/rope_scaling/factor", 0.5) ==
        "ds4: file: rope_scaling.factor: expected at least 1, found 0.5");
}

TEST_CASE("config.json: a text that is no JSON, and the name of the file in the error") {
  const ds4::test::TempDir dir;
  for (const char* text : {"{\"a\"", "[]", "{}"}) {
    CAPTURE(text);
    const auto file = dir.write("config.json", text);
    const doctest::String error = error_text([&] { ds4::read_config(file); });
    CHECK(error == doctest::Contains((file.string() + ": ").c_str()));
    CHECK(error == doctest::Contains(text[0] == '['   ? "expected an object, found an array of 0"
                                     : text[1] == '}' ? "missing model_type"
                                                      : "expected JSON, found "));
  }
}

TEST_CASE("config.json: a file of more than a MiB is none") {
  const ds4::test::TempDir dir;
  const auto file = dir.write("config.json", std::string((1 << 20) + 1, ' '));
  CHECK(error_text([&] { ds4::read_config(file); }) ==
        doctest::Contains("expected JSON of at most 1048576 bytes, found 1048577"));
}

TEST_CASE("config.json: random damage gives values or an Error") {
  for (const Json& form : {release(), transformers(),
                           ds4::detail::read_json(ds4::test::data_dir("real-configs") /
                                                  "flash-vision-exp.config.json"),
                           ds4::detail::read_json(ds4::test::data_dir("real-configs") /
                                                  "pro-0813.inference-config.json")}) {
    const std::string valid = form.dump();
    std::mt19937 random(2);
    int refused = 0;
    constexpr int kRounds = 2000;
    for (int i = 0; i < kRounds; ++i) {
      const std::string text = ds4::test::mutated(valid, random);
      if (error_text([&] { read(ds4::detail::parse_json("file", text)); }) != "") ++refused;
    }
    CHECK(refused > kRounds / 2);
    CHECK(refused < kRounds);
  }
}

}  // namespace

TEST_CASE("config_json: what is written is read back") {
  std::vector<ds4::ConfigValues> all{ds4::config_values<ds4::Flash>(),
                                     ds4::config_values<ds4::Pro>()};
  for (const char* name : {"flash-0731", "flash-base", "flash-vision-exp"}) {
    all.push_back(ds4::released_config(name).value());
  }
  for (const char* name : {"tiny-flash", "tiny-pro-yarn", "quant", "odd"}) {
    all.push_back(ds4::read_config(ds4::test::data_dir(name) / "config.json"));
  }
  for (const ds4::ConfigValues& values : all) {
    const ds4::test::TempDir dir;
    const auto file = dir.write("config.json", ds4::config_json(values));
    const ds4::ConfigValues back = ds4::read_config(file);
    CHECK(ds4::compare(back, values).empty());
    CHECK(back.has_dspark == values.has_dspark);
    CHECK(back.expert_dtype == values.expert_dtype);
    CHECK(back.vision.has_value() == values.vision.has_value());
    CHECK(back.bos_token_id == values.bos_token_id);
    CHECK(back.eos_token_ids == values.eos_token_ids);
  }
}
