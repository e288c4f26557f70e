// ds4 logits: the logits of given token sequences, and what every layer puts out, as a file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/layers/observer.hpp>

#include "cli/any_model.hpp"
#include "cli/chunks.hpp"
#include "cli/drafting.hpp"
#include "cli/finite.hpp"
#include "cli/io.hpp"
#include "cli/memory_use.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct LogitsOptions {
  ModelChoice model;
  std::string tokens;
  std::string out;
  std::string chunks;
  bool layers = false;
  bool mtp = false;
};

/// The tensors of the file: of each sequence its logits and, if wanted, its layers' outputs and the
/// logits of the multi-token-prediction layer.
std::vector<TensorSpec> specify(const std::vector<std::vector<std::int32_t>>& sequences,
                                const ConfigValues& config, bool layers, bool mtp) {
  std::vector<TensorSpec> tensors;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::size_t S = sequences[i].size();
    tensors.push_back({"logits." + std::to_string(i), DType::f32, {S, config.vocab_size}});
    for (std::size_t l = 0; layers && l < config.num_hidden_layers; ++l) {
      tensors.push_back({"layers." + std::to_string(i) + "." + std::to_string(l),
                         DType::f32,
                         {S, config.hc_mult, config.hidden_size}});
    }
    if (mtp) {
      tensors.push_back(
          {"mtp_logits." + std::to_string(i), DType::f32, {S - 1, config.vocab_size}});
    }
  }
  return tensors;
}

/// A run of tokens of one sequence in a pass.
struct Piece {
  std::size_t sequence;
  std::size_t begin;
  std::size_t count;
};

/// Tokens to a pass where --chunks does not ask for more: they bound its memory.
constexpr std::size_t kPassTokens = 512;

/// All sequences as one batch: in each round every sequence that is not done yet adds its next
/// chunk (the last one repeats; all its tokens without --chunks), and a round's chunks fill passes
/// of up to kPassTokens.
std::vector<std::vector<Piece>> passes(const std::vector<std::vector<std::int32_t>>& sequences,
                                       const std::vector<std::size_t>& chunks) {
  std::vector<std::vector<Piece>> passes;
  std::vector<std::size_t> done(sequences.size(), 0);
  for (std::size_t round = 0;; ++round) {
    std::size_t room = 0;  // in the last pass
    bool any = false;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::size_t left = sequences[i].size() - done[i];
      const std::size_t chunk =
          chunks.empty() ? kPassTokens : chunks[std::min(round, chunks.size() - 1)];
      const std::size_t count = std::min(chunk, left);
      if (count == 0) continue;
      if (count > room) {
        passes.emplace_back();
        room = std::max(kPassTokens, count);
      }
      passes.back().push_back({i, done[i], count});
      done[i] += count;
      room -= count;
      any = true;
    }
    if (!any) return passes;
  }
}

/// Writes what a pass puts out, each piece's rows to its own sequence's tensors.
class PassWriter final : public StageObserver<float> {
 public:
  /// `specs`: all tensors of the file, `tensors` of them of each sequence.
  PassWriter(SafetensorsWriter& writer, std::span<const TensorSpec> specs,
             std::span<const Piece> pieces, std::size_t tensors)
      : writer_(writer), specs_(specs), pieces_(pieces), tensors_(tensors) {
    for (const Piece& piece : pieces) rows_ += piece.count;
  }

  /// The rows of all pieces for tensor number `tensor` of their sequences.
  void write(std::size_t tensor, std::span<const float> values) {
    const std::size_t width = values.size() / rows_;
    for (const Piece& piece : pieces_) {
      write(piece.sequence * tensors_ + tensor, piece.begin, width,
            values.first(piece.count * width));
      values = values.subspan(piece.count * width);
    }
  }

  /// Rows of one tensor of the file, the first of them that of token `begin`.
  void write(std::size_t number, std::size_t begin, std::size_t width,
             std::span<const float> values) {
    for (std::size_t i = 0; problem_.empty() && i < values.size(); i += width) {
      const std::string found = not_finite(values.subspan(i, width));
      if (found.empty()) continue;
      where_ = specs_[number].name;
      problem_ = "token " + std::to_string(begin + i / width) +
                 ": expected finite numbers, found " + found;
    }
    writer_.write(number, std::as_bytes(values));
  }

