// ds4 trace: a timeline of a run, layer by layer.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/inspect/trace.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct TraceOptions {
  ModelChoice model;
  std::string tokens;
  std::string out;
  std::size_t decode = 0;
};

void trace(const TraceOptions& options) {
  const auto sequences = read_token_lists(options.tokens);
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const ConfigValues& config = model->config();
  check_token_lists(options.tokens, sequences, config);
  for (const auto& ids : sequences) {
    if (options.decode > config.max_position_embeddings - ids.size()) {
      throw Error("--decode", "found " + std::to_string(options.decode) + " behind " +
                                  std::to_string(ids.size()) +
                                  " tokens, expected at most max_position_embeddings " +
                                  std::to_string(config.max_position_embeddings) + " together");
    }
  }

  catch_interrupts();
  NewFile file(options.out);
  const std::string name = detail::printable_path(model->checkpoint().path());
  Trace<> trace(config, model->checkpoint(), "ds4 " + options.model.backend + ", " + name);
  for (const auto& ids : sequences) {
    AnyState state = model->new_state();
    Logits logits;
    interruptible("trace", [&] { logits = model->prefill(state, ids, &trace, interrupted); });
    for (std::size_t i = 0; i < options.decode; ++i) {
      interruptible("trace", [&] { logits = model->decode(state, argmax(logits.values), &trace); });
    }
  }
  write_whole(file, trace.json().dump() + "\n");
}

void add_options(Verb& verb) {
  auto options = std::make_shared<TraceOptions>();
  add_model_options(verb, options->model, true);
  verb.add_option("--tokens", options->tokens,
                  "JSON: an array of arrays of token ids; each is taken in by itself")
      .required()
      .check(expect_path());
  verb.add_option("--decode", options->decode,
                  "Tokens to decode behind each of them, the likeliest ones")
      .capture_default_str()
      .check(expect_count(0));
  verb.add_option("--out", options->out,
                  "JSON file in the Chrome trace event format, for Perfetto and chrome://tracing")
      .required()
      .check(expect_path());
  verb.callback([options] { trace(*options); });
}

const VerbRegistration kTrace(120, "trace", "Write a timeline of a run, layer by layer",
                              add_options);

}  // namespace

}  // namespace ds4::cli
