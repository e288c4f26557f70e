// Tests that ds4_add_model() and ds4::read_config() read the same from one config.json.
#include <string>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/models/austen_config.hpp>
#include <ds4/models/quant_config.hpp>
#include <ds4/models/tiny_flash_config.hpp>
#include <ds4/models/tiny_pro_yarn_config.hpp>
#include <support/paths.hpp>

namespace {

template <class C>
void check_same(const std::string& folder, const std::string& name) {
  CAPTURE(folder);
  static_assert(ds4::checked_config<C>());
  const auto compiled = ds4::config_values<C>();
  CHECK(compiled.name == name);
  for (const auto& difference : compare(ds4::read_config(folder + "/config.json"), compiled)) {
    FAIL_CHECK(difference.field, ": ", difference.found, " in the file, ", difference.expected,
               " compiled");
  }
}

TEST_CASE("add_model: generated configurations equal what read_config reads") {
  check_same<ds4::models::tiny_flash>(ds4::test::data("/tiny-flash"), "tiny_flash");
  check_same<ds4::models::tiny_pro_yarn>(ds4::test::data("/tiny-pro-yarn"), "tiny_pro_yarn");
  check_same<ds4::models::quant>(ds4::test::data("/quant"), "quant");
  check_same<ds4::models::austen>(ds4::test::models("/austen"), "austen");
}

TEST_CASE("add_model: the comparison sees another model") {
  CHECK_FALSE(compare(ds4::read_config(ds4::test::data("/quant/config.json")),
                      ds4::config_values<ds4::models::austen>())
                  .empty());
}

}  // namespace
