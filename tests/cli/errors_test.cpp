// What the program says when something is wrong: one line, exit code 1 (2 for bad usage), and no
// partial output; for every verb to which it applies.
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include <support/paths.hpp>
#include <support/program.hpp>

namespace {

namespace fs = std::filesystem;
using namespace ds4::test::program;
using Arguments = std::vector<std::string>;
using Json = nlohmann::json;

const std::string kAusten = ds4::test::models("/austen");
const std::string kTinyFlash = ds4::test::data("/tiny-flash");

Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// What runs a command without the rights of root, which opens and writes everything: "" if the
/// tests have none. Tells and gives nothing if that is not possible here.
std::string unprivileged() {
  if (::geteuid() != 0) return " ";
  const std::string prefix = "setpriv --reuid=65534 --regid=65534 --clear-groups -- ";
  const Result probe =
      shell(prefix + "\"$ds4\" --version && " + prefix + "test -r '" + kAusten + "/config.json'");
  if (probe.code == 0) return prefix;
  MESSAGE("not tested: another user cannot run the program here");
  return "";
}

/// A verb that writes to standard output.
struct Printing {
  Arguments arguments;
  std::string input;
};

std::vector<Printing> printing_verbs(const TempDir& dir) {
  const std::string text = dir.write("text", "She was not at all afraid of him.");
  const std::string out = dir / "out";
  return {{{"--help"}, ""},
          {{"--version"}, ""},
          {{"convert", "--help"}, ""},
          {{"run", "--max-tokens", "3"}, ""},
          {{"perplexity", "--model", kAusten, "--text-file", text}, ""},
          {{"tokenize", "--tokenizer", kAusten}, "[\"a\"]"},
          {{"detokenize", "--tokenizer", kAusten}, "[[1]]"},
          {{"inspect", kAusten}, ""},
          {{"bench", "--peer-protocol", "--model", kTinyFlash}, ""},
          {{"plan", "flash"}, ""},
          {{"plan", "flash", "--json"}, ""},
          {{"convert", kTinyFlash, "--format", "bf16", "--out", out}, ""},
          {{"check", "--model", kTinyFlash, "--length", "5"}, ""},
          {{"check", "--model", kTinyFlash, "--length", "5", "--json"}, ""}};
}

}  // namespace

TEST_CASE("errors: standard output is full") {
  if (!fs::exists("/dev/full")) return;
  const TempDir dir;
  for (const auto& [arguments, input] : printing_verbs(dir)) {
    CAPTURE(command_line(arguments));
    check_fails(shell(command_line(arguments) + " >/dev/full", input), 1,
                "ds4: standard output: cannot write: No space left on device\n");
    fs::remove_all(dir / "out");
  }
}

TEST_CASE("errors: nobody reads standard output") {
  const TempDir dir;
  for (const auto& [arguments, input] : printing_verbs(dir)) {
    CAPTURE(command_line(arguments));
    // A pipe whose reading end is closed before the program starts.
    const Result result =
        shell("mkfifo '" + dir / "pipe" + "'; exec 3<>'" + dir / "pipe" + "' 4>'" + dir / "pipe" +
                  "' 3<&-; rm '" + dir / "pipe" + "'\n" + command_line(arguments) + " >&4",
              input);
    CHECK(result.code == 1);
    CHECK(result.err.empty());
    fs::remove_all(dir / "out");
  }
}

