// Tests of what the ds4 program shows: trace, draw, routes, attend, and bench/plot.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <support/paths.hpp>
#include <support/program.hpp>
#include <support/xml.hpp>

namespace {

namespace fs = std::filesystem;
using namespace ds4::test::program;
using Elements = std::vector<ds4::test::XmlElement>;
using Json = nlohmann::json;

const std::string kTinyFlash = ds4::test::data("/tiny-flash");
const std::string kNarrowFlash = ds4::test::data("/narrow-flash/config.json");

/// `count` token ids as a token file.
std::string tokens_json(std::size_t count) {
  std::vector<int> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<int>((i * 37 + 11) % 256));
  return Json{ids}.dump();
}

bool has_tool(const std::string& name) { return shell("command -v " + name).code == 0; }

/// The elements of a picture. Where rsvg-convert is installed, it has to draw more than paper.
Elements check_picture(const std::string& svg, const TempDir& dir) {
  const Elements elements = ds4::test::XmlParser::parse(read(svg));
  REQUIRE(elements.size() > 2);
  const auto& page = elements[0];
  CHECK(page.name == "svg");
  // Nothing outside the page: texts begin, and boxes lie, inside it.
  const double width = std::stod(page.attributes.at("width"));
  const double height = std::stod(page.attributes.at("height"));
  for (const auto& element : elements) {
    if (element.name == "text") {
      CHECK(!element.text.empty());
      CHECK(std::stod(element.attributes.at("x")) < width);
      CHECK(std::stod(element.attributes.at("y")) < height);
    } else if (element.name == "rect" && element.attributes.contains("x")) {
      const auto at = [&](const char* name) { return std::stod(element.attributes.at(name)); };
      CHECK(at("x") >= 0.0);
      CHECK(at("x") + at("width") <= width);
      CHECK(at("y") + at("height") <= height);
    }
  }

  if (!has_tool("rsvg-convert")) {
    MESSAGE("rsvg-convert (librsvg2-bin) is not installed: " << svg << " is not rendered");
    return elements;
  }
  const auto rendered_bytes = [&](const std::string& file) {
    const Result result = shell("rsvg-convert '" + file + "' -o '" + dir / "rendered.png" + "'");
    CHECK(result.code == 0);
    CHECK(result.err.empty());
    const std::string png = read(dir / "rendered.png");
    CHECK(png.starts_with("\x89PNG"));
    std::filesystem::remove(dir / "rendered.png");
    return png.size();
  };
  const std::string paper = dir.write(
      "paper.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" +
                       page.attributes.at("width") + "\" height=\"" + page.attributes.at("height") +
                       "\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/></svg>");
  CHECK(rendered_bytes(svg) > 2 * rendered_bytes(paper));
  return elements;
}

std::size_t count_class(const Elements& elements, const std::string& name) {
  return static_cast<std::size_t>(std::ranges::count_if(elements, [&](const auto& element) {
    const auto found = element.attributes.find("class");
    return found != element.attributes.end() && found->second == name;
  }));
}

bool has_text(const Elements& elements, std::string_view text) {
  return std::ranges::any_of(elements, [&](const auto& element) { return element.text == text; });
}

