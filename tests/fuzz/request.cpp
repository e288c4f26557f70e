// Fuzz target: bodies of requests to a server. A body whose first byte is 'c' is one to
// /v1/completions, whose first byte is 's' a schema and, behind a line's end, a text that may fit;
// any other is a chat.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fuzz/fuzz.hpp>

#include <ds4/serve/api_error.hpp>
#include <ds4/serve/byte_grammar.hpp>
#include <ds4/serve/chat_request.hpp>
#include <ds4/serve/completion_request.hpp>
#include <ds4/serve/json_grammar.hpp>
#include <ds4/text/python_json.hpp>

namespace {

using namespace ds4;

void read(std::string_view text) {
  if (text.starts_with('c')) {
    const CompletionRequest request = parse_completion_request(text.substr(1));
    fuzz::require(!request.prompts.empty(), "a completion of nothing");
    return;
  }
  if (text.starts_with('s')) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const JsonGrammar grammar = json_schema_grammar(std::string(text.substr(1, end - 1)));
    GrammarState state(grammar.grammar, grammar.root);
    bool fits = true;
    for (const char c : text.substr(std::min(end + 1, text.size()))) {
      fits = fits && state.push(static_cast<unsigned char>(c));
      fuzz::require(!fits || state.is_complete() || state.goes_on(), "a text that leads nowhere");
    }
    if (fits && state.is_complete()) {
      PythonJson::parse(text.substr(std::min(end + 1, text.size())));
    }
    return;
  }
  const ChatRequest request = parse_chat_request(text);
  fuzz::require(request.options.opens_answers, "a chat without an answer");
  turn_options(request);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::result_or_error([&] {
    try {
      read({reinterpret_cast<const char*>(data), size});
    } catch (const ApiError& error) {
      fuzz::require(error.status() == 400, "a refusal that is not 400");
      PythonJson::parse(error.json());
      throw;
    }
  });
  return 0;
}