TEST_CASE("errors: standard input, output or error is closed") {
  const TempDir dir;
  for (const auto& [arguments, input] : printing_verbs(dir)) {
    CAPTURE(command_line(arguments));
    check_fails(shell(command_line(arguments) + " >&-", input), 1,
                "ds4: standard output: cannot write: Bad file descriptor\n");
    fs::remove_all(dir / "out");
  }
  for (const char* verb : {"tokenize", "detokenize"}) {
    const std::string command = command_line({verb, "--tokenizer", kAusten});
    check_fails(shell(command + " <&-"), 1,
                "ds4: standard input: cannot read: Bad file descriptor\n");
    check_fails(shell(command + " </"), 1, "ds4: standard input: cannot read: Is a directory\n");
  }

  // A file that is written does not take the place of what is closed.
  const std::string tokens = dir.write("t.json", "[[1, 2, 3]]");
  const auto logits = [&](const std::string& out, const std::string& redirections) {
    const Result result = shell(
        command_line({"logits", "--model", kTinyFlash, "--tokens", tokens, "--out", dir / out}) +
        redirections);
    CHECK(result.code == 0);
    return read(dir / out);
  };
  const std::string expected = logits("a", "");
  CHECK(logits("b", " 2>&-") == expected);
  CHECK(logits("c", " <&- >&- 2>&-") == expected);
  const Result silent = shell(command_line({"inspect", "/no/dir"}) + " >&- 2>&-");
  CHECK(silent.code == 1);
}

TEST_CASE("errors: files that cannot be written") {
  const TempDir dir;
  const TempDir in;
  const std::string tokens = in.write("t.json", Json{std::vector<int>(50, 1)}.dump());
  const std::string config = kTinyFlash + "/config.json";
  struct Verb {
    Arguments arguments;  // the file or folder to write follows
    bool folder;
  };
  const std::vector<Verb> verbs{
      {{"logits", "--model", kTinyFlash, "--tokens", tokens, "--out"}, false},
      {{"synth", config, "--out"}, true},
      {{"convert", kTinyFlash, "--format", "f32", "--out"}, true},
      {{"convert", kTinyFlash, "--format", "f32", "--shard-size", "0.0001", "--out"}, true}};
  const std::string user = unprivileged();
  const std::string file = dir.write("file", "content");
  const auto content = [&] {  // of the folder that is written to
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(dir / "")) {
      names.push_back(entry.path().filename());
    }
    return names;
  };
  for (const Verb& verb : verbs) {
    const auto to = [&](const std::string& path) {
      return command_line(verb.arguments + Arguments{path});
    };
    CAPTURE(to("OUT"));
    check_fails(shell(to(file + "/x")), 1, file + "/x: cannot create: Not a directory\n");
    if (verb.folder) {
      check_fails(shell(to(file)), 1, file + ": cannot create: Not a directory\n");
    } else {
      check_fails(shell(to(dir / "no/x")), 1, "/no/x: cannot create: No such file or directory\n");
      check_fails(shell(to(in / "")), 1, "cannot create: found a folder of this name\n");
      check_fails(shell(to("/dev/null")), 1,
                  "/dev/null: cannot create: found a device or pipe of this name\n");
      CHECK(fs::is_character_file("/dev/null"));
    }
    const std::string longest(300, 'x');
    check_fails(shell(to(dir / longest)), 1, "x: cannot create: File name too long\n");
    // No file may be larger than a few KB.
    check_fails(shell("ulimit -f 4; " + to(dir / "x")), 1, "cannot write: File too large\n");
    if (!user.empty()) {
      fs::permissions(dir / "", fs::perms::owner_read | fs::perms::owner_exec |
                                    fs::perms::others_read | fs::perms::others_exec);
      check_fails(shell(user + to(dir / "x")), 1, "x: cannot create: Permission denied\n");
      fs::permissions(dir / "", fs::perms::owner_all);
    }
    CHECK(content() == std::vector<std::string>{"file"});
    CHECK(read(file) == "content");
  }
}