TEST_CASE("pictures: a trace shows Flash's schedule as it runs") {
  const TempDir dir;
  REQUIRE(ds4_program({"synth", kNarrowFlash, "--out", dir / "model"}).code == 0);
  dir.write("t.json", tokens_json(130));
  const Result result =
      ds4_program({"trace", "--model", dir / "model", "--tokens", dir / "t.json", "--decode", "2",
                   "--threads", "2", "--out", dir / "trace.json"});
  CHECK(result.code == 0);
  CHECK(result.out.empty());
  CHECK(result.err.empty());
  const Json trace = Json::parse(read(dir / "trace.json"));

  // The pass, and inside it each layer, lie one behind the other.
  std::vector<Json> passes;
  std::vector<Json> layers;
  std::map<std::string, std::size_t> components;
  std::size_t metadata = 0;
  for (const Json& event : trace["traceEvents"]) {
    CHECK(event["pid"].is_number_integer());
    CHECK(event["tid"].is_number_integer());
    if (event["ph"] == "M") {
      ++metadata;
      CHECK(event["args"]["name"].is_string());
      continue;
    }
    CHECK(event["ph"] == "X");
    CHECK(event["ts"].get<double>() >= 0.0);
    CHECK(event["dur"].get<double>() > 0.0);
    if (event["cat"] == "pass") passes.push_back(event);
    if (event["cat"] == "layer") layers.push_back(event);
    if (event["cat"] == "component") ++components[event["name"]];
  }
  CHECK(metadata == 2);
  REQUIRE(passes.size() == 3);
  CHECK(passes[0]["args"]["tokens"] == 130);
  CHECK(passes[2]["args"]["position"] == 131);
  REQUIRE(layers.size() == 3 * 43);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::size_t layer = i % 43;
    CAPTURE(layer);
    const Json& args = layers[i]["args"];
    const int ratio = layer < 2 ? 0 : layer == 2 ? 4 : layer % 2 == 1 ? 128 : 4;
    CHECK(args["layer"] == layer);
    CHECK(args["compress_ratio"] == ratio);
    CHECK(args["attention"] == (ratio == 0 ? "sliding" : ratio == 4 ? "csa" : "hca"));
    CHECK(args["router"] == (layer < 3 ? "hash" : "learned"));
    CHECK(args["weight_bytes"].get<double>() > 0.0);
    CHECK(args["flops"].get<double>() > 0.0);
    const auto end = [](const Json& event) {
      return event["ts"].get<double>() + event["dur"].get<double>();
    };
    if (layer > 0) CHECK(layers[i]["ts"].get<double>() >= end(layers[i - 1]));
    const Json& pass = passes[i / 43];
    CHECK(layers[i]["ts"].get<double>() >= pass["ts"].get<double>());
    CHECK(end(layers[i]) <= end(pass));
  }
  CHECK(components["attention"] == 3 * 43);
  CHECK(components["moe"] == 3 * 43);
  CHECK(components["hyper_connection"] == 3 * 86);
  CHECK(components["indexer"] == 3 * 21);
  CHECK(components["compressor"] == 3 * (20 + 2 * 21));
  CHECK(components["embed"] == 3);
  CHECK(components["head"] == 3);
}

TEST_CASE("pictures: trace refuses bad input and writes nothing") {
  const TempDir in;
  const TempDir dir;
  const auto fails = [&](std::string_view tokens, const std::string& out, const char* decode,
                         std::string_view part) {
    check_fails(ds4_program({"trace", "--model", kTinyFlash, "--tokens", in.write("t.json", tokens),
                             "--decode", decode, "--out", out}),
                1, part);
    CHECK(dir.is_empty());
  };
  fails("[]", dir / "o", "0", "t.json: found no sequences, expected at least one");
  fails("[[]]", dir / "o", "0", "t.json: sequence 0: found no tokens, expected at least one");
  fails("[[256]]", dir / "o", "0", "sequence 0, token 0: found id 256, expected 0 to 255");
  fails("[[1]]", dir / "no/such/folder", "0", "no/such/folder: cannot create: ");
  fails("[[1, 2]]", dir / "o", "16383",
        "--decode: found 16383 behind 2 tokens, expected at most max_position_embeddings 16384");
}

