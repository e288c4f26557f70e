#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <support/compare.hpp>

namespace {

/// Entries that cannot load anything: only their configurations are looked at.
std::vector<ds4::CompiledModel> entries() {
  return {{ds4::config_values<ds4::Flash>(), "simd", nullptr},
          {ds4::config_values<ds4::Pro>(), "simd", nullptr},
          {ds4::config_values<ds4::Pro>(), "reference", nullptr}};
}

}  // namespace

TEST_CASE("compiled_model: the nearest is the one with the fewest differences, on the backend") {
  const auto models = entries();
  const auto flash = ds4::config_values<ds4::Flash>();
  CHECK(ds4::nearest_model(models, flash, "simd").model == &models[0]);
  CHECK(ds4::nearest_model(models, flash, "simd").differences.empty());
  CHECK(ds4::nearest_model(models, ds4::config_values<ds4::Pro>(), "simd").model == &models[1]);

  const auto on_reference = ds4::nearest_model(models, flash, "reference");
  CHECK(on_reference.model == &models[2]);
  REQUIRE(on_reference.differences.size() > 4);
  const std::string words = ds4::differences_in_words(on_reference);
  CHECK(words.find("hidden_size: found 4096, expected 7168; ") != words.npos);
  CHECK(words.ends_with(" more"));

  auto other = flash;
  other.rope_theta += 1;
  const auto near = ds4::nearest_model(models, other, "simd");
  CHECK(near.model == &models[0]);
  CHECK(ds4::differences_in_words(near) == "rope_theta: found 10001, expected 10000");
}

TEST_CASE("compiled_model: backends are listed once, in the order of the models") {
  CHECK(ds4::backends_of(entries()) == std::vector<std::string>{"simd", "reference"});
  CHECK(ds4::backends_of({}).empty());
  CHECK_THROWS_WITH_AS(ds4::nearest_model(entries(), ds4::config_values<ds4::Flash>(), "kokkos"),
                       "ds4: backend: found kokkos, which is not compiled in", ds4::Error);
}
