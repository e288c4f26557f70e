// ds4 check: a backend beside the reference, stage by stage.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/inspect/check.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/chunks.hpp"
#include "cli/io.hpp"
#include "cli/json.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct CheckVerbOptions {
  ModelChoice model;
  std::string against;
  std::string tokens;
  std::size_t length = 0;
  std::optional<double> tolerance;
  std::string chunks;
  bool all = false;
  bool json = false;
};

/// An AnyModel with what check_backend asks of a ds4::Model.
class Checked {
 public:
  using Scalar = float;

  /// Rows of logits as check_backend reads them.
  struct Rows {
    Logits logits;
    std::span<const float> flat() const { return logits.values; }
  };

  explicit Checked(AnyModel& model) : model_(model) {}
  const ConfigValues& config() const { return model_.config(); }
  const Checkpoint& checkpoint() const { return model_.checkpoint(); }
  DrafterKind drafter() const { return model_.drafter(); }
  AnyState new_state() const {
    AnyState state = model_.new_state();
    if (drafter() != DrafterKind::none) model_.keep_drafts(state);
    return state;
  }
  Rows forward(AnyState& state, std::span<const std::int32_t> ids, StageObserver<float>* observer) {
    const AnyModel::Sequence sequence{&state, ids};
    return {model_.forward({&sequence, 1}, observer)};
  }
  void observe_drafts(StageObserver<float>* observer) { observer_ = observer; }
  /// Of the likeliest draft, whatever `choose` returns.
  template <class Choose>
  void draft(AnyState& state, std::int32_t next, std::size_t count, Choose&& choose) {
    const Logits rows = model_.draft_logits(state, next, count, observer_);
    const std::size_t V = config().vocab_size;
    for (std::size_t i = 0; i < rows.values.size(); i += V) {
      choose(std::span(rows.values).subspan(i, V));
    }
  }

 private:
  AnyModel& model_;
  StageObserver<float>* observer_ = nullptr;
};

/// What a line of the table sums up: one stage of one layer, or a stage over all layers.
struct Line {
  std::string name;
  const StageCheck* worst = nullptr;  // of the largest clean error
  std::size_t rows = 0;
  std::size_t differing = 0;
  std::size_t past = 0;
  std::size_t behind = 0;
  double mean = 0.0;         // of the clean errors, over stages
  double mean_behind = 0.0;  // the largest

  void add(const StageCheck& stage) {
    if (worst == nullptr || stage.clean.largest > worst->clean.largest) worst = &stage;
    const double before = static_cast<double>(rows);
    rows += stage.clean.rows;
    differing += stage.clean.differing;
    if (rows > 0) {
      mean = (mean * before + stage.clean.mean * static_cast<double>(stage.clean.rows)) /
             static_cast<double>(rows);
    }
    past += stage.past;
    behind += stage.behind.rows;
    mean_behind = std::max(mean_behind, stage.behind.mean);
  }
};

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2g", value);
  return text;
}

/// One line: whether every stage is within its tolerance, or which is the first that is not.
std::string verdict(const CheckReport& report) {
  const StageCheck* first = report.first_past();
  return first == nullptr
             ? "every stage is within the tolerance"
             : "first stage past the tolerance: " + first->name() + ", " + first->problem;
}

/// "layer 3 attn.q_rope, token 17"
std::string place(const StageCheck& stage, std::size_t token) {
  return stage.name() + ", token " + std::to_string(token);
}

/// Lines of columns, each as wide as it needs to be: the first to the left, the others to the
/// right.
std::string aligned(const std::vector<std::vector<std::string>>& lines) {
  std::vector<std::size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - line[i].size(), ' ');
      text += i == 0 ? line[i] + space : "  " + space + line[i];
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += "\n";
  }
  return text;
}

std::string table(const std::vector<Line>& lines, bool picks, bool behind) {
  std::vector<std::vector<std::string>> rows{
      picks ? std::vector<std::string>{"picks", "rows", "differ", "largest gap", "at", "past"}
            : std::vector<std::string>{"stage", "rows", "mean", "largest", "at", "past"}};
  if (behind) rows.front().insert(rows.front().end(), {"behind a pick", "mean"});
  for (const Line& line : lines) {
    if (line.worst->picks != picks) continue;
    const StageCheck& worst = *line.worst;
    std::vector<std::string> row{line.name, std::to_string(line.rows)};
    if (picks) row.push_back(std::to_string(line.differing));
    if (!picks) row.push_back(number(line.mean));
    row.push_back(number(worst.clean.largest));
    row.push_back(worst.clean.largest == 0.0
                      ? ""
                      : (worst.head ? "" : std::to_string(worst.layer) + ", ") +
                            std::to_string(worst.clean.largest_token));
    row.push_back(line.past == 0 ? "" : std::to_string(line.past));
    if (behind) {
      row.push_back(line.behind == 0 ? "" : std::to_string(line.behind));
      row.push_back(line.behind == 0 || picks ? "" : number(line.mean_behind));
    }
    rows.push_back(std::move(row));
  }
  return rows.size() > 1 ? aligned(rows) : "";
}

