// Tests of ds4 plan --train. See tests/cli/program_test.cpp.
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

using namespace ds4::test::program;
using Json = nlohmann::json;

Json plan(std::vector<std::string> options) {
  options.insert(options.begin(), {"plan", "flash", "--train", "--json"});
  const Result result = ds4_program(options);
  CHECK(result.err.empty());
  REQUIRE(result.code == 0);
  return Json::parse(result.out);
}

}  // namespace

TEST_CASE("plan --train: Flash on one device") {
  const Json json = plan({"--no-mtp", "--optimizer", "adamw"});
  CHECK(json["parameters"] == 284'332'240'471);
  CHECK(json["predictions"] == 4096);
  CHECK(json["stages"] == Json{43});
  CHECK(json["recompute"].size() == 3);
  const Json& bytes = json["recompute"]["none"]["bytes_per_device"];
  CHECK(bytes["gradients"] == 4 * json["parameters"].get<std::size_t>());
  std::size_t sum = 0;
  for (const auto& [name, value] : bytes.items()) {
    if (name != "total") sum += value.get<std::size_t>();
  }
  CHECK(bytes["total"] == sum);
  // AdamW's moments, and masters: nearly all values are of BF16 matrices.
  const Json without = plan({"--no-mtp", "--optimizer", "adamw", "--no-masters"});
  const auto moments = without["recompute"]["none"]["bytes_per_device"]["optimizer"].get<double>();
  const double masters = bytes["optimizer"].get<double>() - moments;
  CHECK(masters == doctest::Approx(moments / 2).epsilon(1e-3));
  CHECK(masters < moments / 2);
  CHECK(bytes["activations"] > json["recompute"]["layer"]["bytes_per_device"]["activations"]);
  CHECK(json["recompute"]["none"]["flops_recomputed"] == 0);
  CHECK(json["flops"]["backward"]["by_component"]["experts"] ==
        2 * json["flops"]["forward"]["by_component"]["experts"].get<std::size_t>());
}

TEST_CASE("plan --train: several devices, two-byte values, one policy") {
  const Json json = plan({"--values", "bf16", "--devices", "512", "--experts", "64", "--pipeline",
                          "8", "--batch", "2", "--context", "1024", "--recompute", "layer"});
  CHECK(json["devices"] == 512);
  CHECK(json["data"] == 1);
  CHECK(json["stages"].size() == 8);
  CHECK(json["predictions"] == 64 * 2 * 1024);
  CHECK(json["recompute"].size() == 1);
  CHECK(json["recompute"]["layer"]["bytes_per_device"]["weights"] < 6'000'000'000);
}

TEST_CASE("plan --train: as text") {
  const Result result = ds4_program({"plan", ds4::test::data("/tiny-flash"), "--train", "--context",
                                     "64", "--recompute", "pair"});
  CHECK(result.code == 0);
  CHECK(result.out.starts_with("training        "));
  CHECK(contains(result.out, "GB of a device "));
  CHECK(contains(result.out, "\nrecompute pair "));
  CHECK_FALSE(contains(result.out, "\nrecompute none "));
  CHECK(contains(result.out, "\na step "));
}

TEST_CASE("plan --train: what does not fit") {
  const auto fails = [](const std::vector<std::string>& arguments, int code, const char* text) {
    CAPTURE(command_line(arguments));
    const Result result = ds4_program(arguments);
    CHECK(result.code == code);
    CHECK(result.out.empty());
    CHECK(contains(result.err, text));
  };
  fails({"plan", "flash", "--train", "--devices", "8", "--data", "2"}, 1,
        "ds4: devices: found 8, expected data * experts * pipeline = 2 * 1 * 1 = 2\n");
  fails({"plan", "flash", "--train", "--experts", "3"}, 1,
        "ds4: experts: found 3, expected a divisor of n_routed_experts 256\n");
  fails({"plan", ds4::test::data("/odd"), "--train"}, 1,
        "ds4: CONFIG: found a configuration that is not compiled in, expected for --train one of "
        "flash, flash-vision, pro, ");
  fails({"plan", "flash", "--devices", "8"}, 2, "--devices requires --train");
  fails({"plan", "flash", "--train", "--bandwidth", "8"}, 2, "--bandwidth");
  fails({"plan", "flash", "--train", "--recompute", "all of it"}, 2, "--recompute");
}
