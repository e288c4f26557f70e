// Tests of ds4 check as scripts use it: exit codes, texts and JSON.
#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

using namespace ds4::test::program;
using Json = nlohmann::json;

const std::string kTinyFlash = ds4::test::data("/tiny-flash");

/// Runs ds4 check, which has to find something: a report, and one line on standard error.
Result failing(const std::vector<std::string>& arguments, std::string_view line) {
  Result result = ds4_program(arguments);
  CHECK(contains(result.out, "\nfirst stage past the tolerance: "));
  Result error = result;
  error.out.clear();
  check_fails(error, 1, line);
  return result;
}

}  // namespace

TEST_CASE("program: check agrees, and says so in a line for each stage") {
  const Result simd = ds4_program({"check", "--model", kTinyFlash, "--threads", "2"});
  CHECK(simd.code == 0);
  CHECK(simd.err.empty());
  for (const char* part :
       {"simd beside the reference: 264 tokens; ", "; tolerance 0.0001\n", "\nattn_hc.collapsed ",
        "\nattn.q_rope ", "\ncompressor.kv ", "\nindexer.kv ", "\nlogits ",
        "\nmlp.router_indices  1848 ", "\nindexer.topk         792 ", "\nworst: layer ",
        "\nlargest logit: the same token for 264 of 264\nevery stage is within the tolerance\n"}) {
    CAPTURE(part);
    CHECK(contains(simd.out, part));
  }
  CHECK(std::ranges::count(simd.out, '\n') < 50);

  const Result all =
      ds4_program({"check", "--model", kTinyFlash, "--all", "--chunks", "5,64,1,70"});
  CHECK(all.code == 0);
  CHECK(contains(all.out, "\nlayer 0 attn.q_rope "));
  CHECK(contains(all.out, "\nlayer 6 indexer.topk "));
  CHECK(contains(all.out, "\nhead logits "));
  CHECK(std::ranges::count(all.out, '\n') > 7 * 20);

  const Result same =
      ds4_program({"check", "--model", kTinyFlash, "--backend", "reference", "--tolerance", "0"});
  CHECK(same.code == 0);
  CHECK(!contains(same.out, "worst"));
}

TEST_CASE("program: check prints what scripts read") {
  const TempDir dir;
  const std::string tokens = dir.write("t.json", "[[5, 4, 3, 2, 1]]");
  const Result result = ds4_program({"check", "--model", kTinyFlash, "--tokens", tokens, "--json"});
  CHECK(result.code == 0);
  const Json json = Json::parse(result.out);
  CHECK(json["backend"] == "simd");
  CHECK(json["activations"] == "float32");
  CHECK(json["tokens"] == 5);
  CHECK(json["passed"] == true);
  CHECK(json["same_top"] == 5);
  std::size_t layers = 0;
  for (const Json& stage : json["stages"]) {
    if (stage.contains("layer")) layers = std::max(layers, stage["layer"].get<std::size_t>() + 1);
    CHECK(stage["errors"]["largest"].get<double>() <= stage["tolerance"].get<double>());
    CHECK(stage["past"] == 0);
  }
  CHECK(layers == 7);
  CHECK(json["stages"].back()["stage"] == "logits");
}

TEST_CASE("program: check finds what another checkpoint has otherwise") {
  const ds4::test::TempDir dir;
  ds4::test::CheckpointCopy copy("tiny-flash");
  for (auto& [name, content] : copy.tensors) {
    if (name.ends_with("layers.4.attn.wo_a.weight")) content.set(0, 2.0f);
  }
  copy.write(dir);
  const std::string changed = dir.path();
  const std::string line =
      "ds4: check: first stage past the tolerance: layer 4 attn.o_a, token 0: error ";
  failing({"check", "--model", changed, "--against", kTinyFlash}, line);
  failing({"check", "--model", changed, "--against", kTinyFlash, "--all", "--length", "20"}, line);

  const Result json = ds4_program({"check", "--model", changed, "--against", kTinyFlash, "--json"});
  CHECK(json.code == 1);
  CHECK(Json::parse(json.out)["passed"] == false);
  CHECK(contains(Json::parse(json.out)["verdict"].get<std::string>(), "layer 4 attn.o_a"));

  failing({"check", "--model", kTinyFlash, "--tolerance", "1e-9"},
          "past the tolerance: layer 0 attn_hc.");
  Result other =
      ds4_program({"check", "--model", kTinyFlash, "--against", ds4::test::models("/austen")});
  check_fails(other, 1, "ds4: --against: vocab_size: found 2048, expected 256 as in --model\n");
}
