// ds4 perplexity: how well a model predicts a text.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/text/tokenizer.hpp>

#include "cli/drafting.hpp"
#include "cli/finite.hpp"
#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

/// Tokens per pass: bounds the logits in memory.
constexpr std::size_t kPassTokens = 512;
constexpr std::size_t kDefaultContext = 512;

struct PerplexityOptions {
  ModelChoice model;
  std::string text_file;
  std::size_t context = 0;
  bool mtp = false;
};

/// -log softmax(logits)[id].
double negative_log_likelihood(std::span<const float> logits, std::int32_t id) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum) - logits[static_cast<std::size_t>(id)];
}

/// Sums over predictions.
struct Sums {
  std::size_t predictions = 0;
  double nll = 0.0;
  std::size_t guesses = 0;     ///< of the multi-token-prediction layer
  std::size_t agreements = 0;  ///< of these with what the model chooses one token later
};

/// Adds the predictions inside one window of the text, which begins with its token `first`, read
/// from an empty state. Throws ds4::Error for logits that are not finite.
void add_window(Sums& sums, AnyModel& model, std::span<const std::int32_t> window,
                std::size_t first, bool mtp) {
  const std::size_t V = model.config().vocab_size;
  const std::size_t predictions = window.size() - 1;  // nothing is asked of the last token
  AnyState state = mtp ? model.new_state(kPassTokens) : model.new_state();
  if (mtp) model.keep_drafts(state);
  std::vector<std::int32_t> choices;
  std::vector<std::int32_t> guesses;
  for (std::size_t begin = 0; begin < predictions; begin += kPassTokens) {
    const std::size_t count = std::min(kPassTokens, predictions - begin);
    const AnyModel::Sequence next{&state, window.subspan(begin, count)};
    const Logits logits = model.forward({&next, 1});
    for (std::size_t t = 0; t < count; ++t) {
      const auto row = logits.values.subspan(t * V, V);
      if (const std::string found = not_finite(row); !found.empty()) {
        throw Error("logits", "token " + std::to_string(first + begin + t) +
                                  ": expected finite numbers, found " + found);
      }
      sums.nll += negative_log_likelihood(row, window[begin + t + 1]);
      if (mtp) choices.push_back(argmax(row));
    }
    if (!mtp) continue;
    const Logits guessed = model.mtp_logits(state);
    for (std::size_t i = 0; i < guessed.values.size(); i += V) {
      guesses.push_back(argmax(guessed.values.subspan(i, V)));
    }
  }
  sums.predictions += predictions;
  sums.guesses += guesses.size();
  for (std::size_t t = 0; t < guesses.size(); ++t) {
    if (guesses[t] == choices[t + 1]) ++sums.agreements;
  }
}

void perplexity(const PerplexityOptions& options) {
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  if (options.mtp) expect_mtp(*model);
  const Tokenizer tokenizer = Tokenizer::load(model_dir(options.model));
  const std::vector<std::int32_t> ids = tokenizer.encode(read_file(options.text_file));
  if (ids.size() < 2) {
    throw Error(detail::printable_path(options.text_file),
                "found " + std::to_string(ids.size()) + " tokens, expected at least 2");
  }
  const std::size_t V = model->config().vocab_size;
  if (const auto largest = std::ranges::max(ids); static_cast<std::size_t>(largest) >= V) {
    throw Error("tokenizer.json", "found id " + std::to_string(largest) + ", expected 0 to " +
                                      std::to_string(V - 1) + " as config.json says");
  }
  const std::size_t most = model->config().max_position_embeddings;
  const std::size_t context =
      options.context > 0 ? options.context : std::min(kDefaultContext, most);
  if (context > most) {
    throw Error("--context", "found " + std::to_string(context) +
                                 ", expected at most max_position_embeddings " +
                                 std::to_string(most));
  }

  const bool show_progress = error_is_terminal();
  Sums sums;
  for (std::size_t begin = 0; begin + 1 < ids.size(); begin += context) {
    const auto window = std::span(ids).subspan(begin, std::min(context, ids.size() - begin));
    add_window(sums, *model, window, begin, options.mtp);
    if (show_progress) {
      print_error("\r" + std::to_string(begin + window.size()) + " of " +
                  std::to_string(ids.size()) + " tokens");
    }
  }
  if (show_progress) print_error("\r\x1b[K");

  const double mean = sums.nll / static_cast<double>(sums.predictions);
  char text[160];
  std::snprintf(text, sizeof(text),
                "predictions: %zu\nnegative log-likelihood per token: %.6f\nperplexity: %.6f\n",
                sums.predictions, mean, std::exp(mean));
  print(text);
  if (!options.mtp || sums.guesses == 0) return;
  std::snprintf(text, sizeof(text), "guesses of the extra layer: %zu\nagreement: %.2f %%\n",
                sums.guesses,
                100.0 * static_cast<double>(sums.agreements) / static_cast<double>(sums.guesses));
  print(text);
}

void add_options(Verb& verb) {
  auto options = std::make_shared<PerplexityOptions>();
  add_model_options(verb, options->model, true);
  verb.add_option("--text-file", options->text_file, "The text; no begin token is added")
      .required()
      .check(expect_path());
  verb.add_option("--context", options->context,
                  "Tokens per window, each read from an empty state; default: " +
                      std::to_string(kDefaultContext) + ", or the model's context if smaller")
      .check(expect_count(2));
  verb.add_flag("--mtp", options->mtp,
                "Also tell how often the multi-token-prediction layer's likeliest token is the one "
                "that the model itself finds likeliest a token later");
  verb.callback([options] { perplexity(*options); });
}

const VerbRegistration kPerplexity(40, "perplexity", "Measure how well a model predicts a text",
                                   add_options);

}  // namespace

}  // namespace ds4::cli
