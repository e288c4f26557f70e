// ds4 tokenize and ds4 detokenize: texts to token ids and back, as JSON.
#include <string>

#include <ds4/text/tokenizer.hpp>

#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

void tokenize(const std::string& tokenizer_path) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  Json lists = Json::array();
  for (const std::string& text : parse_texts("standard input", read_input())) {
    lists.push_back(tokenizer.encode(text));
  }
  print(lists.dump() + "\n");
}

void detokenize(const std::string& tokenizer_path) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  Json texts = Json::array();
  for (const auto& ids : parse_token_lists("standard input", read_input())) {
    texts.push_back(tokenizer.decode(ids));
  }
  print(texts.dump() + "\n");
}

const VerbRegistration kTokenize(
    50, "tokenize", "JSON array of strings on standard input to an array of arrays of ids",
    [](Verb& verb) { run_with_tokenizer(verb, tokenize); });

const VerbRegistration kDetokenize(
    60, "detokenize", "JSON array of arrays of ids on standard input to an array of strings",
    [](Verb& verb) { run_with_tokenizer(verb, detokenize); });

}  // namespace

}  // namespace ds4::cli