TEST_CASE("errors: a full disk") {
  const TempDir dir;
  const std::string tokens = dir.write("t.json", Json{std::vector<int>(300, 1)}.dump());
  const std::string disk = dir / "disk";
  fs::create_directory(disk);
  // A disk of 64 KB that only these commands see.
  const auto on_disk = [&](const std::string& command) {
    return shell("unshare --mount " + std::string(::geteuid() == 0 ? "" : "--map-root-user ") +
                 "sh -c 'mount -t tmpfs -o size=64k none \"$2\" || exit 9; ds4=$1; " + command +
                 "; code=$?; [ -z \"$(ls -A \"$2\")\" ] || exit 8; exit $code' sh \"$ds4\" '" +
                 disk + "'");
  };
  if (on_disk("true").code != 0) {
    MESSAGE("not tested: no disk can be mounted here");
    return;
  }
  for (const std::string& command :
       {"\"$ds4\" logits --model " + kTinyFlash + " --tokens " + tokens + " --out \"$2\"/x",
        "\"$ds4\" synth " + kTinyFlash + "/config.json --out \"$2\"/x",
        "\"$ds4\" convert " + kTinyFlash + " --format f32 --out \"$2\"/x",
        "\"$ds4\" convert " + kTinyFlash + " --format f32 --shard-size 0.00003 --out \"$2\"/x"}) {
    CAPTURE(command);
    check_fails(on_disk(command), 1, "cannot write: No space left on device\n");
  }
}

TEST_CASE("errors: files that cannot be read") {
  const TempDir dir;
  const std::string tokens = dir.write("t.json", "[[1, 2, 3]]");
  const std::string file = dir.write("file", "content");
  const std::string out = dir / "out";
  struct Input {
    Arguments before;  // the path
    Arguments after;
    std::string below;  // what is opened first in a folder, if that is expected
  };
  const std::vector<Input> inputs{
      {{"run", "--prompt-file"}, {}, ""},
      {{"run", "--model"}, {}, "/config.json"},
      {{"logits", "--tokens"}, {"--model", kTinyFlash, "--out", out}, ""},
      {{"logits", "--model"}, {"--tokens", tokens, "--out", out}, "/config.json"},
      {{"perplexity", "--text-file"}, {"--model", kAusten}, ""},
      {{"perplexity", "--model"}, {"--text-file", file}, "/config.json"},
      {{"tokenize", "--tokenizer"}, {}, ""},
      {{"detokenize", "--tokenizer"}, {}, ""},
      {{"inspect"}, {}, "/config.json"},
      {{"bench", "--model"}, {}, "/config.json"},
      {{"synth"}, {"--out", out}, ""},
      {{"plan"}, {}, ""},
      {{"convert"}, {"--format", "bf16", "--out", out}, "/config.json"},
      {{"check", "--model"}, {}, "/config.json"},
      {{"check", "--tokens"}, {"--model", kTinyFlash}, ""},
      {{"check", "--against"}, {"--model", kTinyFlash}, "/config.json"},
  };
  const std::string user = unprivileged();
  const std::string secret = dir / "secret";
  fs::create_directory(secret);
  for (const char* name : {"x", "config.json", "tokenizer.json"}) {
    std::ofstream(secret + "/" + name) << "{}";
    fs::permissions(secret + "/" + name, fs::perms::none);
  }
  for (const Input& input : inputs) {
    const auto of = [&](const std::string& path) {
      return command_line(input.before + Arguments{path} + input.after);
    };
    CAPTURE(of("PATH"));
    check_fails(shell(of("/no/x")), 1,
                "ds4: /no/x" + input.below + ": cannot open: No such file or directory\n");
    check_fails(shell(of(file + "/x")), 1,
                "ds4: " + file + "/x" + input.below + ": cannot open: Not a directory\n");
    if (!user.empty()) {
      const std::string path = secret + (input.below.empty() ? "/x" : "");
      check_fails(shell(user + of(path)), 1,
                  "ds4: " + path + input.below + ": cannot open: Permission denied\n");
    }
    CHECK(!fs::exists(out));
  }
}

