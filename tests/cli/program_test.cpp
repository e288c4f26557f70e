// Tests of the ds4 program as scripts use it: exit codes, texts and files. DS4_PROGRAM is the path
// of a build that also has the model tests/data/tiny-flash; without it there is nothing to test.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <ds4/decode/sampler.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

namespace fs = std::filesystem;
using namespace ds4::test::program;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

const std::string kAusten = ds4::test::models("/austen");
const std::string kTinyFlash = ds4::test::data("/tiny-flash");

/// Of a standard deviation of about 1.5; the library's own tests are stricter.
constexpr double kTolerance = 1.5e-4;

/// The input of the golden logits: one sequence of 300 tokens, two of 150.
Json golden_sequences(const ds4::test::Golden& golden) {
  const Ids first = golden.indices("input_ids");
  const Ids batch = golden.indices("batch_input_ids");
  return {first, Ids(batch.begin(), batch.begin() + 150), Ids(batch.begin() + 150, batch.end())};
}

void check_golden_logits(const ds4::test::Golden& golden, const std::string& file) {
  const ds4::test::Golden got(file);
  const auto batch = golden.values("batch_logits");
  using ds4::test::check_close;
  check_close("logits.0", got.values("logits.0"), golden.values("logits"), kTolerance);
  check_close("logits.1", got.values("logits.1"), batch.first(batch.size() / 2), kTolerance);
  check_close("logits.2", got.values("logits.2"), batch.last(batch.size() / 2), kTolerance);
  CHECK(got.tensor("logits.0").shape == std::vector<std::size_t>{300, 256});
  CHECK(got.tensor("logits.2").shape == std::vector<std::size_t>{150, 256});
}

/// The likeliest tokens behind a prompt, one after the other, from the logits that the program
/// writes. The text itself is no constant: of the model's first and second choice some are nearer
/// to each other than what an instruction set rounds.
std::string greedy_text(const std::string& prompt, std::size_t count, const std::string& backend) {
  const TempDir dir;
  Json ids =
      Json::parse(ds4_program({"tokenize", "--tokenizer", kAusten}, Json{prompt}.dump()).out)[0];
  ids.insert(ids.begin(), 0);  // the begin-of-sequence token
  const auto begin = static_cast<std::ptrdiff_t>(ids.size());
  while (count-- > 0) {
    const std::string out = dir / "out.safetensors";
    REQUIRE(ds4_program({"logits", "--model", kAusten, "--backend", backend, "--tokens",
                         dir.write("tokens.json", Json::array({ids}).dump()), "--out", out})
                .code == 0);
    const ds4::test::Golden logits(out);
    const std::span<const float> all = logits.values("logits.0");
    ids.push_back(ds4::argmax(all.last(all.size() / ids.size())));
  }
  const Json chosen(std::vector<Json>(ids.begin() + begin, ids.end()));
  return Json::parse(
      ds4_program({"detokenize", "--tokenizer", kAusten}, Json::array({chosen}).dump()).out)[0];
}

