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
#include <ds4/runtime/any_model.hpp>

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
  std::string draft_at;
};

/// What is wanted of the drafter: nothing, the logits of a multi-token-prediction layer, or those
/// of DSpark's blocks behind so many tokens, ascending.
struct DraftsWanted {
  DrafterKind kind = DrafterKind::none;
  std::vector<std::size_t> at;
};

/// The tensors of the file, and which is the first of each sequence.
struct Tensors {
  std::vector<TensorSpec> specs;
  std::vector<std::size_t> first;
};

/// Of each sequence its logits and, if wanted, its layers' outputs and the drafter's logits.
Tensors specify(const std::vector<std::vector<std::int32_t>>& sequences, const ConfigValues& config,
                bool layers, const DraftsWanted& drafts) {
  Tensors all;
  std::vector<TensorSpec>& tensors = all.specs;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::size_t S = sequences[i].size();
    all.first.push_back(tensors.size());
    tensors.push_back({"logits." + std::to_string(i), DType::f32, {S, config.vocab_size}});
    for (std::size_t l = 0; layers && l < config.num_hidden_layers; ++l) {
      tensors.push_back({"layers." + std::to_string(i) + "." + std::to_string(l),
                         DType::f32,
                         {S, config.hc_mult, config.hidden_size}});
    }
    if (drafts.kind == DrafterKind::mtp) {
      tensors.push_back(
          {"mtp_logits." + std::to_string(i), DType::f32, {S - 1, config.vocab_size}});
    }
    for (const std::size_t n : drafts.at) {
      if (n >= S) continue;
      tensors.push_back({"draft_logits." + std::to_string(i) + "." + std::to_string(n),
                         DType::f32,
                         {config.dspark_block_size, config.vocab_size}});
    }
  }
  return all;
}