TEST_CASE("errors: nothing where something is expected") {
  const TempDir dir;
  const std::string empty = dir.write("empty", "");
  const std::string out = dir / "out";
  const auto fails = [&](const Arguments& arguments, const std::string& part) {
    CAPTURE(command_line(arguments));
    check_fails(ds4_program(arguments), 1, part);
    CHECK(!fs::exists(out));
  };
  fails({"logits", "--model", kTinyFlash, "--tokens", empty, "--out", out},
        "empty: expected JSON, found ");
  fails({"logits", "--model", kTinyFlash, "--tokens", dir.write("t.json", "[[]]"), "--out", out},
        "t.json: sequence 0: found no tokens, expected at least one\n");
  fails({"check", "--model", kTinyFlash, "--tokens", empty}, "empty: expected JSON, found ");
  fails({"check", "--model", kTinyFlash, "--tokens", dir.write("t.json", "[]")},
        "t.json: found no sequences, expected at least one\n");
  fails({"check", "--model", kTinyFlash, "--tokens", dir.write("t.json", "[[]]")},
        "t.json: sequence 0: found no tokens, expected at least one\n");
  fails({"perplexity", "--model", kAusten, "--text-file", empty},
        "empty: found 0 tokens, expected at least 2\n");
  fails({"tokenize", "--tokenizer", kAusten}, "standard input: expected JSON, found ");
  fails({"detokenize", "--tokenizer", kAusten}, "standard input: expected JSON, found ");
  fails({"tokenize", "--tokenizer", empty}, "empty: expected ");
  fails({"plan", empty}, "empty: expected ");
  fails({"synth", empty, "--out", out}, "empty: expected ");

  // An empty prompt is one where the model can begin by itself.
  CHECK(ds4_program({"run", "--prompt-file", empty, "--max-tokens", "1"}).code == 0);
  fs::copy(kAusten, dir / "model");
  for (const auto& entry : fs::directory_iterator(dir / "model")) {
    fs::permissions(entry.path(), fs::perms::owner_all);
  }
  Json config = Json::parse(read(kAusten + "/config.json"));
  config.erase("bos_token_id");
  dir.write("model/config.json", config.dump());
  fails({"run", "--model", dir / "model", "--prompt-file", empty},
        "ds4: config.json: found no bos_token_id, expected one or a prompt to begin with\n");

  dir.write("model/model.safetensors", "");
  const std::string weights = "model.safetensors: expected data, found an empty file\n";
  fails({"run", "--model", dir / "model"}, weights);
  fails({"inspect", dir / "model"}, weights);
  fails({"check", "--model", dir / "model"}, weights);
  fails({"check", "--model", kAusten, "--against", dir / "model"}, weights);
  fails({"convert", dir / "model", "--format", "f32", "--out", out}, weights);
  dir.write("model/config.json", "");
  for (const Arguments& arguments :
       {Arguments{"run", "--model", dir / "model"}, Arguments{"inspect", dir / "model"},
        Arguments{"convert", dir / "model", "--format", "f32", "--out", out}}) {
    fails(arguments, "config.json: expected ");
  }
}

TEST_CASE("errors: more tokens than the context has room for") {
  const TempDir dir;
  const auto fails = [&](const Arguments& arguments, const std::string& part) {
    CAPTURE(command_line(arguments));
    check_fails(ds4_program(arguments), 1, part);
  };
  const std::string most = "expected at most max_position_embeddings 16384\n";
  fails({"run", "--prompt-file", ds4::test::data("/austen/heldout.txt")}, " tokens, " + most);
  const std::string tokens = dir.write("t.json", Json{std::vector<int>(16385, 1)}.dump());
  fails({"logits", "--model", kTinyFlash, "--tokens", tokens, "--out", dir / "out"},
        "t.json: sequence 0: found 16385 tokens, " + most);
  CHECK(!fs::exists(dir / "out"));
  fails({"check", "--model", kTinyFlash, "--tokens", tokens},
        "t.json: sequence 0: found 16385 tokens, " + most);
  fails({"check", "--model", kTinyFlash, "--length", "16385"},
        "ds4: --length: found 16385, " + most);
  fails({"perplexity", "--model", kAusten, "--context", "16385", "--text-file",
         dir.write("text", "She was not.")},
        "ds4: --context: found 16385, " + most);
  fails({"bench", "--prompt", "16384"},
        "ds4: --prompt: found 16384 tokens and 64 to decode, expected at most 16384 together\n");
  fails({"bench", "--contexts", "8,16384", "--decode", "1"},
        "ds4: --contexts: found 16384 tokens and 1 to decode, expected at most 16384 together\n");
  fails({"plan", "pro", "--context", "1048577"},
        "ds4: --context: found 1048577, expected at most max_position_embeddings 1048576\n");
}