TEST_CASE("pictures: draw shows the typed sequence") {
  const TempDir dir;
  struct Case {
    const char* name;
    std::size_t layers;
    const char* repeated;
    const char* parameters;
  };
  for (const Case& model : {Case{"flash", 43, "× 20", "284 G parameters, 13.3 G"},
                            Case{"pro", 61, "× 29", "1.57 T parameters, 48.9 G"}}) {
    CAPTURE(model.name);
    const Result result = ds4_program({"draw", model.name, "--out", dir / "stack.svg"});
    CHECK(result.code == 0);
    CHECK(result.err.empty());
    const Elements elements = check_picture(dir / "stack.svg", dir);
    // Prefix, pair and the extra layer; each layer once in the order of execution.
    CHECK(count_class(elements, "layer") == 5);
    CHECK(count_class(elements, "step") == model.layers);
    std::size_t next = 0;
    for (const auto& element : elements) {
      if (element.name == "text" && elements[element.parent].attributes.contains("class") &&
          elements[element.parent].attributes.at("class") == "step") {
        CHECK(element.text == std::to_string(next++));
      }
    }
    CHECK(next == model.layers);
    CHECK(has_text(elements, model.repeated));
    CHECK(has_text(elements, "mtp.0"));
    CHECK(contains(read(dir / "stack.svg"), model.parameters));
  }
  // A folder, and a schedule with a suffix and no extra layer.
  Json config = Json::parse(read(kNarrowFlash));
  config["compress_ratios"] = {4, 0, 0, 128, 4, 128, 0};
  config["num_hidden_layers"] = 7;
  config["num_nextn_predict_layers"] = 0;
  dir.write("config.json", config.dump());
  REQUIRE(ds4_program({"draw", dir / "", "--out", dir / "other.svg"}).code == 0);
  const Elements elements = check_picture(dir / "other.svg", dir);
  CHECK(count_class(elements, "layer") == 6);
  CHECK(has_text(elements, "× 1"));
  CHECK(!has_text(elements, "mtp.0"));

  check_fails(ds4_program({"draw", "/no/config.json", "--out", dir / "none.svg"}), 1,
              "/no/config.json: cannot open: ");
  check_fails(ds4_program({"draw", "flash", "--out", dir / "no/such/folder"}), 1,
              "no/such/folder: cannot create: ");
  CHECK(!fs::exists(dir / "none.svg"));
}

TEST_CASE("pictures: routes counts every layer's experts") {
  const TempDir dir;
  dir.write("t.json", tokens_json(90));
  const Result result = ds4_program(
      {"routes", "--model", kTinyFlash, "--tokens", dir / "t.json", "--out", dir / "routes.svg"});
  CHECK(result.code == 0);
  CHECK(result.err.empty());
  const Elements elements = check_picture(dir / "routes.svg", dir);
  CHECK(count_class(elements, "layer") == 7);
  std::string routers;
  for (const auto& element : elements) {
    if (element.attributes.contains("data-router"))
      routers += element.attributes.at("data-router")[0];
  }
  CHECK(routers == "hhhllll");
  CHECK(has_text(elements, "2 hash"));
  CHECK(has_text(elements, "3 learned"));
  CHECK(contains(read(dir / "routes.svg"), "90 tokens, each of which picks 2 of 8 experts"));

  // A text, and a name that XML has to escape.
  fs::create_directory(dir / "a&b");
  dir.write("text", "She was not at all afraid of him, and said so.");
  REQUIRE(ds4_program({"routes", "--model", ds4::test::models("/austen"), "--text-file",
                       dir / "text", "--out", dir / "a&b/text.svg"})
              .code == 0);
  CHECK(count_class(check_picture(dir / "a&b/text.svg", dir), "layer") == 7);

  const TempDir empty;
  const auto fails = [&](std::vector<std::string> arguments, std::string_view part) {
    arguments.insert(arguments.begin(), {"routes", "--model", kTinyFlash});
    check_fails(ds4_program(arguments), 1, part);
    CHECK(empty.is_empty());
  };
  fails({"--out", empty / "o"}, "routes: expected --tokens or --text-file");
  fails({"--tokens", dir.write("t.json", "[]"), "--out", empty / "o"},
        "t.json: found no sequences, expected at least one");
  fails({"--tokens", dir.write("t.json", "[[1],[]]"), "--out", empty / "o"},
        "sequence 1: found no tokens");
  fails({"--tokens", dir.write("t.json", "[[1]]"), "--out", empty / "no/such"},
        "no/such: cannot create: ");
  fails({"--text-file", dir / "text", "--out", empty / "o"}, "tokenizer.json: ");
  check_fails(ds4_program({"routes", "--model", ds4::test::models("/austen"), "--text-file",
                           dir.write("none", ""), "--out", empty / "o"}),
              1, "none: found no tokens, expected at least one");
  CHECK(empty.is_empty());
}

