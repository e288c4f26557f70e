// ds4 tokenize and ds4 detokenize: texts to token ids and back, as JSON.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <ds4/text/tokenizer.hpp>

#include "cli/io.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verbs.hpp"

namespace ds4::cli {
namespace {

void tokenize(const std::string& tokenizer_path) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  nlohmann::json lists = nlohmann::json::array();
  for (const std::string& text : parse_texts("standard input", read_input())) {
    lists.push_back(tokenizer.encode(text));
  }
  print(lists.dump() + "\n");
}

void detokenize(const std::string& tokenizer_path) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  nlohmann::json texts = nlohmann::json::array();
  for (const auto& ids : parse_token_lists("standard input", read_input())) {
    texts.push_back(tokenizer.decode(ids));
  }
  print(texts.dump() + "\n");
}

void add(CLI::App& app, const char* name, const char* description,
         void (*run)(const std::string&)) {
  auto tokenizer = std::make_shared<std::string>();
  CLI::App& verb = *app.add_subcommand(name, description);
  verb.add_option("--tokenizer", *tokenizer, "tokenizer.json, or the folder that holds it")
      ->required()
      ->check(expect_path());
  verb.callback([tokenizer, run] { run(*tokenizer); });
}

}  // namespace

void add_tokenize(CLI::App& app) {
  add(app, "tokenize", "JSON array of strings on standard input to an array of arrays of ids",
      tokenize);
}

void add_detokenize(CLI::App& app) {
  add(app, "detokenize", "JSON array of arrays of ids on standard input to an array of strings",
      detokenize);
}

}  // namespace ds4::cli