TEST_CASE("errors: token ids that are none") {
  const TempDir dir;
  struct Case {
    const char* json;
    const char* text;
  };
  for (const Case& c :
       {Case{"[[1, 256]]", "sequence 0, token 1: found id 256, expected 0 to 255\n"},
        Case{"[[-1]]", "sequence 0, token 0: expected a token id, found -1\n"},
        Case{"[[1.5]]", "sequence 0, token 0: expected a token id, found 1.5\n"},
        Case{"[[1e3]]", "sequence 0, token 0: expected a token id, found 1000.0\n"},
        Case{"[[2147483648]]", "token 0: expected a token id, found 2147483648\n"},
        Case{"[[18446744073709551616]]", "sequence 0, token 0: expected a token id"},
        Case{"[[\"1\"]]", "sequence 0, token 0: expected a token id, found \"1\"\n"},
        Case{"[[null]]", "sequence 0, token 0: expected a token id, found null\n"},
        Case{"[1, 2]", "sequence 0: expected an array of token ids, found 1\n"},
        Case{"[[1],]", "expected JSON, found "}}) {
    CAPTURE(c.json);
    const std::string tokens = dir.write("t.json", c.json);
    check_fails(
        ds4_program({"logits", "--model", kTinyFlash, "--tokens", tokens, "--out", dir / "out"}), 1,
        c.text);
    CHECK(!fs::exists(dir / "out"));
    check_fails(ds4_program({"check", "--model", kTinyFlash, "--tokens", tokens}), 1, c.text);
    if (std::string(c.text).find("255") != std::string::npos) continue;
    check_fails(ds4_program({"detokenize", "--tokenizer", kAusten}, c.json), 1, c.text);
  }
  check_fails(
      ds4_program({"check", "--model", kTinyFlash, "--tokens", dir.write("t.json", "[[1], [2]]")}),
      1, "t.json: found 2 sequences, expected one\n");
}

TEST_CASE("errors: requests of the peer protocol") {
  const TempDir dir;
  struct Case {
    std::string request;
    const char* text;
  };
  for (const Case& c :
       {Case{"", "standard input: expected JSON, found "},
        Case{"{", "standard input: expected JSON, found "},
        Case{"[]", "standard input: a request: expected an object, found an array of 0\n"},
        Case{"{}", "standard input: a request without op\n"},
        Case{R"({"op":5})", "standard input: op: expected a string, found 5\n"},
        Case{R"({"op":"fly"})",
             "standard input: op: expected prefill, decode, logits, rss or quit, "
             "found \"fly\"\n"},
        Case{R"({"op":"prefill"})", "standard input: a request without tokens\n"},
        Case{R"({"op":"prefill","tokens":[]})", "tokens: found none, expected at least one\n"},
        Case{R"({"op":"prefill","tokens":[1,256]})", "found id 256, expected 0 to 255\n"},
        Case{R"({"op":"prefill","tokens":[-1]})", "expected a token id, found -1\n"},
        Case{R"({"op":"prefill","tokens":1})", "expected an array of token ids, found 1\n"},
        Case{R"({"op":"decode","tokens":[1]})", "standard input: a request without n\n"},
        Case{R"({"op":"decode","tokens":[1],"n":-1})", "n: expected a whole number of at least 0"},
        Case{R"({"op":"logits","chunks":[[1]]})", "standard input: a request without path\n"},
        Case{R"({"op":"logits","chunks":5,"path":"/no/x"})", "chunks: expected an array"},
        Case{R"({"op":"logits","chunks":[[1]],"path":"/no/x"})",
             "/no/x: cannot create: No such file or directory\n"},
        Case{R"({"op":"logits","chunks":[[1]],"path":"/dev/null"})",
             "/dev/null: cannot create: found a device or pipe of this name\n"}}) {
    CAPTURE(c.request);
    Result result = ds4_program(
        {"bench", "--peer-protocol", "--model", kTinyFlash, "--threads", "1"}, c.request + "\n");
    CHECK(result.out.starts_with("{\"ready\":true"));
    CHECK(std::ranges::count(result.out, '\n') == 1);
    result.out.clear();
    check_fails(result, 1, c.text);
  }
  check_fails(
      shell("ulimit -f 4; echo '{\"op\":\"logits\",\"chunks\":[[1,2,3,4,5,6,7,8,9,10]],"
            "\"path\":\"" +
            dir / "x" + "\"}' | " +
            command_line({"bench", "--peer-protocol", "--model", kTinyFlash}) + " >/dev/null"),
      1, "x: cannot write: File too large\n");
  CHECK(dir.is_empty());
}