TEST_CASE("pictures: attend draws probabilities that sum to one with the sink") {
  const TempDir dir;
  dir.write("t.json", tokens_json(150));
  const auto check_rows = [&](std::vector<std::string> arguments, std::size_t rows) {
    arguments.insert(arguments.begin(), {"attend", "--model", kTinyFlash, "--tokens",
                                         dir / "t.json", "--out", dir / "attend.svg"});
    const Result result = ds4_program(arguments);
    CHECK(result.code == 0);
    CHECK(result.err.empty());
    const Elements elements = check_picture(dir / "attend.svg", dir);
    CHECK(count_class(elements, "row") == rows);
    for (const auto& element : elements) {
      if (!element.attributes.contains("data-sink")) continue;
      const auto share = [&](const char* name) {
        return std::stod(element.attributes.at(std::string("data-") + name));
      };
      // Nine decimals each.
      CHECK(share("window") + share("entries") + share("sink") ==
            doctest::Approx(1.0).epsilon(2e-9));
      CHECK(share("window") > 0.0);
      CHECK(share("sink") > 0.0);
      const auto layer = std::stoul(element.attributes.at("data-layer"));
      CHECK((share("entries") > 0.0) == (layer >= 2));
    }
    return elements;
  };
  check_rows({}, 7);
  check_rows({"--backend", "reference", "--layer", "4", "--position", "130"}, 1 + 4);
  CHECK(has_text(check_rows({"--layer", "3"}, 1 + 4), "What position 149 attends to in layer 3"));
  CHECK(has_text(check_rows({"--layer", "0"}, 1 + 4), "head 3"));

  const TempDir empty;
  const auto fails = [&](std::string_view tokens, std::vector<std::string> arguments,
                         std::string_view part) {
    arguments.insert(arguments.begin(),
                     {"attend", "--model", kTinyFlash, "--tokens", dir.write("t.json", tokens)});
    arguments.insert(arguments.end(), {"--out", empty / "o"});
    check_fails(ds4_program(arguments), 1, part);
    CHECK(empty.is_empty());
  };
  fails("[[1,2,3]]", {"--layer", "7"}, "--layer: found 7, expected 0 to 6");
  fails("[[1,2,3]]", {"--position", "3"}, "--position: found 3, expected 0 to 2");
  fails("[[1],[2]]", {}, "t.json: found 2 sequences, expected one");
  fails("[]", {}, "t.json: found no sequences, expected at least one");
  fails("[[]]", {}, "sequence 0: found no tokens, expected at least one");
  check_fails(ds4_program({"attend", "--model", kTinyFlash, "--tokens",
                           dir.write("t.json", "[[1]]"), "--out", empty / "no/such"}),
              1, "no/such: cannot create: ");
  CHECK(empty.is_empty());
}

TEST_CASE("pictures: bench/plot draws what the benchmarks give") {
  if (!has_tool("python3")) {
    MESSAGE("python3 is not installed: bench/plot is not run");
    return;
  }
  const TempDir dir;
  const auto plot = [&](const std::string& result) {
    const Result drawn =
        shell("'" + ds4::test::plot_file() + "' '" + result + "' '" + dir / "plot.svg" + "'");
    INFO(drawn.err);
    REQUIRE(drawn.code == 0);
    return check_picture(dir / "plot.svg", dir);
  };
  // Of ds4_bench --benchmark_out_format=csv: two operations on two backends, and limits.
  const Elements bars = plot(ds4::test::data("/bench/sample.csv"));
  CHECK(has_text(bars, "Nearer to the limit of memory"));
  CHECK(has_text(bars, "Nearer to the limit of arithmetic"));

  const Result bench =
      ds4_program({"bench", "--model", kTinyFlash, "--contexts", "16,300", "--decode", "2",
                   "--repetitions", "1", "--threads", "1", "--json"});
  REQUIRE(bench.code == 0);
  const Elements curves = plot(dir.write("bench.json", bench.out));
  CHECK(has_text(curves, "ds4: decoding against the context"));
  const auto points = std::ranges::count(curves, "circle", &ds4::test::XmlElement::name);
  CHECK(points == 4);  // time and memory of two contexts

  const Result wrong = shell("'" + ds4::test::plot_file() + "' '" +
                             dir.write("wrong", "no benchmark") + "' '" + dir / "wrong.svg" + "'");
  CHECK(wrong.code == 1);
  CHECK(std::ranges::count(wrong.err, '\n') == 1);
  CHECK(!fs::exists(dir / "wrong.svg"));
}

}  // namespace