/// The stages summed up over the layers, in the order of a pass, or each by itself.
std::vector<Line> lines_of(const CheckReport& report, bool all) {
  std::vector<Line> lines;
  // A kind of layer may have a stage that those before it lack: it follows the same one as there.
  std::size_t at = 0;
  for (const StageCheck& stage : report.stages) {
    const std::string name = all ? stage.name() : stage.stage;
    const auto found = std::ranges::find(lines, name, &Line::name);
    if (found != lines.end()) {
      at = static_cast<std::size_t>(found - lines.begin());
    } else {
      at = lines.empty() ? 0 : at + 1;
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(at), Line{.name = name});
    }
    lines[at].add(stage);
  }
  return lines;
}

/// The stages of values with the largest errors, for a report that sums up over layers.
std::string worst_stages(const CheckReport& report) {
  constexpr std::size_t kShown = 5;
  std::vector<const StageCheck*> worst;
  for (const StageCheck& stage : report.stages) {
    if (!stage.picks && stage.clean.largest > 0.0) worst.push_back(&stage);
  }
  // Of equals the earlier one first: the pointers are into one vector.
  std::ranges::sort(worst, [](const StageCheck* a, const StageCheck* b) {
    return a->clean.largest != b->clean.largest ? a->clean.largest > b->clean.largest : a < b;
  });
  worst.resize(std::min(worst.size(), kShown));
  std::string text;
  for (const StageCheck* stage : worst) {
    text += (text.empty() ? "worst: " : "; ") + place(*stage, stage->clean.largest_token) + ": " +
            number(stage->clean.largest);
  }
  return text.empty() ? "" : text + "\n";
}

void print_text(const CheckReport& report, const std::string& title, bool all) {
  const auto lines = lines_of(report, all);
  const bool behind = std::ranges::any_of(lines, [](const Line& line) { return line.behind > 0; });
  std::string text = title + "\n\n" + table(lines, false, behind);
  if (const std::string picks = table(lines, true, behind); !picks.empty()) text += "\n" + picks;
  text += "\n";
  if (!all) text += worst_stages(report);
  text += "largest logit: the same token for " + std::to_string(report.same_top) + " of " +
          std::to_string(report.tokens);
  if (report.first_other_top)
    text += ", first another at " + std::to_string(*report.first_other_top);
  print(text + "\n" + verdict(report) + "\n");
}

Json errors_json(const RowErrors& errors) {
  return {{"rows", errors.rows},
          {"differing", errors.differing},
          {"largest", errors.largest},
          {"largest_token", errors.largest_token},
          {"mean", errors.mean}};
}

void print_json(const CheckReport& report, const Json& about) {
  Json stages = Json::array();
  for (const StageCheck& stage : report.stages) {
    Json json = {{"stage", stage.stage},         {"kind", stage.picks ? "picks" : "values"},
                 {"unit", stage.unit},           {"errors", errors_json(stage.clean)},
                 {"tolerance", stage.tolerance}, {"past", stage.past}};
    if (!stage.head) json["layer"] = stage.layer;
    if (stage.behind.rows > 0) json["behind_picks"] = errors_json(stage.behind);
    if (stage.first_past) json["first_past"] = *stage.first_past;
    if (!stage.problem.empty()) json["problem"] = stage.problem;
    stages.push_back(std::move(json));
  }
  Json json = about;
  json["tokens"] = report.tokens;
  json["passed"] = report.passed();
  json["verdict"] = verdict(report);
  json["same_top"] = report.same_top;
  json["stages"] = std::move(stages);
  print(json.dump_lines() + "\n");
}

/// Whether the backend rounds activations, as far as the program's options tell.
bool is_float32(const CheckVerbOptions& options, const Checkpoint& checkpoint) {
  return options.model.exact || options.model.backend == "reference" ||
         std::ranges::none_of(checkpoint.tensors(), [](const StoredTensor& tensor) {
           return !tensor.name.starts_with("mtp.") && tensor.dtype != DType::f32 &&
                  tensor.dtype != DType::i64 && tensor.dtype != DType::i32;
         });
}

