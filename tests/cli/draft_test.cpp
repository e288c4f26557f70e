// Tests of --draft and --mtp as scripts use them: the multi-token-prediction layer of
// models/austen.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/decode/sampler.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

using namespace ds4::test::program;
using Json = nlohmann::json;

const std::string kAusten = ds4::test::models("/austen");
const std::string kTinyFlash = ds4::test::data("/tiny-flash");
const std::string kPrompt = "It is a truth universally acknowledged";

Result run(const std::vector<std::string>& options) {
  std::vector<std::string> arguments{"run", "--prompt", kPrompt};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return ds4_program(arguments);
}

TEST_CASE("program: run --draft gives the text without drafts, and says what they brought") {
  for (const std::string backend : {"simd", "reference"}) {  // each rounds in its own way
    const std::vector<std::string> greedy{"--temperature", "0",    "--max-tokens", "80",
                                          "--backend",     backend};
    const Result plain = run(greedy);
    REQUIRE(plain.code == 0);
    CHECK(!contains(plain.err, "drafts: "));
    const std::size_t at = plain.err.find("; generation: ");
    REQUIRE(at != std::string::npos);
    const std::string generation = plain.err.substr(at, plain.err.find(',', at) - at);
    for (const std::string draft : {"off", "1", "2", "4", "8", "auto"}) {
      CAPTURE(draft);
      CAPTURE(backend);
      auto options = greedy;
      options.insert(options.end(), {"--draft", draft});
      const Result result = run(options);
      CHECK(result.code == 0);
      CHECK(result.out == plain.out);
      CHECK(contains(result.err, generation + ", "));
      CHECK(contains(result.err, "\ndrafts: ") == (draft != "off"));
      CHECK(contains(result.err, " tokens accepted, ") == (draft != "off"));
    }
  }
  for (const char* wrong : {"0", "17", "-1", "1.5", "x", ""}) {
    check_fails(run({"--draft", wrong}), 2,
                "--draft: expected a number from 1 to 16, auto or off, found \"" +
                    std::string(wrong) + "\"");
  }
}

TEST_CASE("program: run --draft draws the same text for the same seed and length") {
  const auto text = [](const std::string& draft) {
    const Result result = run({"--max-tokens", "40", "--seed", "3", "--draft", draft});
    CHECK(result.code == 0);
    return result.out;
  };
  CHECK(text("2") == text("2"));
  CHECK(text("4") == text("4"));
}

TEST_CASE("program: run --draft ends where the text ends, and sessions go on with drafts") {
  const TempDir dir;
  const std::string whole = run({"--temperature", "0", "--max-tokens", "60", "--draft", "off"}).out;
  const Result first = run({"--temperature", "0", "--max-tokens", "20", "--draft", "3",
                            "--save-session", dir / "session"});
  CHECK(first.code == 0);
  for (const std::string draft : {"off", "3", "auto"}) {
    const Result second = ds4_program({"run", "--load-session", dir / "session", "--temperature",
                                       "0", "--max-tokens", "40", "--draft", draft});
    CHECK(second.code == 0);
    CHECK(first.out + second.out == whole);
  }
  // One that was saved without keeps what drafts need from here on.
  REQUIRE(
      run({"--temperature", "0", "--max-tokens", "20", "--save-session", dir / "session"}).code ==
      0);
  const Result later = ds4_program({"run", "--load-session", dir / "session", "--temperature", "0",
                                    "--max-tokens", "120", "--draft", "2"});
  CHECK(later.code == 0);
  CHECK(later.out.starts_with(whole.substr(first.out.size())));
  CHECK(!contains(later.err, " of 0 tokens accepted"));
}

TEST_CASE("program: a checkpoint without the layer works without drafts, and says so") {
  const Result bench = ds4_program({"bench", "--model", kTinyFlash, "--prompt", "4", "--decode",
                                    "2", "--repetitions", "1", "--draft", "2", "--json"});
  CHECK(bench.code == 0);
  CHECK(bench.err == "ds4: --draft: found no drafter in the checkpoint, so there are no drafts\n");
  CHECK(!Json::parse(bench.out).contains("draft"));
  CHECK(!Json::parse(bench.out).contains("verification"));  // 2 tokens are too few for passes of 4
  CHECK(contains(ds4_program({"inspect", kTinyFlash}).out,
                 "multi-token prediction: none: no drafts\n"));
  CHECK(contains(ds4_program({"inspect", kAusten}).out,
                 "multi-token prediction: one layer, sliding, learned router: drafts with "
                 "--draft\n"));

  const TempDir dir;
  const std::string tokens = dir.write("tokens.json", "[[1,2,3]]");
  check_fails(ds4_program({"logits", "--model", kTinyFlash, "--tokens", tokens, "--mtp", "--out",
                           dir / "out"}),
              1, "--mtp: expected a checkpoint with a multi-token-prediction layer, found none");
  check_fails(ds4_program({"perplexity", "--model", kTinyFlash, "--text-file", tokens, "--mtp"}), 1,
              "--mtp: expected a checkpoint with a multi-token-prediction layer, found none");
}

