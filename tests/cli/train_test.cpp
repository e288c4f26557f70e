// Tests of ds4 train and ds4 gradients as scripts use them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
const std::string kDspark = ds4::test::models("/austen-dspark");
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
}

TEST_CASE("program: train --resume says what would change the run, and leaves it as it is") {
  const TempDir dir;
  const std::string out = dir / "out";
  const std::string text = read(kText);
  const std::string half = dir.write("half.txt", text.substr(0, text.size() / 2));
  const std::string rest = dir.write("rest.txt", text.substr(text.size() / 2));
  const std::string longer = dir.write("longer.txt", text.substr(text.size() / 2) + " The end.");
  // A run in `out` of these texts, with options that take the place of the run's own.
  const auto run = [&](const std::vector<std::string>& texts, std::vector<std::string> more) {
    std::vector<std::string> arguments{"train", kAusten, "--text"};
    arguments.insert(arguments.end(), texts.begin(), texts.end());
    arguments.insert(arguments.end(), {"--tokenizer", kAusten, "--batch", "1", "--out", out});
    const auto has = [&](const std::string& option) {
      return std::ranges::find(more, option) != more.end();
    };
    if (!has("--context")) more.insert(more.end(), {"--context", "16"});
    if (!has("--learning-rate")) more.insert(more.end(), {"--learning-rate", "0.003"});
    if (!has("--steps") && !has("--minutes")) more.insert(more.end(), {"--steps", "4"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ds4_program(arguments);
  };
  const Result first = run({half, rest}, {});
  INFO(first.err);
  REQUIRE(first.code == 0);
  const auto files = [&] {
    std::vector<std::string> contents;
    for (const char* name : {"training_state.safetensors", "model.safetensors", "config.json",
                             "loss.csv", "loss.svg", "tokenizer.json"}) {
      contents.push_back(read(out + "/" + name));
    }
    return contents;
  };
  auto before = files();
  const auto fails = [&](const std::vector<std::string>& texts, std::vector<std::string> more,
                         const std::string& part) {
    more.emplace_back("--resume");
    check_fails(run(texts, more), 1, part);
    CHECK(files() == before);
  };
  fails({half, rest}, {"--steps", "3"},
        "--steps: found 3, expected at least the 4 that the run in --out has made");
  fails({half, rest}, {"--clip", "2"},
        "training_state.safetensors: found a run with clip 1, expected clip 2");
  fails(
      {half, rest}, {"--learning-rate", "0.001", "--context", "17"},
      "found a run with context 16, learning rate 0.003, expected context 17, learning rate 0.001");
  fails({half, rest}, {"--optimizer", "adamw"},
        "found a run with optimizer muon, expected optimizer adamw");
  for (const std::vector<std::string>& texts : {std::vector{rest, half}, {half, longer}, {half}}) {
    fails(texts, {}, "training_state.safetensors: found a run with a training text of ");
  }
  fails({half, rest}, {"--validation", half}, "found a run with a training text of ");

  // The same contents under other names, cut into the same documents, are the same texts.
  const std::string copy = dir.write("copy.txt", read(half));
  const Result same = run({copy, rest}, {"--resume"});
  INFO(same.err);
  CHECK(same.code == 0);
  CHECK(same.err.empty());
  CHECK(contains(same.out, "found nothing to do: step 4 of the run in --out is its last"));
  CHECK(files() == before);

  // What changes no more than the schedule or the rounding is said.
  const Result on = run({half, rest}, {"--resume", "--steps", "5", "--sequences-per-pass", "1"});
  CHECK(on.code == 0);
  CHECK(contains(on.err,
                 "found a run of --steps 4; from step 5 on its schedule is that of "
                 "--steps 5\n"));
  CHECK(contains(on.err,
                 "found a run with sequences per pass 0; it goes on, but not bit for bit, "
                 "with sequences per pass 1\n"));

  // As after ten minutes, and of a configuration that differs in what no shape shows.
  before = files();
  std::string csv = read(out + "/loss.csv");
  const std::size_t seconds = csv.find(',', csv.find(',', csv.rfind("\n5,") + 1) + 1) + 1;
  dir.write("out/loss.csv", csv.replace(seconds, csv.find(',', seconds) - seconds, "600"));
  before = files();
  fails({half, rest}, {"--minutes", "0.5"},
        "--minutes: found 0.5, expected more than the 10 that the run in --out has taken");
  auto config = nlohmann::json::parse(read(out + "/config.json"));
  config["swiglu_limit"] = 9.5;
  dir.write("out/config.json", config.dump());
  before = files();
  fails({half, rest}, {"--steps", "6"},
        "out/config.json: found a run with swiglu_limit 9.5, expected ");
}

TEST_CASE("program: train --resume goes on with a state that says nothing of its texts") {
  const TempDir dir;
  const std::string out = dir / "out";
  REQUIRE(ds4_program(train({"--steps", "2", "--out", out})).code == 0);
  const std::string state = read(out + "/training_state.safetensors");
  std::uint64_t size = 0;
  std::memcpy(&size, state.data(), sizeof size);
  auto header = nlohmann::json::parse(state.substr(sizeof size, size));
  for (const char* key : {"training_text", "validation_text", "length", "rounding"}) {
    REQUIRE(header["__metadata__"].erase(key) == 1);
  }
  std::string text = header.dump();
  REQUIRE(text.size() <= size);
  text.resize(size, ' ');
  dir.write("out/training_state.safetensors",
            state.substr(0, sizeof size) + text + state.substr(sizeof size + size));
  const Result on = ds4_program(train({"--steps", "3", "--out", out, "--resume"}));
  CHECK(on.code == 0);
  CHECK(contains(on.err, "found no fingerprint of its training text, which is taken to be this"));
  CHECK(contains(on.err, "found no fingerprint of its validation text, which is taken to be this"));
  CHECK(std::ranges::count(on.err, '\n') == 2);
  CHECK(ds4_program(train({"--steps", "4", "--out", out, "--resume"})).err.find("fingerprint") ==
        std::string::npos);
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

TEST_CASE("program: train --drafter trains DSpark for a model that stays as it is") {
  const TempDir dir;
  const std::string out = dir / "out";
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.end(),
                {"--drafter", "dspark", "--decay", "constant", "--warmup", "0", "--out", out});
    std::vector<std::string> arguments = train(std::move(more));
    arguments[1] = kDspark;
    return arguments;
  };
  const Result result = ds4_program(run({"--init", kAusten, "--steps", "2"}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  CHECK(contains(result.out, "step 2: 120 tokens, loss "));  // 2 x 2 x 6 blocks of 5
  CHECK(contains(result.out, " of 5 drafts accepted, confidence loss "));
  const Golden before(kAusten + "/model.safetensors");
  const Golden after(out + "/model.safetensors");
  for (const auto& tensor : before.tensors()) {
    if (tensor.name.starts_with("mtp.")) continue;
    CAPTURE(tensor.name);
    REQUIRE(after.has(tensor.name));
    CHECK(std::ranges::equal(tensor.data, after.tensor(tensor.name).data));
  }
  CHECK(after.has("mtp.1.markov_head.markov_w2.weight"));
  CHECK(!after.has("mtp.0.e_proj.weight"));

  // It is a checkpoint like others, whose drafts change no token.
  const auto text = [&](const std::string& draft) {
    return ds4_program({"run", "--model", out, "--prompt", "It is a truth", "--max-tokens", "12",
                        "--temperature", "0", "--draft", draft})
        .out;
  };
  CHECK(text("5") == text("off"));
  CHECK(contains(ds4_program({"check", "--model", out, "--length", "40", "--exact"}).out, "draft"));

  // It learns on with --resume, and with --init.
  REQUIRE(ds4_program(run({"--init", kAusten, "--steps", "3", "--resume"})).code == 0);
  check_fails(ds4_program(run({"--init", out, "--steps", "4", "--resume"})), 1,
              "found a run with model ");
  const std::string other = dir / "other";
  auto on = run({"--init", out, "--steps", "1"});
  on.back() = other;
  REQUIRE(ds4_program(on).code == 0);

  check_fails(ds4_program(run({"--steps", "1"})), 2, "--drafter requires --init");
  auto plain = run({"--init", kAusten, "--steps", "1"});
  plain[1] = kAusten;
  plain.back() = dir / "none";
  check_fails(ds4_program(plain), 1, "found a configuration without DSpark");
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
              1,
              "flash: no model of this configuration is compiled for training, expected one that");
  CHECK(!std::filesystem::exists(out));
}
