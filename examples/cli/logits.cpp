// ds4 logits: the logits of given token sequences, and what every layer puts out, as a file.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config_values.hpp>
#include <ds4/detail/messages.hpp>
#include <ds4/dtype.hpp>
#include <ds4/error.hpp>
#include <ds4/observer.hpp>

#include "cli/any_model.hpp"
#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verbs.hpp"

namespace ds4::cli {
namespace {

struct LogitsOptions {
  ModelChoice model;
  std::string tokens;
  std::string out;
  std::string chunks;
  bool layers = false;
};

/// "5,64,1" as numbers; nothing if that is not a list of numbers of at least 1.
std::optional<std::vector<std::size_t>> parse_chunks(std::string_view text) {
  std::vector<std::size_t> chunks;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    const auto parsed = std::from_chars(at, end, chunks.emplace_back(0));
    if (parsed.ec != std::errc{} || chunks.back() == 0) return std::nullopt;
    if (parsed.ptr == end) return chunks;
    if (*parsed.ptr != ',') return std::nullopt;
    at = parsed.ptr + 1;
  }
}

void check_sequences(const std::vector<std::vector<std::int32_t>>& sequences,
                     const std::string& file, const ConfigValues& config) {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto& ids = sequences[i];
    const std::string where = detail::printable_path(file) + ": sequence " + std::to_string(i);
    if (ids.empty()) throw Error(where, "found no tokens, expected at least one");
    if (ids.size() > config.max_position_embeddings) {
      throw Error(where, "found " + std::to_string(ids.size()) +
                             " tokens, expected at most max_position_embeddings " +
                             std::to_string(config.max_position_embeddings));
    }
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= config.vocab_size) {
        throw Error(where + ", token " + std::to_string(t),
                    "found id " + std::to_string(ids[t]) + ", expected 0 to " +
                        std::to_string(config.vocab_size - 1));
      }
    }
  }
}

/// The layers of a sequence stand before its logits: in this order one pass produces them.
std::vector<TensorSpec> specify(const std::vector<std::vector<std::int32_t>>& sequences,
                                const ConfigValues& config, bool layers) {
  std::vector<TensorSpec> tensors;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::size_t S = sequences[i].size();
    for (std::size_t l = 0; layers && l < config.num_hidden_layers; ++l) {
      tensors.push_back({"layers." + std::to_string(i) + "." + std::to_string(l),
                         DType::f32,
                         {S, config.hc_mult, config.hidden_size}});
    }
    tensors.push_back({"logits." + std::to_string(i), DType::f32, {S, config.vocab_size}});
  }
  return tensors;
}

/// The lengths of the passes that take in S tokens: chunks, the last one repeating, or all at once.
std::vector<std::size_t> passes(std::size_t S, const std::vector<std::size_t>& chunks) {
  std::vector<std::size_t> lengths;
  for (std::size_t done = 0; done < S; done += lengths.back()) {
    const std::size_t wanted =
        chunks.empty() ? S : chunks[std::min(lengths.size(), chunks.size() - 1)];
    lengths.push_back(std::min(wanted, S - done));
  }
  return lengths;
}

/// Writes the tensors of one sequence. Where several passes contribute to several tensors, which
/// the file holds one after the other, they are kept until the last pass is done.
class SequenceWriter final : public StageObserver<float> {
 public:
  /// `kept` counts the tensors to keep; 0 writes them as they come.
  SequenceWriter(SafetensorsWriter& writer, std::size_t kept) : writer_(writer), kept_(kept) {}

  void add(std::size_t tensor, std::span<const float> values) {
    if (kept_.empty()) {
      writer_.write(std::as_bytes(values));
    } else {
      kept_[tensor].insert(kept_[tensor].end(), values.begin(), values.end());
    }
  }
  void finish() {
    for (const auto& values : kept_) writer_.write(std::as_bytes(std::span(values)));
  }

  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    if (stage == "output") add(layer, values);
  }
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}

 private:
  SafetensorsWriter& writer_;
  std::vector<std::vector<float>> kept_;
};

void write_sequence(AnyModel& model, std::span<const std::int32_t> ids,
                    const std::vector<std::size_t>& lengths, bool layers,
                    SafetensorsWriter& writer) {
  const std::size_t L = model.config().num_hidden_layers;
  SequenceWriter tensors(writer, layers && lengths.size() > 1 ? L + 1 : 0);
  AnyState state = model.new_state();
  for (const std::size_t length : lengths) {
    const AnyModel::Sequence next{&state, ids.first(length)};
    tensors.add(L, model.forward({&next, 1}, layers ? &tensors : nullptr).values);
    if (interrupted()) throw Error("logits", "interrupted");
    ids = ids.subspan(length);
  }
  tensors.finish();
}

void logits(const LogitsOptions& options) {
  const auto sequences = parse_token_lists(options.tokens, read_file(options.tokens));
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  check_sequences(sequences, options.tokens, model->config());
  std::vector<std::size_t> chunks;
  if (!options.chunks.empty()) chunks = *parse_chunks(options.chunks);

  catch_interrupts();
  SafetensorsWriter writer(options.out, specify(sequences, model->config(), options.layers));
  for (const auto& ids : sequences) {
    write_sequence(*model, ids, passes(ids.size(), chunks), options.layers, writer);
  }
  writer.finish();
}

}  // namespace

void add_logits(CLI::App& app) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App& verb = *app.add_subcommand("logits", "Write the logits of token sequences to a file");
  add_model_options(verb, options->model, true);
  verb.add_option("--tokens", options->tokens, "JSON: an array of arrays of token ids")
      ->required()
      ->check(expect_path());
  verb.add_option("--out", options->out, "Safetensors file: logits.{i} [S, vocab_size], float32")
      ->required()
      ->check(expect_path());
  verb.add_option("--chunks", options->chunks,
                  "Take in each sequence in chunks of these sizes, the last one repeating, "
                  "e.g. 5,64,1; default: at once")
      ->check([](const std::string& text) {
        return parse_chunks(text) ? ""
                                  : "expected whole numbers of at least 1 with commas between, "
                                    "found " +
                                        detail::in_quotes(text);
      });
  verb.add_flag("--layers", options->layers,
                "Also write layers.{i}.{l} [S, hc_mult, hidden_size], the output of every layer");
  verb.callback([options] { logits(*options); });
}

}  // namespace ds4::cli