  /// Throws ds4::Error that names the first row with a value that is not finite: not where it is
  /// found, as the pass has to come to its end.
  void check() const {
    if (!problem_.empty()) throw Error(where_, problem_);
  }

  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    if (stage == "output") write(1 + layer, values);
  }
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}

 private:
  SafetensorsWriter& writer_;
  std::span<const TensorSpec> specs_;
  std::span<const Piece> pieces_;
  std::size_t tensors_;  // of one sequence
  std::size_t rows_ = 0;
  std::string where_;
  std::string problem_;
};

void logits(const LogitsOptions& options) {
  const auto sequences = parse_token_lists(options.tokens, read_file(options.tokens));
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  check_token_lists(options.tokens, sequences, model->config());
  if (options.mtp) expect_mtp(*model);
  std::vector<std::size_t> chunks;
  if (!options.chunks.empty()) chunks = *parse_chunks(options.chunks);

  catch_interrupts();
  const auto specs = specify(sequences, model->config(), options.layers, options.mtp);
  SafetensorsWriter writer(options.out, specs);
  const std::size_t longest_pass =
      std::max(kPassTokens, chunks.empty() ? std::size_t{0} : *std::ranges::max_element(chunks));
  // The streams of a whole pass stay for the extra layer.
  const std::size_t rollback_limit = options.mtp ? longest_pass : kDefaultRollbackLimit;
  std::vector<AnyState> states(sequences.size());
  for (AnyState& state : states) {
    state = model->new_state(rollback_limit);
    if (options.mtp) model->keep_drafts(state);
  }
  const std::size_t mtp_tensor =
      1 + (options.layers ? model->config().num_hidden_layers : 0);  // of a sequence
  const std::size_t tensors = mtp_tensor + (options.mtp ? 1 : 0);
  MemoryUse memory;
  for (const auto& pieces : passes(sequences, chunks)) {
    std::vector<AnyModel::Sequence> batch;
    for (const Piece& piece : pieces) {
      const std::span<const std::int32_t> ids = sequences[piece.sequence];
      batch.push_back({&states[piece.sequence], ids.subspan(piece.begin, piece.count)});
    }
    PassWriter out(writer, specs, pieces, tensors);
    interruptible("logits", [&] {
      out.write(0, model->forward(batch, options.layers ? &out : nullptr, interrupted).values);
    });
    if (options.mtp) {
      for (const Piece& piece : pieces) {
        const Logits rows = model->mtp_logits(states[piece.sequence]);
        // They are as many as the tokens, but for the sequence's first.
        out.write(piece.sequence * tensors + mtp_tensor,
                  piece.begin - std::min<std::size_t>(piece.begin, 1), model->config().vocab_size,
                  rows.values);
      }
    }
    out.check();
    std::size_t tokens = 0;
    std::size_t context = 0;
    for (const Piece& piece : pieces) {
      tokens += piece.count;
      context = std::max(context, piece.begin + piece.count);
    }
    memory.planned_scratch =
        std::max(memory.planned_scratch,
                 planned_scratch(*model, options.model, tokens, pieces.size(), context, tokens));
  }
  writer.finish();
  memory.scratch = model->scratch_bytes();
  memory.beside_page_cache = anonymous_bytes();
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    memory.state += model->state_bytes(states[i]);
    memory.planned_state +=
        planned_state(*model, options.model, sequences[i].size(), options.mtp, rollback_limit);
  }
  print_error("memory: " + to_string(memory) + "\n");
}

void add_options(Verb& verb) {
  auto options = std::make_shared<LogitsOptions>();
  add_model_options(verb, options->model, true);
  verb.add_option("--tokens", options->tokens, "JSON: an array of arrays of token ids")
      .required()
      .check(expect_path());
  verb.add_option("--out", options->out, "Safetensors file: logits.{i} [S, vocab_size], float32")
      .required()
      .check(expect_path());
  verb.add_option("--chunks", options->chunks,
                  "Take in each sequence in chunks of these sizes, the last one repeating, "
                  "e.g. 5,64,1")
      .check(expect_chunks());
  verb.add_flag("--layers", options->layers,
                "Also write layers.{i}.{l} [S, hc_mult, hidden_size], the output of every layer");
  verb.add_flag("--mtp", options->mtp,
                "Also write mtp_logits.{i} [S-1, vocab_size] of the multi-token-prediction layer: "
                "row t, which reads token t+1, predicts token t+2");
  verb.callback([options] { logits(*options); });
}

const VerbRegistration kLogits(30, "logits", "Write the logits of token sequences to a file",
                               add_options);

}  // namespace

}  // namespace ds4::cli
