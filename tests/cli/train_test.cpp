// Tests of ds4 train and ds4 gradients as scripts use them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <support/golden.hpp>
#include <support/paths.hpp>
#include <support/program.hpp>
#include <support/xml.hpp>

namespace {

using namespace ds4::test::program;
using ds4::test::Golden;

const std::string kAusten = ds4::test::models("/austen");
const std::string kTinyFlash = ds4::test::data("/tiny-flash");
const std::string kText = ds4::test::data("/austen/heldout.txt");

/// A short run of the default model's configuration, without --out.
std::vector<std::string> train(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"train",       kAusten, "--text",           kText,
                                     "--tokenizer", kAusten, "--batch",          "2",
                                     "--context",   "32",    "--validate-every", "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

}  // namespace

TEST_CASE("program: gradients are the golden ones, on both backends") {
  const TempDir dir;
  const Golden golden(kTinyFlash + "/train.safetensors");
  const auto ids = Golden(kTinyFlash + "/golden.safetensors").indices("batch_input_ids");
  nlohmann::json lists = nlohmann::json::array();
  lists.push_back(std::vector(ids.begin(), ids.begin() + 150));
  lists.push_back(std::vector(ids.begin() + 150, ids.end()));
  const std::string tokens = dir.write("tokens.json", lists.dump());
  for (const std::string backend : {"simd", "reference"}) {
    CAPTURE(backend);
    const std::string out = dir / "gradients.safetensors";
    const Result result = ds4_program({"gradients", "--model", kTinyFlash, "--tokens", tokens,
                                       "--out", out, "--backend", backend});
    INFO(result.err);
    REQUIRE(result.code == 0);
    CHECK(contains(result.out, "loss: 6.7157"));
    CHECK(contains(result.out, " over 298 predictions\n"));
    const Golden found(out);
    std::size_t expected = 0;
    for (const auto& tensor : golden.tensors()) expected += tensor.name.starts_with("grad.");
    CHECK(found.tensors().size() == expected + 1);
    CHECK(std::abs(found.values("loss")[0] - golden.values("loss")[0]) < 1e-6f);
    for (const auto& tensor : found.tensors()) {
      if (tensor.name == "loss") continue;
      CAPTURE(tensor.name);
      REQUIRE(golden.has(tensor.name));
      CHECK(tensor.shape == golden.tensor(tensor.name).shape);
      const auto wanted = golden.values(tensor.name);
      const auto values = found.values(tensor.name);
      double distance = 0.0;
      double norm = 0.0;
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        distance += std::pow(static_cast<double>(values[i]) - wanted[i], 2);
        norm += std::pow(static_cast<double>(wanted[i]), 2);
      }
      CHECK(distance <= 1e-8 * norm);
    }
  }
  const auto gradients = [&](const std::string& text) {
    return ds4_program({"gradients", "--model", kTinyFlash, "--tokens", dir.write("t.json", text),
                        "--out", dir / "none.safetensors"});
  };
  check_fails(gradients("[[1]]"), 1, "list 0: found 1 tokens, expected at least 2");
  check_fails(gradients("[[1, 256]]"), 1, "256");
  check_fails(gradients("[[1, 2"), 1, "t.json");
  CHECK(!std::filesystem::exists(dir / "none.safetensors"));
}

