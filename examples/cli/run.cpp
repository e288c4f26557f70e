// ds4 run: continues a prompt and streams the text.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/drafting.hpp"
#include "cli/io.hpp"
#include "cli/memory_use.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/sampling.hpp"
#include "cli/stopwatch.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct RunOptions {
  ModelChoice model;
  std::string prompt;
  std::string prompt_file;
  std::string load_session;
  std::string save_session;
  std::size_t max_tokens = 256;
  std::string draft = "off";
  Sampling sampling;
};

std::string tokens_per_second(std::size_t tokens, double seconds) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f tokens/s",
                seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0);
  return text;
}

/// Appends the prompt to the tokens of the sequence, which begins with the begin-of-sequence token;
/// the tokenizer does not add that.
void append_prompt(std::vector<std::int32_t>& ids, const RunOptions& options,
                   const ConfigValues& config, const Tokenizer& tokenizer) {
  std::vector<std::int32_t> prompt = tokenizer.encode(
      options.prompt_file.empty() ? options.prompt : read_file(options.prompt_file));
  if (ids.empty()) put_bos_in_front(prompt, config);
  ids.insert(ids.end(), prompt.begin(), prompt.end());
  if (ids.empty()) {
    throw Error("config.json", "found no bos_token_id, expected one or a prompt to begin with");
  }
}

void run(const RunOptions& options) {
  // A session that cannot be saved is known before the work, not behind it: this makes the
  // temporary file, and removes it.
  if (!options.save_session.empty()) NewFile{options.save_session};
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  const ConfigValues& config = model->config();
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  Sampler sampler = make_sampler(options.sampling, config, tokenizer);
  std::optional<DraftLength> length = draft_length_for(*model, options.draft);
  StreamDecoder decoder(tokenizer);
  catch_interrupts();

  AnySession session{{}, model->new_state()};
  if (!options.load_session.empty()) session = model->load_session(options.load_session);
  auto& [ids, state] = session;
  if (length) model->keep_drafts(state);
  append_prompt(ids, options, config, tokenizer);
  // Logits come from taking in a token, if need be the last one again.
  if (ids.size() == model->position(state)) model->rollback(state, 1);
  const std::size_t prompt = ids.size() - model->position(state);
  const Stopwatch prompt_time;
  Logits logits;
  try {
    logits = model->prefill(state, std::span(ids).last(prompt), nullptr, interrupted);
  } catch (const Stopped&) {  // the prompt is still to be taken in
    if (!options.save_session.empty()) model->save_session(options.save_session, ids, state);
    print_error("prompt: " + std::to_string(prompt) + " tokens, not taken in; interrupted\n");
    throw Quit{};
  }
  const double prompt_seconds = prompt_time.seconds();

  const std::size_t before = ids.size();
  const Stopwatch decode_time;
  const std::size_t decoded =
      generate(*model, session, logits, sampler, length, options.max_tokens, [&](std::int32_t id) {
        if (ends_text(config, id)) return false;
        print(decoder.push(id));
        return true;
      });
  const double decode_seconds = decode_time.seconds();
  const std::size_t generated = ids.size() - before;
  print(decoder.finish());
  if (output_is_terminal()) print("\n");
  if (!options.save_session.empty()) model->save_session(options.save_session, ids, state);

  std::string summary = "prompt: " + std::to_string(prompt) + " tokens, " +
                        tokens_per_second(prompt, prompt_seconds) +
                        "; generation: " + std::to_string(generated) + " tokens, " +
                        tokens_per_second(decoded, decode_seconds);
  if (sampler.options().temperature > 0) {
    summary += "; seed " + std::to_string(sampler.options().seed);
  }
  if (interrupted()) summary += "; interrupted";
  if (length) summary += "\n" + to_string(length->totals());
  summary += "\nmemory: " +
             to_string(sequence_memory(*model, options.model, state, prompt, model->position(state),
                                       length ? length->most(longest_draft(*model)) : 0));
  print_error(summary + "\n");
  if (interrupted()) throw Quit{};
}

void add_options(Verb& verb) {
  auto options = std::make_shared<RunOptions>();
  add_model_options(verb, options->model, false);
  const Option prompt = verb.add_option("--prompt", options->prompt,
                                        "Text to continue; without one the model begins. The "
                                        "begin-of-sequence token is put in front");
  verb.add_option("--prompt-file", options->prompt_file, "File with the text to continue")
      .excludes(prompt)
      .check(expect_path());
  verb.add_option("--max-tokens", options->max_tokens, "Tokens to generate at most")
      .capture_default_str()
      .check(expect_count(0));
  add_sampling_options(verb, options->sampling);
  add_draft_option(verb, options->draft);
  verb.add_option("--load-session", options->load_session,
                  "File with a sequence to continue: the prompt is put behind it")
      .check(expect_path());
  verb.add_option("--save-session", options->save_session,
                  "File to write the sequence to, for --load-session or a host application")
      .check(expect_path());
  verb.callback([options] { run(*options); });
}

const VerbRegistration kRun(10, "run", "Continue a prompt and stream the text", add_options);

}  // namespace

}  // namespace ds4::cli