std::vector<std::int32_t> tokens_of(const CheckVerbOptions& options, const ConfigValues& config) {
  if (options.tokens.empty()) {
    if (options.length > config.max_position_embeddings) {
      throw Error("--length", "found " + std::to_string(options.length) +
                                  ", expected at most max_position_embeddings " +
                                  std::to_string(config.max_position_embeddings));
    }
    return check_ids(config, options.length);
  }
  const auto lists = read_token_lists(options.tokens);
  check_token_lists(options.tokens, lists, config);
  if (lists.size() != 1) {
    throw Error(detail::printable_path(options.tokens),
                "found " + std::to_string(lists.size()) + " sequences, expected one");
  }
  return lists.front();
}

void check(const CheckVerbOptions& options) {
  const std::unique_ptr<AnyModel> model = load_model(options.model);
  ModelChoice choice = options.model;
  choice.backend = "reference";
  if (!options.against.empty()) choice.dir = options.against;
  const std::unique_ptr<AnyModel> reference = load_model(choice);
  if (const auto differences = compare(model->config(), reference->config());
      !differences.empty()) {
    throw Error("--against", differences.front().field + ": found " + differences.front().expected +
                                 ", expected " + differences.front().found + " as in --model");
  }
  const std::vector<std::int32_t> ids = tokens_of(options, model->config());

  const bool float32 = is_float32(options, model->checkpoint());
  CheckOptions wanted;
  wanted.tolerance = options.tolerance.value_or(float32 ? kFloat32Tolerance : kBf16Tolerance);
  if (!options.chunks.empty()) wanted.passes = *parse_chunks(options.chunks);
  const bool show_progress = error_is_terminal();
  wanted.progress = [&](std::size_t done, std::size_t total) {
    if (!show_progress) return;
    print_error(done == total
                    ? "\r\x1b[K"
                    : "\r" + std::to_string(done) + " of " + std::to_string(total) + " tokens");
  };
  Checked checked(*model);
  Checked expected(*reference);
  const CheckReport report = check_backend(checked, expected, ids, wanted);

  if (options.json) {
    print_json(report, {{"backend", options.model.backend},
                        {"activations", float32 ? "float32" : "bf16"},
                        {"tolerance", wanted.tolerance}});
  } else {
    const std::string title =
        options.model.backend + (float32 ? "" : ", which may round activations to BF16,") +
        " beside the reference: " + std::to_string(report.tokens) +
        " tokens; errors in units of each stage's root mean square, of logits in standard "
        "deviations; tolerance " +
        number(wanted.tolerance);
    print_text(report, title, options.all);
  }
  if (!report.passed()) throw Error("check", verdict(report));
}

void add_options(Verb& verb) {
  auto options = std::make_shared<CheckVerbOptions>();
  add_model_options(verb, options->model, true);
  verb.add_option("--against", options->against,
                  "Folder of the reference's checkpoint, of the same configuration, e.g. one "
                  "before `ds4 convert`; unless told, that of --model")
      .check(expect_path());
  const Option tokens =
      verb.add_option("--tokens", options->tokens,
                      "JSON: an array with one array of token ids; unless told, tokens "
                      "without a pattern, enough to reach every kind of attention")
          .check(expect_path());
  verb.add_option("--length", options->length, "How many tokens without a pattern")
      .excludes(tokens)
      .check(expect_count(1));
  verb.add_option(
          "--chunks", options->chunks,
          "Take the tokens in in passes of these sizes, the last one repeating, e.g. 5,64,1")
      .check(expect_chunks());
  verb.add_option("--tolerance", options->tolerance,
                  "Largest error of a stage; unless told " + number(kFloat32Tolerance) +
                      " for float32 activations and " + number(kBf16Tolerance) + " for BF16")
      .check(expect<double>("a number of at least 0",
                            [](double value) { return value >= 0.0 && std::isfinite(value); }));
  const Option all = verb.add_flag("--all", options->all, "A line for each stage of each layer");
  verb.add_flag("--json", options->json, "Print one JSON object, with every stage of every layer")
      .excludes(all);
  verb.callback([options] { check(*options); });
}

const VerbRegistration kCheck(160, "check", "Compare a backend with the reference, stage by stage",
                              add_options);

}  // namespace

}  // namespace ds4::cli