TEST_CASE("program: train leaves a checkpoint that other verbs read, a table and a picture") {
  const TempDir dir;
  const std::string out = dir / "out";
  const Result result =
      ds4_program(train({"--steps", "4", "--out", out, "--learning-rate", "0.003"}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  CHECK(contains(result.out, "step 2: 128 tokens, loss "));
  CHECK(contains(result.out, "step 4: 256 tokens, loss "));
  const std::string csv = read(out + "/loss.csv");
  CHECK(csv.starts_with("step,tokens,seconds,loss,validation,"));
  CHECK(std::ranges::count(csv, '\n') == 5);
  CHECK(ds4::test::XmlParser::parse(read(out + "/loss.svg")).front().name == "svg");
  const Result text = ds4_program({"run", "--model", out, "--prompt", "She", "--max-tokens", "3"});
  CHECK(text.code == 0);
  const Result inspect = ds4_program({"inspect", out});
  CHECK(inspect.code == 0);

  // A second run there would overwrite it.
  check_fails(ds4_program(train({"--steps", "4", "--out", out})), 1,
              "found a run there, expected --resume or another --out");
  check_fails(ds4_program(train({"--steps", "6", "--out", out, "--resume"})), 1,
              "training_state.safetensors: found a run with");  // of another learning rate
}

TEST_CASE("program: train --resume goes on bit for bit, also after Ctrl-C") {
  const TempDir dir;
  const auto state = [&](const std::string& out) {
    return read(dir / out + "/training_state.safetensors");
  };
  const std::vector<std::string> constant{"--decay", "constant",     "--warmup",
                                          "0",       "--mtp-weight", "0.1"};
  const auto run = [&](const std::string& out, std::vector<std::string> more) {
    more.insert(more.end(), constant.begin(), constant.end());
    more.insert(more.end(), {"--out", dir / out});
    return train(more);
  };
  REQUIRE(ds4_program(run("whole", {"--steps", "6"})).code == 0);
  REQUIRE(ds4_program(run("parts", {"--steps", "2"})).code == 0);
  CHECK(state("parts") != state("whole"));
  REQUIRE(ds4_program(run("parts", {"--steps", "6", "--resume"})).code == 0);
  CHECK(state("parts") == state("whole"));
  CHECK(read(dir / "parts/model.safetensors") == read(dir / "whole/model.safetensors"));

  // Ctrl-C once it is under way: on a busy machine that takes a while.
  const std::string out = "'" + dir / "out" + "'";
  const Result stopped = shell("(until grep -qs 'step 2:' " + out +
                               "; do kill -0 $$ || exit; sleep 0.1; done; kill -INT $$) & exec " +
                               command_line(run("c", {"--steps", "100000"})) + " >" + out);
  CHECK(stopped.code == 0);
  CHECK(contains(read(dir / "out"), "stopped after step "));
  CHECK(contains(read(dir / "out"), "--resume goes on"));
  const std::string csv = read(dir / "c/loss.csv");
  const auto steps = std::ranges::count(csv, '\n') - 1;
  REQUIRE(steps > 1);
  const std::string more = std::to_string(steps + 1);
  REQUIRE(ds4_program(run("c", {"--steps", more, "--resume"})).code == 0);
  REQUIRE(ds4_program(run("d", {"--steps", more})).code == 0);
  CHECK(state("c") == state("d"));
}

TEST_CASE("program: train --init starts from a checkpoint") {
  const TempDir dir;
  const Result result = ds4_program(
      train({"--init", kAusten, "--steps", "2", "--learning-rate", "0.0001", "--out", dir / "out",
             "--optimizer", "adamw", "--recompute", "pair", "--backend", "reference"}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  const std::size_t at = result.out.find("validation loss ");
  REQUIRE(at != std::string::npos);
  CHECK(std::stod(result.out.substr(at + 16)) < 5.0);  // a model from scratch has 7.6
}

TEST_CASE("program: train says what is wrong with its input") {
  const TempDir dir;
  const std::string out = dir / "out";
  check_fails(ds4_program(train({"--out", out})), 1,
              "found neither --steps nor --minutes, expected one of them");
  check_fails(ds4_program(train({"--out", out, "--steps", "1", "--minutes", "1"})), 2, "excludes");
  check_fails(ds4_program(train({"--out", out, "--steps", "1", "--resume"})), 1,
              "training_state.safetensors: found none, expected that of the run to --resume");
  check_fails(ds4_program({"train", kAusten, "--text", kText, "--tokenizer", kAusten, "--out", out,
                           "--steps", "1", "--context", "16385"}),
              1, "--context: found 16385, expected at most max_position_embeddings 16384");
  check_fails(ds4_program(train({"--out", out, "--steps", "1", "--optimizer", "sgd"})), 2,
              "--optimizer");
  check_fails(ds4_program(train({"--out", out, "--steps", "1", "--weights", "f16"})), 2,
              "--weights");
  check_fails(ds4_program({"train", "flash", "--text", kText, "--tokenizer", kAusten, "--out", out,
                           "--steps", "1"}),
              1, "expected a configuration that is compiled in for training");
  CHECK(!std::filesystem::exists(out));
}
