// Tests of ds4/config/config_values.hpp.
#include <set>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>

namespace {

using ds4::compare;
using ds4::config_values;

TEST_CASE("config values: those of a configuration type") {
  const auto flash = config_values<ds4::Flash>();
  CHECK(flash.name == "flash");
  CHECK(flash.hidden_size == 4096);
  CHECK(flash.routed_scaling_factor == 1.5);
  CHECK(flash.compress_ratios.size() == 43);
  CHECK(flash.compress_ratios[3] == 128);
  CHECK(flash.compress_rates == ds4::CompressRates{4, 128});
  CHECK(flash.rope_scaling == ds4::RopeScaling{16, 65536, 32, 1});
  CHECK_FALSE(flash.bos_token_id.has_value());
  CHECK(flash.eos_token_ids.empty());
}

TEST_CASE("config values: every field differs when it is changed, alone and under its name") {
  const auto flash = config_values<ds4::Flash>();
  CHECK(compare(flash, flash).empty());
  std::set<std::string> fields;
  ds4::visit_fields([&](std::string_view field, const auto&) { fields.emplace(field); }, flash);
  CHECK(fields.size() == 39);
  for (const std::string& changed : fields) {
    auto file = flash;
    ds4::visit_fields(
        [&](std::string_view field, auto& value) {
          if (field != changed) return;
          if constexpr (requires { value.size(); }) {
            value[2] += 1;
          } else {
            value += 1;
          }
        },
        file);
    const auto differences = compare(file, flash);
    REQUIRE(differences.size() == 1);
    CHECK(differences[0].field.starts_with(changed));
  }
}

TEST_CASE("config values: differences say what the file has and what was compiled") {
  const auto flash = config_values<ds4::Flash>();
  auto file = flash;
  file.hc_eps = 1e-5;
  file.compress_ratios[4] = 0;
  file.bos_token_id = 3;
  file.eos_token_ids = {4};
  file.name = "other";
  auto differences = compare(file, flash);
  REQUIRE(differences.size() == 2);
  CHECK(differences[0].field == "compress_ratios[4]");
  CHECK(differences[0].found == "0");
  CHECK(differences[0].expected == "4");
  CHECK(differences[1].field == "hc_eps");
  CHECK(differences[1].found == "1e-05");
  CHECK(differences[1].expected == "1e-06");

  file = flash;
  file.compress_ratios = {0, 4};
  differences = compare(file, flash);
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].field == "compress_ratios");
  CHECK(differences[0].found == "[0, 4]");
}

TEST_CASE("config values: text has a line for every field") {
  const std::string text = ds4::to_string(config_values<ds4::Pro>());
  CHECK(text.starts_with("vocab_size: 129280\nhidden_size: 7168\n"));
  CHECK(text.find("\nrope_scaling.factor: 16\n") != std::string::npos);
  CHECK(text.find("\nrouted_scaling_factor: 2.5\n") != std::string::npos);
}

}  // namespace