TEST_CASE("program: logits --mtp, whatever the chunks, and the agreement that perplexity finds") {
  const TempDir dir;
  const std::string heldout = read(ds4::test::data("/austen/heldout.txt"));
  const std::string text = heldout.substr(0, heldout.find(' ', 6000));
  const Json ids =
      Json::parse(ds4_program({"tokenize", "--tokenizer", kAusten}, Json{text}.dump()).out)[0];
  REQUIRE(ids.size() > 1100);
  const std::string tokens = dir.write("tokens.json", Json{ids, Json{5}, Json{5, 6}}.dump());
  const auto logits = [&](const std::string& name, const std::vector<std::string>& options) {
    std::vector<std::string> arguments{"logits", "--model", kAusten, "--tokens", tokens,
                                       "--mtp",  "--exact", "--out", dir / name};
    arguments.insert(arguments.end(), options.begin(), options.end());
    CHECK(ds4_program(arguments).code == 0);
    return ds4::test::Golden(dir / name);
  };
  const auto whole = logits("whole", {"--layers"});
  CHECK(whole.tensor("mtp_logits.0").shape == std::vector<std::size_t>{ids.size() - 1, 2048});
  CHECK(whole.tensor("mtp_logits.1").shape == std::vector<std::size_t>{0, 2048});
  CHECK(whole.tensor("mtp_logits.2").shape == std::vector<std::size_t>{1, 2048});
  for (const std::string chunks : {"1", "600,7,64", "3,130"}) {
    const auto chunked = logits("chunked", {"--chunks", chunks});
    for (const char* name : {"logits.0", "mtp_logits.0", "mtp_logits.2"}) {
      CHECK(std::ranges::equal(chunked.values(name), whole.values(name)));
    }
  }

  // How often the layer's likeliest token is the model's own, a token later.
  const std::span<const float> main = whole.values("logits.0");
  const std::span<const float> extra = whole.values("mtp_logits.0");
  std::size_t agreements = 0;
  for (std::size_t t = 0; t + 2 < ids.size(); ++t) {
    agreements += ds4::argmax(extra.subspan(t * 2048, 2048)) ==
                  ds4::argmax(main.subspan((t + 1) * 2048, 2048));
  }
  const Result result =
      ds4_program({"perplexity", "--model", kAusten, "--text-file", dir.write("text", text),
                   "--context", std::to_string(ids.size()), "--exact", "--mtp"});
  CHECK(result.code == 0);
  char expected[120];
  std::snprintf(expected, sizeof(expected),
                "\nguesses of the extra layer: %zu\nagreement: %.2f %%\n", ids.size() - 2,
                100.0 * static_cast<double>(agreements) / static_cast<double>(ids.size() - 2));
  CHECK(contains(result.out, expected));
}

TEST_CASE("program: bench --draft compares decoding with and without, and passes of 1 to 4") {
  for (const std::string draft : {"2", "auto"}) {
    const Result result =
        ds4_program({"bench", "--text-file", ds4::test::data("/austen/heldout.txt"), "--prompt",
                     "100", "--decode", "40", "--repetitions", "2", "--draft", draft, "--json"});
    REQUIRE(result.code == 0);
    const Json json = Json::parse(result.out);
    CHECK(json["draft"]["decode_tokens_per_s"].get<double>() > 0.0);
    CHECK(json["draft"]["speed_up"].get<double>() > 0.0);
    CHECK(json["draft"]["acceptance"].get<double>() <= 1.0);
    if (draft == "2") {
      CHECK(json["draft"]["drafted"].get<std::size_t>() > 10);
      CHECK(json["draft"]["acceptance"].get<double>() > 0.3);
      CHECK(json["draft"]["tokens_per_pass"].get<double>() > 1.2);
    }
    REQUIRE(json["verification"].size() == 4);
    CHECK(json["verification"][0]["relative_bytes"] == 1.0);
    for (std::size_t i = 1; i < 4; ++i) {
      CHECK(json["verification"][i]["tokens"] == i + 1);
      CHECK(json["verification"][i]["relative_bytes"] > 1.0);
      CHECK(json["verification"][i]["relative_time"].get<double>() > 0.0);
    }
  }
  const Result filled = ds4_program({"bench", "--contexts", "300,2000", "--fill", "--decode", "8",
                                     "--repetitions", "1", "--draft", "1"});
  CHECK(filled.code == 0);
  CHECK(contains(filled.out, "\n  with --draft 1: decode "));
  CHECK(contains(filled.out, "\na pass of 4: "));
  const TempDir dir;
  check_fails(ds4_program({"bench", "--text-file", dir.write("text", "Too short.")}), 1,
              "found 5 tokens, expected at least 576 for the prompt and what is decoded");
}

TEST_CASE("program: chat --draft answers as without") {
  const std::string input = "How do you do?\n/reset\nTell me of your sister.\n";
  const auto chat = [&](const std::string& draft) {
    return ds4_program({"chat", "--temperature", "0", "--max-tokens", "60", "--draft", draft},
                       input);
  };
  const Result plain = chat("off");
  REQUIRE(plain.code == 0);
  for (const std::string draft : {"1", "3", "auto"}) {
    const Result result = chat(draft);
    CHECK(result.code == 0);
    CHECK(result.out == plain.out);
    CHECK(contains(result.err, "drafts: "));
  }
}

}  // namespace