/// Throws ds4::Error if the checkpoint's drafter is not one that the options are for, or a block
/// would lie behind a token that no sequence has.
DraftsWanted drafts_wanted(const LogitsOptions& options, const AnyModel& model,
                           const std::vector<std::vector<std::int32_t>>& sequences) {
  DraftsWanted wanted;
  if (!options.mtp) {
    if (!options.draft_at.empty())
      throw Error("--draft-at", "expected --mtp beside it, found none");
    return wanted;
  }
  wanted.kind = model.drafter();
  if (wanted.kind == DrafterKind::none) expect_mtp(model);
  if (wanted.kind == DrafterKind::mtp) {
    if (!options.draft_at.empty()) {
      throw Error("--draft-at", "expected a checkpoint with DSpark, found mtp");
    }
    return wanted;
  }
  if (options.draft_at.empty()) {
    throw Error("--mtp", "expected --draft-at with a checkpoint that has DSpark, found none");
  }
  wanted.at = *parse_chunks(options.draft_at);
  std::ranges::sort(wanted.at);
  wanted.at.erase(std::ranges::unique(wanted.at).begin(), wanted.at.end());
  std::size_t longest = 0;
  for (const auto& ids : sequences) longest = std::max(longest, ids.size());
  if (wanted.at.back() >= longest) {
    throw Error("--draft-at", "found " + std::to_string(wanted.at.back()) +
                                  ", expected less than the " + std::to_string(longest) +
                                  " tokens of the longest sequence");
  }
  if (wanted.at.back() + model.config().dspark_block_size >
      model.config().max_position_embeddings) {
    throw Error("--draft-at", "found " + std::to_string(wanted.at.back()) +
                                  ", expected a whole block before max_position_embeddings " +
                                  std::to_string(model.config().max_position_embeddings));
  }
  return wanted;
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
/// chunk (the last one repeats; all its tokens without --chunks), no chunk goes on behind one of
/// the `stops`, and a round's chunks fill passes of up to kPassTokens.
std::vector<std::vector<Piece>> passes(const std::vector<std::vector<std::int32_t>>& sequences,
                                       const std::vector<std::size_t>& chunks,
                                       const std::vector<std::size_t>& stops) {
  std::vector<std::vector<Piece>> passes;
  std::vector<std::size_t> done(sequences.size(), 0);
  for (std::size_t round = 0;; ++round) {
    std::size_t room = 0;  // in the last pass
    bool any = false;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::size_t left = sequences[i].size() - done[i];
      const std::size_t chunk =
          chunks.empty() ? kPassTokens : chunks[std::min(round, chunks.size() - 1)];
      std::size_t count = std::min(chunk, left);
      if (const auto stop = std::ranges::upper_bound(stops, done[i]); stop != stops.end()) {
        count = std::min(count, *stop - done[i]);
      }
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
  PassWriter(SafetensorsWriter& writer, const Tensors& tensors, std::span<const Piece> pieces)
      : writer_(writer), tensors_(tensors), pieces_(pieces) {
    for (const Piece& piece : pieces) rows_ += piece.count;
  }

  /// The rows of all pieces for tensor number `tensor` of their sequences.
  void write(std::size_t tensor, std::span<const float> values) {
    const std::size_t width = values.size() / rows_;
    for (const Piece& piece : pieces_) {
      write(tensors_.first[piece.sequence] + tensor, piece.begin, width,
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
      where_ = tensors_.specs[number].name;
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
  const Tensors& tensors_;
  std::span<const Piece> pieces_;
  std::size_t rows_ = 0;
  std::string where_;
  std::string problem_;
};

void logits(const LogitsOptions& options) {
  const auto sequences = parse_token_lists(options.tokens, read_file(options.tokens));
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  check_token_lists(options.tokens, sequences, model->config());
  const DraftsWanted drafts = drafts_wanted(options, *model, sequences);
  std::vector<std::size_t> chunks;
  if (!options.chunks.empty()) chunks = *parse_chunks(options.chunks);

  catch_interrupts();
  const Tensors tensors = specify(sequences, model->config(), options.layers, drafts);
  SafetensorsWriter writer(options.out, tensors.specs);
  const std::size_t longest_pass =
      std::max(kPassTokens, chunks.empty() ? std::size_t{0} : *std::ranges::max_element(chunks));
  // The streams of a whole pass stay for a multi-token-prediction layer.
  const std::size_t rollback_limit =
      drafts.kind == DrafterKind::mtp ? longest_pass : kDefaultRollbackLimit;
  std::vector<AnyState> states(sequences.size());
  for (AnyState& state : states) {
    state = model->new_state(rollback_limit);
    if (options.mtp) model->keep_drafts(state);
  }
  const std::size_t draft_tensor =
      1 + (options.layers ? model->config().num_hidden_layers : 0);  // of a sequence
  MemoryUse memory;
  for (const auto& pieces : passes(sequences, chunks, drafts.at)) {
    std::vector<AnyModel::Sequence> batch;
    for (const Piece& piece : pieces) {
      const std::span<const std::int32_t> ids = sequences[piece.sequence];
      batch.push_back({&states[piece.sequence], ids.subspan(piece.begin, piece.count)});
    }
    PassWriter out(writer, tensors, pieces);
    interruptible("logits", [&] {
      out.write(0, model->forward(batch, options.layers ? &out : nullptr, interrupted).values);
    });
    for (const Piece& piece : pieces) {
      const std::size_t tensor = tensors.first[piece.sequence] + draft_tensor;
      const std::size_t end = piece.begin + piece.count;
      if (drafts.kind == DrafterKind::mtp) {
        const Logits rows = model->mtp_logits(states[piece.sequence]);
        // They are as many as the tokens, but for the sequence's first.
        out.write(tensor, piece.begin - std::min<std::size_t>(piece.begin, 1),
                  model->config().vocab_size, rows.values);
      }
      const auto at = std::ranges::find(drafts.at, end);
      if (at == drafts.at.end() || end >= sequences[piece.sequence].size()) continue;
      const Logits rows =
          model->draft_logits(states[piece.sequence], sequences[piece.sequence][end],
                              model->config().dspark_block_size);
      out.write(tensor + static_cast<std::size_t>(at - drafts.at.begin()), 0,
                model->config().vocab_size, rows.values);
    }
    out.check();
    std::size_t tokens = 0;
    std::size_t context = 0;
    for (const Piece& piece : pieces) {
      tokens += piece.count;
      context = std::max(context, piece.begin + piece.count);
    }
    memory.planned_scratch = std::max(memory.planned_scratch,
                                      planned_scratch(*model, options.model, tokens, pieces.size(),
                                                      context, tokens, options.mtp));
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
                "row t, which reads token t+1, predicts token t+2; of DSpark, draft_logits.{i}.{n} "
                "[B, vocab_size]: row j predicts token n+1+j, along the likeliest tokens");
  verb.add_option(
          "--draft-at", options->draft_at,
          "Write the draft_logits of DSpark behind n tokens for each of these n, e.g. 1,2,5; "
          "token n is the anchor. Sequences that do not have it have no such tensor")
      .check(expect_chunks());
  verb.callback([options] { logits(*options); });
}

const VerbRegistration kLogits(30, "logits", "Write the logits of token sequences to a file",
                               add_options);

}  // namespace

}  // namespace ds4::cli