TEST_CASE("errors: flags that contradict each other, and values out of range") {
  struct Case {
    Arguments arguments;
    const char* text;
  };
  const Arguments check{"check", "--model", "m"};
  for (const auto& [arguments, text] :
       {Case{{"run", "--prompt", "a", "--prompt-file", "b"}, "excludes"},
        Case{{"bench", "--json", "--peer-protocol"}, "excludes"},
        Case{{"bench", "--prompt", "5", "--contexts", "5"}, "excludes"},
        Case{check + Arguments{"--tokens", "t", "--length", "5"}, "excludes"},
        Case{check + Arguments{"--all", "--json"}, "excludes"},
        Case{{"check"}, "--model is required"},
        Case{check + Arguments{"--length", "0"}, "--length: expected a whole number from 1 to "},
        Case{check + Arguments{"--tolerance", "-1"},
             "--tolerance: expected a number of at least 0"},
        Case{check + Arguments{"--tolerance", "nan"}, "--tolerance: expected a number"},
        Case{check + Arguments{"--chunks", "0"}, "--chunks: expected whole numbers of at least 1"},
        Case{check + Arguments{"--against", ""}, "--against: expected a path"},
        Case{check + Arguments{"--backend", "abacus"}, "found \"abacus\""},
        Case{{"run", "--threads", "1025"}, "--threads: expected a whole number from 1 to 1024"},
        Case{{"run", "--chunk", "0"}, "--chunk: expected a whole number from 1 to "},
        Case{{"run", "--memory-budget", "-1"}, "--memory-budget: expected a number from 0 to 1e6"},
        Case{{"plan", ""}, "CONFIG: expected a path"},
        Case{{"plan", "flash", "--batch", "1000001"},
             "--batch: expected a whole number from 1 to "},
        Case{{"plan", "flash", "--bandwidth", "0"}, "--bandwidth: expected a number above 0"},
        Case{{"plan", "flash", "--bandwidth", "inf"}, "--bandwidth: expected a number above 0"},
        Case{{"plan", "flash", "--threads", "0"}, "--threads: expected a whole number from 1 to "},
        Case{{"synth", "", "--out", "o"}, "CONFIG: expected a path"},
        Case{{"synth", "flash", "--out", ""}, "--out: expected a path"},
        Case{{"synth", "flash", "--out", "o", "--seed", "-1"}, "--seed: expected a whole number"},
        Case{{"synth", "flash", "--out", "o", "--layers", "0"},
             "--layers: expected a whole number"},
        Case{{"inspect", ""}, "DIR: expected a path"},
        Case{{"help"}, "there is no subcommand help; see ds4 --help"},
        Case{{"run", "bench"}, "bench"}}) {
    CAPTURE(command_line(arguments));
    check_fails(ds4_program(arguments), 2, text);
  }
  for (const char* verb : {"run", "logits", "perplexity", "tokenize", "detokenize", "inspect",
                           "bench", "synth", "plan", "convert", "check"}) {
    check_fails(ds4_program({verb, "--no-such-flag"}), 2,
                std::string("see ds4 ") + verb + " --help\n");
  }
}