TEST_CASE("program: run continues a prompt") {
  const TempDir dir;
  const std::string prompt = "It is a truth universally acknowledged";
  const Result greedy =
      ds4_program({"run", "--prompt", prompt, "--temperature", "0", "--max-tokens", "12"});
  CHECK(greedy.code == 0);
  CHECK(greedy.out == greedy_text(prompt, 12, "simd"));
  CHECK(greedy.err.starts_with("prompt: 12 tokens, "));
  CHECK(contains(greedy.err, "generation: 12 tokens, "));
  CHECK(contains(greedy.err, " tokens/s\nmemory: scratch "));
  CHECK(contains(greedy.err, " MB (planned "));
  CHECK(std::ranges::count(greedy.err, '\n') == 2);

  const auto same_text = [&](const std::vector<std::string>& options) {
    std::vector<std::string> arguments{"run", "--temperature", "0", "--max-tokens", "12"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    CHECK(ds4_program(arguments).out == greedy.out);
  };
  same_text({"--prompt-file", dir.write("prompt", prompt)});
  same_text({"--prompt", "<｜begin▁of▁sentence｜>" + prompt});  // the token is there already
  same_text({"--prompt", prompt, "--model", kAusten, "--threads", "3"});
  same_text({"--prompt", prompt, "--chunk", "5"});
  const Result reference = ds4_program({"run", "--prompt", prompt, "--temperature", "0",
                                        "--max-tokens", "12", "--backend", "reference"});
  CHECK(reference.code == 0);
  CHECK(reference.out == greedy_text(prompt, 12, "reference"));

  const Result none = ds4_program({"run", "--prompt", prompt, "--max-tokens", "0"});
  CHECK(none.code == 0);
  CHECK(none.out.empty());
  CHECK(!ds4_program({"run", "--max-tokens", "5"}).out.empty());  // begins by itself
  // Values that look like options or lists are texts all the same.
  for (const char* text : {"-x", "--seed", "[a]", "{}", ""}) {
    CHECK(ds4_program({"run", "--prompt", text, "--max-tokens", "1"}).code == 0);
  }
}

TEST_CASE("program: run draws the same text for the same seed") {
  const auto text = [](const std::string& seed) {
    const Result result =
        ds4_program({"run", "--prompt", "She", "--max-tokens", "20", "--seed", seed});
    CHECK(result.code == 0);
    CHECK(contains(result.err, "; seed " + seed + "\n"));
    return result.out;
  };
  const std::string first = text("7");
  CHECK(first == text("7"));
  CHECK(first != text("18446744073709551615"));
  CHECK(contains(ds4_program({"run", "--max-tokens", "1"}).err, "; seed "));
  CHECK(ds4_program({"run", "--prompt", "She", "--max-tokens", "20", "--top-k", "1"}).out ==
        ds4_program({"run", "--prompt", "She", "--max-tokens", "20", "--temperature", "0"}).out);
}

TEST_CASE("program: run ends quietly when nobody reads, and on an interrupt") {
  const TempDir dir;
  const std::string code = dir / "code";
  const Result closed =
      shell("{ \"$ds4\" run --max-tokens 2000; echo $? >'" + code + "'; } | head -c 5");
  CHECK(closed.out.size() == 5);
  CHECK(closed.err.empty());
  CHECK(read(code) == "1\n");

  const std::string out = dir / "out";
  const Result interrupted =
      shell("\"$ds4\" run --max-tokens 15000 >'" + out + "' & while [ ! -s '" + out +
            "' ]; do sleep 0.05; done; kill -INT $!; wait $!");
  CHECK(interrupted.code == 1);
  CHECK(contains(interrupted.err, "; interrupted\n"));

  if (fs::exists("/dev/full")) {
    check_fails(shell("\"$ds4\" run >/dev/full"), 1, "standard output: cannot write: ");
  }
}

TEST_CASE("program: an interrupt ends a long prompt, which a saved session still has to take in") {
  const TempDir dir;
  std::string text;
  while (text.size() < 50'000) text += "It is a truth universally acknowledged, that a man. ";
  const std::string prompt = dir.write("prompt", text);
  const std::string fifo = dir / "fifo";
  const std::string session = dir / "session";
  for (const std::string backend : {"simd", "reference"}) {
    CAPTURE(backend);
    fs::remove(session);
    // The program opens the prompt when it is ready for interrupts; all of it fits into the pipe.
    const Result result =
        shell("rm -f '" + fifo + "'; mkfifo '" + fifo + "'; \"$ds4\" run --threads 1 --backend " +
              backend + " --max-tokens 5 --prompt-file '" + fifo + "' --save-session '" + session +
              "' & cat '" + prompt + "' >'" + fifo + "'; sleep 0.1; kill -INT $!; wait $!");
    CHECK(result.code == 1);
    CHECK(result.out.empty());
    CHECK(contains(result.err, " tokens, not taken in; interrupted\n"));
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(fs::exists(session));
  }
  // A session whose prompt is still to be taken in can be continued: here it is too long for that.
  std::string behind;
  while (behind.size() < 100'000) behind += text;
  check_fails(
      ds4_program({"run", "--load-session", session, "--prompt-file", dir.write("behind", behind)}),
      1, "context: found ");
}

TEST_CASE("program: logits are the golden ones") {
  const TempDir dir;
  const ds4::test::Golden golden(kTinyFlash + "/golden.safetensors");
  const std::string tokens = dir.write("tokens.json", golden_sequences(golden).dump());
  const std::string out = dir / "out.safetensors";
  for (const std::string backend : {"reference", "simd"}) {
    for (const std::string chunks : {"", "300", "5,64,1", "7"}) {
      CAPTURE(backend);
      CAPTURE(chunks);
      std::vector<std::string> arguments{"logits", "--model", kTinyFlash,  "--tokens", tokens,
                                         "--out",  out,       "--backend", backend};
      if (!chunks.empty()) arguments.insert(arguments.end(), {"--chunks", chunks});
      const Result result = ds4_program(arguments);
      CHECK(result.code == 0);
      CHECK(result.out.empty());
      CHECK(result.err.starts_with("memory: "));
      CHECK(contains(result.err, "(planned ") == (backend == "simd"));
      check_golden_logits(golden, out);
      CHECK(!ds4::test::Golden(out).has("layers.0.0"));
    }
  }
}

TEST_CASE("program: logits --layers writes the golden outputs of every layer") {
  const TempDir dir;
  const ds4::test::Golden golden(kTinyFlash + "/golden.safetensors");
  const std::string tokens = dir.write("tokens.json", golden_sequences(golden).dump());
  const std::string out = dir / "out.safetensors";
  for (const std::string chunks : {"1000", "5,64,1"}) {
    CAPTURE(chunks);
    REQUIRE(ds4_program({"logits", "--model", kTinyFlash, "--tokens", tokens, "--out", out,
                         "--layers", "--chunks", chunks})
                .code == 0);
    check_golden_logits(golden, out);
    const ds4::test::Golden got(out);
    for (int l = 0; l < 7; ++l) {
      const std::string name = "layers.0." + std::to_string(l);
      ds4::test::check_close(name, got.values(name),
                             golden.values("layers." + std::to_string(l) + ".output"), kTolerance);
      CHECK(got.tensor(name).shape == std::vector<std::size_t>{300, 4, 64});
      CHECK(got.has("layers.2." + std::to_string(l)));
    }
  }
}

TEST_CASE("program: logits refuses bad input and writes nothing") {
  const TempDir in;
  const TempDir dir;
  const auto check_logits = [&](std::string_view json, std::string_view part) {
    check_fails(ds4_program({"logits", "--model", kTinyFlash, "--tokens", in.write("t.json", json),
                             "--out", dir / "out.safetensors"}),
                1, "t.json: " + std::string(part));
    CHECK(dir.is_empty());
  };
  check_logits("[[1, 2], []]", "sequence 1: found no tokens, expected at least one");
  check_logits("[[1], [2, 3, 256]]", "sequence 1, token 2: found id 256, expected 0 to 255");
  check_logits("[[1, -1]]", "sequence 0, token 1: expected a token id, found -1");
  check_logits("[[1.5]]", "sequence 0, token 0: expected a token id, found 1.5");
  check_logits("[[99999999999]]", "sequence 0, token 0: expected a token id");
  check_logits("[1]", "sequence 0: expected an array of token ids, found 1");
  check_logits("{}", "expected an array of arrays of token ids, found an object");
  check_logits("[[1]", "expected JSON, found ");
  check_logits("", "expected JSON, found ");
  check_logits(Json{Ids(16385, 1)}.dump(),
               "sequence 0: found 16385 tokens, expected at most max_position_embeddings 16384");

  const auto with_out = [&](const std::string& out) {
    return ds4_program(
        {"logits", "--model", kTinyFlash, "--tokens", in.write("t.json", "[[1]]"), "--out", out});
  };
  check_fails(with_out(dir / "no/such/folder"), 1, "no/such/folder: cannot create: ");
  CHECK(with_out(dir / "out").code == 0);
  const std::string before = read(dir / "out");
  check_fails(ds4_program({"logits", "--model", kTinyFlash, "--tokens",
                           in.write("t.json", "[[1],[]]"), "--out", dir / "out"}),
              1, "sequence 1");
  CHECK(read(dir / "out") == before);  // what was there stays
}

TEST_CASE("program: results that are no numbers are named, and nothing is written") {
  // models/austen with NaN for the embedding of one token.
  const TempDir model;
  for (const char* file : {"config.json", "tokenizer.json"}) {
    fs::copy(kAusten + "/" + file, model / file);
  }
  std::string weights = read(kAusten + "/model.safetensors");
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, weights.data(), sizeof header_size);
  const Json header = Json::parse(weights.substr(8, header_size));
  const Json embed = header["embed.weight"];
  const auto row_bytes =
      (embed["data_offsets"][1].get<std::size_t>() - embed["data_offsets"][0].get<std::size_t>()) /
      embed["shape"][0].get<std::size_t>();
  const std::size_t nan_id = 300;
  const std::size_t row =
      8 + header_size + embed["data_offsets"][0].get<std::size_t>() + nan_id * row_bytes;
  weights.replace(row, row_bytes, row_bytes, '\xFF');  // NaN in every type
  model.write("model.safetensors", weights);

  const TempDir in;
  const TempDir out;
  const std::string tokens = in.write("t.json", "[[5, 6, 7], [8, 9, 10, 11, 300, 12]]");
  for (const char* backend : {"simd", "reference"}) {
    for (const char* chunks : {"100", "2"}) {
      for (const bool layers : {false, true}) {
        CAPTURE(backend);
        CAPTURE(chunks);
        std::vector<std::string> arguments{"logits", "--model",  model / "", "--tokens",
                                           tokens,   "--out",    out / "f",  "--backend",
                                           backend,  "--chunks", chunks};
        if (layers) arguments.push_back("--layers");
        check_fails(ds4_program(arguments), 1,
                    std::string(layers ? "layers.1.0" : "logits.1") +
                        ": token 4: expected finite numbers, found NaN in " +
                        (layers ? "768 of 768" : "2048 of 2048") + " values");
        CHECK(out.is_empty());
      }
    }
  }

  // A text that holds the token, behind others.
  const Json text = Json::parse(
      ds4_program({"detokenize", "--tokenizer", model / ""}, "[[35, 36, 300, 35, 36, 35]]").out);
  const std::string file = in.write("text", text[0].get<std::string>());
  const Json ids =
      Json::parse(ds4_program({"tokenize", "--tokenizer", model / ""}, text.dump()).out)[0];
  const auto at = static_cast<std::size_t>(std::ranges::find(ids, Json(300)) - ids.begin());
  REQUIRE(at + 1 < ids.size());
  for (const char* context : {"100", "2"}) {
    check_fails(ds4_program({"perplexity", "--model", model / "", "--text-file", file, "--context",
                             context}),
                1,
                "logits: token " + std::to_string(at) +
                    ": expected finite numbers, found NaN in 2048 of 2048 values");
  }
}

/// What `ds4 perplexity` prints.
struct Perplexity {
  std::size_t count = 0;
  double mean = 0.0;
  double perplexity = 0.0;
};
Perplexity read_perplexity(const Result& result) {
  Perplexity printed;
  REQUIRE(std::sscanf(result.out.c_str(),
                      "predictions: %zu negative log-likelihood per token: %lf perplexity: %lf",
                      &printed.count, &printed.mean, &printed.perplexity) == 3);
  return printed;
}

TEST_CASE("program: the perplexity of the held-out text is the reference figure") {
  // Of the reference implementation in float32. It does not run the extra layer, whose agreement
  // with the model is what both backends have found.
  for (const std::string backend : {"reference", "simd"}) {
    std::vector<std::string> arguments{
        "perplexity", "--model", kAusten,   "--text-file", ds4::test::data("/austen/heldout.txt"),
        "--context",  "512",     "--exact", "--backend",   backend};
    if (backend == "simd") arguments.emplace_back("--mtp");
    const Result result = ds4_program(arguments);
    CAPTURE(result.out);
    CHECK(result.code == 0);
    const auto [count, mean, perplexity] = read_perplexity(result);
    CHECK(count == 55689);
    CHECK(std::abs(mean - 3.3596) < 5e-5);
    CHECK(std::abs(perplexity - 28.78) < 5e-3);
    const std::size_t at = result.out.find("guesses of the extra layer: 55580\nagreement: ");
    CHECK((at != std::string::npos) == (backend == "simd"));
    if (at == std::string::npos) continue;
    const double agreement = std::stod(result.out.substr(result.out.rfind(": ") + 2));
    CHECK(std::abs(agreement - 64.19) < 0.1);
  }
}

TEST_CASE("program: perplexity agrees with the logits") {
  const TempDir dir;
  const std::string text = "Elizabeth was not at all afraid of him, and said so to her sister.";
  const Json ids =
      Json::parse(ds4_program({"tokenize", "--tokenizer", kAusten}, Json{text}.dump()).out)[0];
  Json windows = Json::array();
  constexpr std::size_t kContext = 5;
  REQUIRE(ids.size() % kContext > 1);  // the last window is shorter
  for (std::size_t i = 0; i < ids.size(); i += kContext) {
    windows.emplace_back(
        ids.begin() + static_cast<std::ptrdiff_t>(i),
        ids.begin() + static_cast<std::ptrdiff_t>(std::min(i + kContext, ids.size())));
  }
  REQUIRE(ds4_program({"logits", "--model", kAusten, "--tokens",
                       dir.write("t.json", windows.dump()), "--out", dir / "out"})
              .code == 0);
  const ds4::test::Golden logits(dir / "out");
  double sum = 0.0;
  std::size_t predictions = 0;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const auto values = logits.values("logits." + std::to_string(i));
    const std::size_t V = values.size() / windows[i].size();
    for (std::size_t t = 0; t + 1 < windows[i].size(); ++t, ++predictions) {
      const auto row = values.subspan(t * V, V);
      sum -= row[windows[i][t + 1].get<std::size_t>()] -
             std::log(std::accumulate(row.begin(), row.end(), 0.0, [](double total, float logit) {
               return total + std::exp(double{logit});
             }));
    }
  }
  const Result result =
      ds4_program({"perplexity", "--model", kAusten, "--text-file", dir.write("text", text),
                   "--context", std::to_string(kContext)});
  CHECK(result.code == 0);
  CHECK(result.err.empty());
  const auto [count, mean, perplexity] = read_perplexity(result);
  CHECK(count == predictions);
  CHECK(mean == doctest::Approx(sum / static_cast<double>(predictions)).epsilon(1e-5));
  CHECK(perplexity == doctest::Approx(std::exp(mean)).epsilon(1e-5));

  check_fails(
      ds4_program({"perplexity", "--model", kAusten, "--text-file", dir.write("text", "I")}), 1,
      "text: found 1 tokens, expected at least 2");
  check_fails(ds4_program({"perplexity", "--model", kAusten, "--text-file", dir.write("text", text),
                           "--context", "16385"}),
              1, "--context: found 16385, expected at most max_position_embeddings 16384");
}

TEST_CASE("program: ids that the tokenizer does not have are not drawn, and decoded as nothing") {
  // A vocabulary with holes that is padded as well: of the tokens that the model would choose, most
  // are gone.
  const TempDir dir;
  for (const char* file : {"config.json", "model.safetensors"}) {
    std::filesystem::copy(kAusten + ("/" + std::string(file)), dir / file);
  }
  Json tokenizer = Json::parse(read(kAusten + std::string("/tokenizer.json")));
  Json& vocab = tokenizer["model"]["vocab"];
  for (auto token = vocab.begin(); token != vocab.end();) {
    const int id = token->get<int>();
    token = id > 1500 || (id > 600 && id % 3 != 0) ? vocab.erase(token) : std::next(token);
  }
  Json merges = Json::array();
  for (const Json& merge : tokenizer["model"]["merges"]) {
    const std::string pair = merge.is_string() ? merge.get<std::string>() : "";
    const std::string left =
        merge.is_string() ? pair.substr(0, pair.find(' ')) : std::string(merge[0]);
    const std::string right =
        merge.is_string() ? pair.substr(pair.find(' ') + 1) : std::string(merge[1]);
    if (vocab.contains(left) && vocab.contains(right) && vocab.contains(left + right)) {
      merges.push_back(merge);
    }
  }
  tokenizer["model"]["merges"] = merges;
  dir.write("tokenizer.json", tokenizer.dump());

  const std::string model = dir / "";
  for (const char* temperature : {"0", "1.2"}) {
    for (const char* draft : {"off", "3"}) {
      CAPTURE(temperature);
      CAPTURE(draft);
      const std::string session = dir / "session";
      const Result result = ds4_program(
          {"run", "--model", model, "--prompt", "It is a truth universally", "--max-tokens", "60",
           "--temperature", temperature, "--seed", "7", "--draft", draft});
      INFO(result.err);
      CHECK(result.code == 0);
      CHECK(result.out.size() > 60);  // of the tokens that are left most have a letter or more
      CHECK(contains(result.err, "generation: 60 tokens"));
    }
  }
  const Result chat =
      ds4_program({"chat", "--model", model, "--max-tokens", "40", "--temperature", "0"},
                  "What did Elizabeth say?\n");
  CHECK(chat.code == 0);
  CHECK(chat.out.size() > 40);

  const Result decoded = ds4_program({"detokenize", "--tokenizer", model},
                                     "[[35, 1501, 36, 601], [999999, 35], [2047]]");
  CHECK(decoded.code == 0);
  const Result kept = ds4_program({"detokenize", "--tokenizer", model}, "[[35, 36], [35], []]");
  CHECK(decoded.out == kept.out);
}

TEST_CASE("program: tokenize and detokenize") {
  const Json cases = Json::parse(read(ds4::test::data("/tokenizer/cases.json")))["cases"];
  Json texts = Json::array();
  Json ids = Json::array();
  Json decoded = Json::array();
  for (const Json& item : cases) {
    texts.push_back(item["text"]);
    ids.push_back(item["ids"]);
    decoded.push_back(item["decoded"]);
  }
  const std::string folder = ds4::test::data("/tokenizer");
  const Result forth = ds4_program({"tokenize", "--tokenizer", folder}, texts.dump());
  CHECK(forth.code == 0);
  CHECK(forth.err.empty());
  CHECK(Json::parse(forth.out) == ids);
  const Result back =
      ds4_program({"detokenize", "--tokenizer", folder + "/tokenizer.json"}, ids.dump());
  CHECK(back.code == 0);
  CHECK(Json::parse(back.out) == decoded);

  const auto check_input = [](const char* verb, std::string_view input, std::string_view part) {
    check_fails(ds4_program({verb, "--tokenizer", kAusten}, input), 1, part);
  };
  check_input("tokenize", "[\"a\", 5]", "standard input: text 1: expected a string, found 5");
  check_input("tokenize", "\"a\"", "standard input: expected an array of strings, found \"a\"");
  check_input("tokenize", "", "standard input: expected JSON, found ");
  check_input("detokenize", "[[1], [-4]]",
              "standard input: sequence 1, token 0: expected a token id, found -4");
  check_fails(ds4_program({"tokenize", "--tokenizer", kTinyFlash}, "[]"), 1,
              "tiny-flash/tokenizer.json: ");
}

TEST_CASE("program: inspect") {
  const Result austen = ds4_program({"inspect", kAusten});
  CHECK(austen.code == 0);
  CHECK(austen.err.empty());
  for (const char* part :
       {"hidden_size: 192\n", "layers: 7: prefix of 3, 2 x pair, suffix of 0\n",
        "  0-1: sliding, hash router\n  2: csa (ratio 4), hash router\n",
        "  3-6: 2 x [hca (ratio 128), learned router; csa (ratio 4), learned router]\n",
        "multi-token prediction: one layer", "tensors: 412, of which 53 ",
        "parameters: 5548795 (5.5 M)\n", "parameters for multi-token prediction: 710311 ",
        "hash table entries: 12288 ", "bytes: 13268104 ", "  BF16: 11866624 ",
        "this program runs it: yes, as austen\n"}) {
    CAPTURE(part);
    CHECK(contains(austen.out, part));
  }
  // Packed FP4 holds two parameters to a byte, scales are none: 4557817 by the configuration.
  const Result quant = ds4_program({"inspect", ds4::test::data("/quant")});
  CHECK(quant.code == 0);
  CHECK(contains(quant.out, "parameters: 4557817 "));
  CHECK(contains(quant.out, "prediction: 1072197 "));
  CHECK(contains(quant.out, "this program runs it: no; the nearest model, "));
  CHECK(contains(quant.out,
                 "\nto add it: ds4 add \"" + ds4::test::data("/quant/config.json") + "\"\n"));
  check_fails(ds4_program({"inspect", "/no/such/folder"}), 1,
              "/no/such/folder/config.json: cannot open: ");
}

TEST_CASE("program: files without padding and with a wrong total_size give what others give") {
  const ds4::test::TempDir folder;
  const ds4::test::CheckpointCopy copy("tiny-flash");
  copy.write_unaligned(folder, 1);
  fs::rename(folder.path() / "model.safetensors", folder.path() / "shard");
  std::size_t bytes = 0;
  Json map;
  for (const auto& [name, tensor] : copy.tensors) {
    map[name] = "shard";
    bytes += tensor.bytes.size();
  }
  const Json index = {{"metadata", {{"total_size", std::to_string(bytes)}}}, {"weight_map", map}};
  const std::string where = folder.write("model.safetensors.index.json", index.dump()).string();
  const std::string warning = "ds4: warning: " + where + ": metadata.total_size: expected " +
                              std::to_string(bytes) + ", the bytes of all tensors, found \"" +
                              std::to_string(bytes) + "\", which is not used\n";

  const TempDir dir;
  const std::string tokens = dir.write("tokens.json", "[[1, 2, 3, 4, 5, 6, 7, 8, 9]]");
  const auto check_same = [&](const std::string& verb, std::vector<std::string> options) {
    CAPTURE(verb);
    const auto run = [&](const std::string& model) {
      std::vector<std::string> arguments{verb};
      if (options.empty() || verb == "convert") {
        arguments.push_back(model);
      } else {
        arguments.insert(arguments.end(), {"--model", model});
      }
      arguments.insert(arguments.end(), options.begin(), options.end());
      const Result result = ds4_program(arguments);
      CHECK(result.code == 0);
      return result;
    };
    fs::remove_all(dir / "out");
    const Result expected = run(kTinyFlash);
    const fs::path out =
        fs::is_directory(dir / "out") ? dir / "out/model.safetensors" : dir / "out";
    const std::string expected_file = read(out);
    fs::remove_all(dir / "out");
    const Result found = run(folder.path().string());
    CHECK(found.out == expected.out);
    CHECK(read(out) == expected_file);
    CHECK(!contains(expected.err, "warning"));
    CHECK(contains(found.err, warning));
  };
  const std::string out = dir / "out";
  check_same("inspect", {});
  check_same("logits", {"--tokens", tokens, "--out", out});
  check_same("logits", {"--tokens", tokens, "--out", out, "--memory-budget", "0"});
  check_same("logits", {"--tokens", tokens, "--out", out, "--backend", "reference"});
  check_same("check", {"--tokens", tokens});
  check_same("gradients", {"--tokens", tokens, "--out", out});
  check_same("convert", {"--format", "bf16", "--out", out});
}

TEST_CASE("program: inspect finds drafters, suffixes and what keeps a model from loading") {
  const TempDir dir;
  fs::copy_file(kAusten + "/model.safetensors", dir / "model.safetensors");
  Json config = Json::parse(read(kAusten + "/config.json"));
  config.update(Json{{"dspark_block_size", 4},
                     {"dspark_noise_token_id", 9},
                     {"dspark_target_layer_ids", {4, 6}},
                     {"dspark_markov_rank", 8}});
  config["compress_ratios"] = {4, 0, 0, 128, 4, 128, 0, 0};
  dir.write("config.json", config.dump());
  const Result other = ds4_program({"inspect", dir / ""});
  CHECK(contains(other.out, "prefix of 3, 1 x pair, suffix of 2\n"));
  CHECK(
      contains(other.out, "  5: hca (ratio 128), learned router\n  6: sliding, learned router\n"));
  // Its tensors are those of a multi-token-prediction layer.
  CHECK(contains(other.out, "multi-token prediction: none that can be read: ds4: "));
  CHECK(
      contains(other.out, "mtp.0.e_proj.weight: found a tensor of a multi-token-prediction layer"));
  REQUIRE(ds4_program({"synth", dir / "config.json", "--out", dir / "dspark"}).code == 0);
  CHECK(contains(ds4_program({"inspect", dir / "dspark"}).out,
                 "multi-token prediction: DSpark, stages: 1, tokens of a block: 4: drafts with "
                 "--draft\n"));

  config = Json::parse(read(kTinyFlash + "/config.json"));  // with another model's tensors
  dir.write("config.json", config.dump());
  const Result wrong = ds4_program({"inspect", dir / ""});
  CHECK(wrong.code == 0);
  CHECK(contains(wrong.out, "this program runs it: no; ds4: "));
}

TEST_CASE("program: a model that is not compiled in") {
  const std::string folder = ds4::test::data("/tiny-pro-yarn");
  const Result result = ds4_program({"run", "--model", folder});
  check_fails(result, 1, folder + "/config.json: no compiled-in model has this configuration");
  CHECK(contains(result.err,
                 "; the nearest, pro, differs in vocab_size: found 256, expected 129280; "));
  CHECK(contains(result.err, "; to add it: ds4 add \"" + folder + "/config.json\"\n"));
}

TEST_CASE("program: bad usage") {
  struct Case {
    std::vector<std::string> arguments;
    const char* text;
  };
  const std::vector<Case> cases{
      {{}, "A subcommand is required; see ds4 --help"},
      {{"chatter"}, "there is no subcommand chatter; see ds4 --help"},
      {{"run", "--bogus"}, "--bogus; see ds4 run --help"},
      {{"run", "surplus"}, "surplus"},
      {{"run", "--top-k", "-1"}, "--top-k: expected a whole number from 0 to "},
      {{"run", "--top-k"}, "--top-k"},
      {{"run", "--top-p", "0"}, "--top-p: expected a number above 0 and at most 1, found \"0\""},
      {{"run", "--top-p", "1.1"}, "--top-p"},
      {{"run", "--temperature", "nan"}, "--temperature: expected a finite number of at least 0"},
      {{"run", "--temperature", "inf"}, "--temperature"},
      {{"run", "--temperature", "-1"}, "--temperature"},
      {{"run", "--temperature", "1x"}, "--temperature"},
      {{"run", "--temperature", ""}, "--temperature"},
      {{"run", "--threads", "0"}, "--threads: expected a whole number from 1 to "},
      {{"run", "--max-tokens", "-1"}, "--max-tokens"},
      {{"run", "--max-tokens", "1e3"}, "--max-tokens"},
      {{"run", "--max-tokens", "1", "--max-tokens", "2"}, "--max-tokens"},
      {{"run", "--seed", "-1"}, "--seed: expected a whole number below 2^64"},
      {{"run", "--seed", "18446744073709551616"}, "--seed"},
      {{"run", "--backend", "abacus"}, "reference, found \"abacus\""},
      {{"run", "--backend", "a\nb"}, "a\\x0ab"},
      {{"run", "--model", ""}, "--model: expected a path, found an empty text"},
      {{"run", "--prompt", "a", "--prompt-file", "b"}, "--prompt excludes --prompt-file"},
      {{"logits", "--tokens", "t", "--out", "o"}, "--model is required"},
      {{"logits", "--model", "m", "--out", "o"}, "--tokens is required"},
      {{"logits", "--model", "m", "--tokens", "t"}, "--out is required"},
      {{"logits", "--model", "m", "--tokens", "t", "--out", "o", "--chunks", "5,0"},
       "--chunks: expected whole numbers of at least 1 with commas between, found \"5,0\""},
      {{"logits", "--model", "m", "--tokens", "t", "--out", "o", "--chunks", "5,,1"}, "--chunks"},
      {{"logits", "--model", "m", "--tokens", "t", "--out", "o", "--chunks", "5,-1"}, "--chunks"},
      {{"logits", "--model", "m", "--tokens", "t", "--out", "o", "--chunks", "five"}, "--chunks"},
      {{"logits", "--model", "m", "--tokens", "t", "--out", "o", "--chunks", ""}, "--chunks"},
      {{"perplexity", "--model", "m"}, "--text-file is required"},
      {{"perplexity", "--model", "m", "--text-file", "t", "--context", "1"}, "--context"},
      {{"tokenize"}, "--tokenizer is required"},
      {{"detokenize"}, "--tokenizer is required"},
      {{"inspect"}, "DIR is required"},
      {{"convert", "--format", "bf16", "--out", "o"}, "DIR is required"},
      {{"convert", "d", "--out", "o"}, "--format is required"},
      {{"convert", "d", "--format", "bf16"}, "--out is required"},
      {{"convert", "d", "--format", "q4", "--out", "o"}, "--format"},
      {{"convert", "d", "--format", "bf16", "--out", ""}, "--out: expected a path"},
      {{"convert", "d", "--format", "bf16", "--out", "o", "--shard-size", "0"},
       "--shard-size: expected a number of GB from 1e-6 to 1e6, found \"0\""},
  };
  for (const Case& usage : cases) {
    CAPTURE(usage.text);
    check_fails(ds4_program(usage.arguments), 2, usage.text);
  }
}

TEST_CASE("program: missing files") {
  check_fails(ds4_program({"run", "--prompt-file", "/no/file"}), 1, "/no/file: cannot open: ");
  check_fails(ds4_program({"run", "--prompt-file", "/"}), 1, "/: cannot read: ");
  check_fails(ds4_program({"run", "--model", "/no/dir"}), 1, "/no/dir/config.json: cannot open: ");
  check_fails(ds4_program({"run", "--model", kTinyFlash}), 1, "tokenizer.json: ");
  check_fails(ds4_program({"perplexity", "--model", kAusten, "--text-file", "/no/file"}), 1,
              "/no/file: cannot open: ");
  check_fails(
      ds4_program({"logits", "--model", kAusten, "--tokens", "/no/file", "--out", "/no/out"}), 1,
      "/no/file: cannot open: ");
}

TEST_CASE("program: synth writes a checkpoint that runs, the same for the same seed") {
  const TempDir dir;
  const auto synth = [&](const std::string& out, const char* format, const char* seed) {
    const Result result = ds4_program({"synth", kTinyFlash + "/config.json", "--format", format,
                                       "--seed", seed, "--out", dir / out});
    CHECK(result.code == 0);
    CHECK(result.err.empty());
    return read(dir / (out + "/model.safetensors"));
  };
  const std::string first = synth("a", "bf16", "1");
  CHECK(synth("b", "bf16", "1") == first);
  CHECK(synth("c", "bf16", "2") != first);
  CHECK(synth("d", "f32", "1").size() > first.size());
  CHECK(synth("e", "release", "1").size() < first.size());

  dir.write("t.json", "[[1, 2, 3, 4, 5, 6, 7, 8]]");
  for (const char* folder : {"a", "d", "e"}) {
    const Result result = ds4_program({"logits", "--model", dir / folder, "--tokens",
                                       dir / "t.json", "--out", dir / "o.safetensors"});
    CHECK(result.err.starts_with("memory: "));
    CHECK(result.code == 0);
    const ds4::test::Golden logits(dir / "o.safetensors");
    const double deviation = ds4::test::standard_deviation(logits.values("logits.0"));
    CHECK(deviation > 0.5);  // healthy: neither all the same nor without bound
    CHECK(deviation < 10.0);
  }
  check_fails(ds4_program({"synth", "/no/config.json", "--out", dir / "f"}), 1, "/no/config.json");
  check_fails(ds4_program({"synth", "flash", "--layers", "4", "--out", dir / "f"}), 1,
              "layers: found 4, expected 3 and up to 20 pairs of two");
  check_fails(ds4_program({"synth", kTinyFlash + "/config.json", "--out", "/proc/e"}), 1,
              "/proc/e: cannot create: ");
  check_fails(
      ds4_program({"synth", kTinyFlash + "/config.json", "--out", dir / "f", "--format", "f8"}), 2,
      "--format");
}

TEST_CASE("program: convert stores a checkpoint in another format, and tells the errors") {
  const TempDir dir;
  const Result text =
      ds4_program({"convert", kTinyFlash, "--format", "release", "--out", dir / "release"});
  CHECK(text.code == 0);
  CHECK(text.err.empty());
  CHECK(text.out.starts_with("359 tensors, "));
  CHECK(contains(text.out, " bytes, in 1 file\n"));
  for (const char* part :
       {"largest error   RMS / RMS\n", "\nrouted experts             168  F32 ", "  FP4 ",
        "  F8_E4M3 ", "\nembedding and head           2  F32   BF16 "}) {
    CAPTURE(part);
    CHECK(contains(text.out, part));
  }
  const Result again =
      ds4_program({"convert", dir / "release", "--format", "release", "--out", dir / "again"});
  CHECK(contains(again.out, "; all of them were stored so already\n"));
  CHECK(read(dir / "again/model.safetensors") == read(dir / "release/model.safetensors"));
  CHECK(read(dir / "again/config.json") == read(dir / "release/config.json"));

  // Shards, JSON, and values that BF16 holds exactly.
  const Result json = ds4_program({"convert", dir / "release", "--format", "bf16", "--out",
                                   dir / "bf16", "--shard-size", "0.0002", "--json"});
  CHECK(json.code == 0);
  const Json result = Json::parse(json.out);
  CHECK(result["format"] == "bf16");
  CHECK(result["tensors"] == 359);
  CHECK(result["files"].get<int>() > 3);
  CHECK(result["left_out"] == 0);
  REQUIRE(result["changes"].size() > 3);
  for (const Json& change : result["changes"]) {
    CHECK(change["largest_error"] == 0.0);
    CHECK(change["relative_rms_error"] == 0.0);
    CHECK(change["tensors"].get<int>() > 0);
    CHECK(change["values"].get<int>() > 0);
    CHECK(change["to"] == (change["kind"] == "norms" ? "F32" : "BF16"));
  }
  CHECK(fs::exists(dir / "bf16/model.safetensors.index.json"));

  // The same values on both backends: the logits differ by the order of sums at most.
  const ds4::test::Golden golden(kTinyFlash + "/golden.safetensors");
  const std::string tokens = dir.write("tokens.json", golden_sequences(golden).dump());
  const auto logits = [&](const std::string& model, const std::string& backend) {
    std::vector<std::string> arguments{"logits",   "--model", dir / model,
                                       "--tokens", tokens,    "--backend",
                                       backend,    "--out",   dir / (model + backend)};
    if (backend == "simd") arguments.emplace_back("--exact");
    CHECK(ds4_program(arguments).code == 0);
    return ds4::test::Golden(dir / (model + backend));
  };
  for (const std::string backend : {"reference", "simd"}) {
    const auto release = logits("release", backend);
    const auto bf16 = logits("bf16", backend);
    for (const std::string name : {"logits.0", "logits.1", "logits.2"}) {
      ds4::test::check_close(name, bf16.values(name), release.values(name), kTolerance);
    }
  }
}

TEST_CASE("program: convert keeps every parameter of the release's fixture") {
  const TempDir dir;
  CHECK(
      ds4_program({"convert", ds4::test::data("/quant"), "--format", "bf16", "--out", dir / "bf16"})
          .code == 0);
  const Result inspect = ds4_program({"inspect", dir / "bf16"});
  CHECK(contains(inspect.out, "parameters: 4557817 "));
  CHECK(contains(inspect.out, "prediction: 1072197 "));
  CHECK(!contains(inspect.out, "F8_E"));
}

TEST_CASE("program: convert says what it leaves out, and what keeps it from converting") {
  const TempDir dir;
  fs::create_directories(dir / "dspark");
  fs::copy_file(kAusten + "/model.safetensors", dir / "dspark/model.safetensors");
  Json config = Json::parse(read(kAusten + "/config.json"));
  config["num_nextn_predict_layers"] = 0;
  config["compress_ratios"].erase(7);
  dir.write("dspark/config.json", config.dump());
  const Result unlisted =
      ds4_program({"convert", dir / "dspark", "--format", "f32", "--out", dir / "unlisted"});
  CHECK(unlisted.err == "mtp.*: 53 tensors left out, as config.json announces no drafter\n");

  const auto fails = [&](const std::string& from, const std::string& out, const char* part) {
    check_fails(ds4_program({"convert", from, "--format", "bf16", "--out", out}), 1, part);
  };
  fails(kTinyFlash, kTinyFlash, "expected another folder than the checkpoint's own");
  fails(kTinyFlash, dir / "unlisted",
        "expected a folder without a checkpoint, found model.safetensors");
  fails("/no/dir", dir / "none", "/no/dir/config.json: cannot open: ");
  fails(kTinyFlash, "/proc/e", "/proc/e: cannot create: ");
  CHECK(!fs::exists(dir / "none"));

  config["hidden_size"] = 100;
  dir.write("dspark/config.json", config.dump());
  fails(dir / "dspark", dir / "none", "expected shape [");
  CHECK(!fs::exists(dir / "none"));
}

TEST_CASE("program: convert leaves nothing behind when it is interrupted") {
  const TempDir dir;
  Json config = Json::parse(read(kAusten + "/config.json"));
  config["vocab_size"] = 150'000;  // large enough for the interrupt to come before the end
  dir.write("config.json", config.dump());
  REQUIRE(ds4_program({"synth", dir / "config.json", "--out", dir / "model"}).code == 0);
  const std::string out = dir / "out";
  const Result interrupted = shell(
      "\"$ds4\" convert '" + dir / "model" + "' --format f32 --shard-size 0.01 --out '" + out +
      "' & until [ -n \"$(ls '" + out + "' 2>/dev/null)\" ]; do :; done; kill -INT $!; wait $!");
  CHECK(interrupted.code == 1);
  CHECK(interrupted.out.empty());
  CHECK(interrupted.err == "ds4: convert: interrupted\n");
  CHECK(!fs::exists(out));
}

TEST_CASE("program: plan states the published figures") {
  const Result result =
      ds4_program({"plan", "flash", "--context", "1048576", "--bandwidth", "33", "--json"});
  REQUIRE(result.code == 0);
  const Json plan = Json::parse(result.out);
  CHECK(plan["parameters"] == 284'332'240'471);
  CHECK(plan["parameters_mtp"] == 6'610'048'891);
  CHECK(plan["weight_bytes"] == 159'609'485'896);
  CHECK(plan["weight_bytes_per_token"].get<double>() / 1e9 == doctest::Approx(11.22).epsilon(1e-3));
  CHECK(plan["decode_tokens_per_s_limit"].get<double>() ==
        doctest::Approx(33.0 / 11.22).epsilon(1e-3));
  for (const char* phase : {"prefill", "decode"}) {
    std::size_t sum = 0;
    for (const auto& [name, flops] : plan["flops_by_component"][phase].items()) {
      sum += flops.get<std::size_t>();
    }
    CHECK(plan["flops_per_token"][phase] == sum);
  }
  // The published counts, on the storage that the file says: FP8 experts with F32 scales in Base.
  const auto tensors_and_bytes = [](const std::string& config) {
    const Json json = Json::parse(ds4_program({"plan", config, "--json"}).out);
    return std::pair{json["tensors"].get<std::size_t>(), json["weight_bytes"].get<std::size_t>()};
  };
  const std::string published = ds4::test::data("/real-configs/");
  CHECK(tensors_and_bytes(published + "flash-base.config.json") ==
        std::pair<std::size_t, std::size_t>(69'187, 292'555'345'480));
  CHECK(tensors_and_bytes("flash-0731") ==
        std::pair<std::size_t, std::size_t>(72'317, 166'878'536'440));
  const Result vision = ds4_program({"plan", published + "flash-vision-exp.config.json", "--json"});
  CHECK(Json::parse(vision.out)["set_aside"]["tensors"] == 316);
  CHECK(Json::parse(vision.out)["tensors"] == 72'633);
  const Result text = ds4_program({"plan", kTinyFlash + "/config.json", "--storage", "bf16"});
  CHECK(text.code == 0);
  CHECK(contains(text.out, "parameters"));
  CHECK(contains(text.out, "a decoded token reads"));
  check_fails(ds4_program({"plan", "/no/config.json"}), 1, "/no/config.json");
  check_fails(ds4_program({"plan", "flash", "--context", "2000000"}), 1,
              "--context: found 2000000, expected at most max_position_embeddings 1048576");
  check_fails(ds4_program({"plan", "flash", "--storage", "q4"}), 2, "--storage");
}

TEST_CASE("program: bench prints what scripts read, and serves as a peer") {
  const Result json = ds4_program({"bench", "--prompt", "16", "--decode", "4", "--repetitions", "1",
                                   "--threads", "1", "--json"});
  CHECK(json.code == 0);
  const Json result = Json::parse(json.out);
  CHECK(result["decode_tokens_per_s"].get<double>() > 0.0);
  CHECK(result["prefill_tokens_per_s"].get<double>() > 0.0);
  CHECK(result["roofline_share"]["decode"].get<double>() > 0.0);
  CHECK(result["roofline_share"]["prefill"].get<double>() > 0.0);
  CHECK(result["peak_rss_bytes"].get<std::size_t>() > 1'000'000);
  CHECK(result["weight_bytes"].get<std::size_t>() > 1'000'000);
  CHECK(result["scratch_bytes"].get<std::size_t>() > 100'000);
  CHECK(result["state_bytes"].get<std::size_t>() > 10'000);
  const auto scratch = result["scratch_bytes"].get<double>();
  CHECK(result["planned"]["scratch_bytes"].get<double>() == doctest::Approx(scratch).epsilon(0.05));

  // Behind a state of random numbers; nothing is said about prefill.
  for (const std::string backend : {"simd", "reference"}) {
    const Result filled = ds4_program({"bench", "--model", kTinyFlash, "--contexts", "1,300,16000",
                                       "--fill", "--decode", "4", "--repetitions", "1", "--threads",
                                       "1", "--backend", backend, "--json"});
    REQUIRE(filled.code == 0);
    const Json points = Json::parse(filled.out)["contexts"];
    REQUIRE(points.size() == 3);
    for (const Json& point : points) {
      CHECK(point["decode_tokens_per_s"].get<double>() > 0.0);
      CHECK(!point.contains("prefill_tokens_per_s"));
    }
    CHECK(points[1]["state_bytes"] < points[2]["state_bytes"]);
  }

  const TempDir dir;
  const Result peer =
      ds4_program({"bench", "--peer-protocol", "--threads", "1", "--model", kTinyFlash},
                  "{\"op\":\"prefill\",\"tokens\":[1,2,3]}\n"
                  "{\"op\":\"decode\",\"tokens\":[1,2,3],\"n\":3}\n"
                  "{\"op\":\"logits\",\"chunks\":[[1,2],[3]],\"path\":\"" +
                      dir / "x.npy" +
                      "\"}\n"
                      "{\"op\":\"rss\"}\n{\"op\":\"quit\"}\n");
  CHECK(peer.code == 0);
  std::istringstream lines(peer.out);
  const auto next = [&] {
    std::string line;
    REQUIRE(std::getline(lines, line));
    return Json::parse(line);
  };
  CHECK(next()["ready"] == true);
  const Json prefill = next();
  const Json decode = next();
  CHECK(prefill["argmax"].get<int>() < 256);
  CHECK(decode["ids"].size() == 3);  // those behind the prompt's own
  CHECK(next() == Json::object());
  CHECK(next()["peak_rss_mb"].get<double>() > 1.0);
  const std::string npy = read(dir / "x.npy");
  CHECK(contains(npy, "'shape': (3, 256)"));
  CHECK(npy.size() % 64 == 0);  // the header is padded to 64, as are 3 * 256 floats
}

TEST_CASE("program: a checkpoint that is shortened under a run ends it with an error") {
  const TempDir dir;
  fs::copy(kTinyFlash, dir / "model");
  const std::string weights = dir / "model" + "/model.safetensors";
  fs::permissions(weights, fs::perms::owner_all);
  // The first answer shows that the model has been loaded.
  const Result result = shell(
      "mkfifo '" + dir / "requests" + "'\n\"$ds4\" bench --peer-protocol --threads 1 --model '" +
      dir / "model" + "' < '" + dir / "requests" + "' > '" + dir / "answers" + "' &\n" +
      "exec 3> '" + dir / "requests" + "'\nwhile ! [ -s '" + dir / "answers" +
      "' ]; do sleep 0.05; done\ntruncate -s 5000 '" + weights +
      "'\necho '{\"op\":\"prefill\",\"tokens\":[1,2,3]}' >&3\nwait $!\n");
  check_fails(result, 1, "model.safetensors: expected ");
  CHECK(contains(result.err, "found 5000: it was shortened while in use"));
}

TEST_CASE("program: help and version") {
  const Result help = ds4_program({"--help"});
  CHECK(help.code == 0);
  CHECK(help.err.empty());
  for (const std::string verb :
       {"run", "chat", "logits", "perplexity", "tokenize", "detokenize", "inspect", "bench",
        "synth", "plan", "convert", "trace", "draw", "routes", "attend", "check"}) {
    CHECK(contains(help.out, "\n  " + verb + " "));
    const Result result = ds4_program({verb, "--help"});
    CHECK(result.code == 0);
    CHECK(contains(result.out, "Usage: ds4 " + verb));
  }
  const Result version = ds4_program({"--version"});
  CHECK(version.code == 0);
  CHECK(version.out.starts_with("ds4 "));
}

}  // namespace
