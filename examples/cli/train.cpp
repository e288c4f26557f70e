// ds4 train: trains a model from scratch, or one that is there further, on texts.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/runtime/any_trainable.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/train/initialise.hpp>
#include <ds4/train/trainer.hpp>
#include <ds4/train/training_files.hpp>

#include "cli/io.hpp"
#include "cli/loss_curve.hpp"
#include "cli/named_config.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/trainable_choice.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

const std::map<std::string, OptimizerKind> kOptimizers{{"adamw", OptimizerKind::adamw},
                                                       {"muon", OptimizerKind::muon}};
const std::map<std::string, Decay> kDecays{
    {"constant", Decay::constant}, {"linear", Decay::linear}, {"cosine", Decay::cosine}};
const std::map<std::string, Recompute> kRecompute{
    {"none", Recompute::none}, {"layer", Recompute::layer}, {"pair", Recompute::pair}};

struct TrainOptions {
  std::string config;
  std::vector<std::string> texts;
  std::string tokenizer;
  std::string validation;
  std::string out;
  std::string init;
  std::string drafter;
  std::string backend;
  std::size_t threads = 1;
  std::size_t steps = 0;
  double minutes = 0.0;
  bool resume = false;
  std::size_t validate_every = 100;
  double save_every = 10.0;  // minutes
  std::string optimizer = "muon";
  std::string decay = "cosine";
  std::string recompute = "none";
  std::string weights = "bf16";
  double weight_decay = 0.1;
  bool trains_indexer = true;
  TrainerOptions trainer;
};

/// The config.json of a configuration by name, for messages.
fs::path config_file_of(const std::string& name) {
  std::error_code error;
  return fs::is_directory(name, error) ? fs::path(name) / "config.json" : fs::path(name);
}

struct Texts {
  std::vector<std::int32_t> training;
  std::vector<std::int32_t> validation;
};

/// The tokens of all texts, each with a begin token in front. Without a text of its own, the last
/// 2 % of each are for validation.
Texts read_texts(const TrainOptions& options, const Tokenizer& tokenizer,
                 const ConfigValues& config) {
  constexpr std::size_t kShare = 50;
  Texts texts;
  const auto encode = [&](const std::string& file) {
    std::vector<std::int32_t> ids = tokenizer.encode(read_file(file));
    for (const std::int32_t id : ids) {
      if (static_cast<std::size_t>(id) < config.vocab_size) continue;
      throw Error(detail::printable_path(options.tokenizer),
                  "found id " + std::to_string(id) + ", expected 0 to " +
                      std::to_string(config.vocab_size - 1) + " as the configuration says");
    }
    return ids;
  };
  for (const std::string& file : options.texts) {
    std::vector<std::int32_t> ids = encode(file);
    if (options.validation.empty()) {
      const auto held_out = static_cast<std::ptrdiff_t>(ids.size() / kShare);
      texts.validation.insert(texts.validation.end(), ids.end() - held_out, ids.end());
      ids.erase(ids.end() - held_out, ids.end());
    }
    put_bos_in_front(ids, config);
    texts.training.insert(texts.training.end(), ids.begin(), ids.end());
  }
  if (!options.validation.empty()) texts.validation = encode(options.validation);
  if (texts.validation.size() < 2) {
    throw Error("validation text", "found " + std::to_string(texts.validation.size()) +
                                       " tokens, expected at least 2");
  }
  return texts;
}

/// What decides the course of a run: a run that goes on must have the same.
std::string course_of(const TrainOptions& o) {
  const TrainerOptions& t = o.trainer;
  char text[400];
  std::snprintf(
      text, sizeof text,
      "batch %zu, context %zu, optimizer %s, learning rate %.9g, warm-up %zu, decay %s to "
      "%.9g, weight decay %.9g, clip %.9g, weights of losses %.9g %.9g %.9g %.9g, router "
      "bias %.9g, weights %s, seed %llu",
      t.batch, t.context, o.optimizer.c_str(), t.learning_rate.peak, t.learning_rate.warmup_steps,
      o.decay.c_str(), t.learning_rate.final_share, o.weight_decay, t.optimizer.clip_norm,
      t.mtp_weight, t.late_mtp_weight, t.balance_weight, t.indexer_weight, t.optimizer.bias_rate,
      o.weights.c_str(), static_cast<unsigned long long>(t.seed));
  return text;
}

/// The items of "name value, name value, ..." in which the first list differs from the second; all
/// of the first where they are not as long as each other.
std::string differing(std::string_view list, std::string_view other) {
  const auto items = [](std::string_view text) {
    std::vector<std::string_view> parts;
    for (std::size_t end = 0; (end = text.find(", ")) != text.npos; text.remove_prefix(end + 2)) {
      parts.push_back(text.substr(0, end));
    }
    parts.push_back(text);
    return parts;
  };
  const auto own = items(list);
  const auto others = items(other);
  if (own.size() != others.size()) return std::string(list);
  std::string text;
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (own[i] != others[i]) text.append(text.empty() ? "" : ", ").append(own[i]);
  }
  return text;
}

/// How far a run goes, as it is asked for.
std::string length_of(const TrainOptions& o) {
  return o.steps > 0 ? "--steps " + std::to_string(o.steps)
                     : "--minutes " + detail::field_text(o.minutes);
}

void write_file(const fs::path& path, std::string_view text) {
  NewFile file(path);
  write_whole(file, text);
}

/// A run, and the folder that it leaves.
class Run {
 public:
  explicit Run(TrainOptions options);
  void train();

 private:
  using Metadata = std::map<std::string, std::string>;
  using Notes = std::vector<std::string>;

  bool is_done() const {
    return options_.steps > 0 ? trainer_->optimizer().steps() >= options_.steps
                              : seconds() >= 60.0 * options_.minutes;
  }
  double seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - start_).count();
  }
  double progress() const {
    return options_.steps > 0 ? static_cast<double>(trainer_->optimizer().steps()) /
                                    static_cast<double>(options_.steps)
                              : seconds() / (60.0 * options_.minutes);
  }
  /// Of the whole run so far.
  double tokens() const {
    double sum = 0.0;
    for (const LossRow& row : rows_) sum += static_cast<double>(row.report.tokens);
    return sum;
  }
  double speed() const { return tokens() / std::max(rows_.back().seconds, 1e-9); }
  void resume();
  void check_origin(const Metadata& found, Notes& notes) const;
  void check_length(const std::string& earlier, Notes& notes) const;
  void save() const;
  void show(const LossRow& row) const;
  void report_validation(const LossRow& row, const PassLosses& validation) const;

  fs::path state_file() const { return fs::path(options_.out) / "training_state.safetensors"; }
  fs::path csv_file() const { return fs::path(options_.out) / "loss.csv"; }

  TrainOptions options_;
  ConfigValues config_;
  Texts texts_;
  Metadata origin_;  // what the state says of the run beside its numbers
  std::unique_ptr<AnyTrainable> model_;
  std::optional<Trainer<AnyTrainable>> trainer_;
  std::vector<LossRow> rows_;
  double seconds_before_ = 0.0;  // of runs that this one goes on from
  Clock::time_point start_;
};

Run::Run(TrainOptions options) : options_(std::move(options)) {
  config_ = named_config(options_.config);
  if (options_.trainer.context > config_.max_position_embeddings) {
    throw Error("--context", "found " + std::to_string(options_.trainer.context) +
                                 ", expected at most max_position_embeddings " +
                                 std::to_string(config_.max_position_embeddings));
  }
  std::error_code error;
  const bool has_state = fs::exists(state_file(), error);
  if (has_state != options_.resume) {
    throw Error(detail::printable_path(state_file()),
                options_.resume ? "found none, expected that of the run to --resume"
                                : "found a run there, expected --resume or another --out");
  }
  const Tokenizer tokenizer = Tokenizer::load(options_.tokenizer);
  texts_ = read_texts(options_, tokenizer, config_);
  const bool drafter = !options_.drafter.empty();
  if (drafter && !config_.has_dspark) {
    throw Error(detail::printable_path(config_file_of(options_.config)),
                "found a configuration without DSpark, expected dspark_* fields for --drafter");
  }
  model_ = make_trainable(config_, config_file_of(options_.config), options_.backend,
                          {options_.init, options_.threads, drafter ? config_.dspark_stages : 0});
  TrainerOptions& settings = options_.trainer;
  settings.optimizer.kind = kOptimizers.at(options_.optimizer);
  settings.optimizer.adamw.weight_decay = options_.weight_decay;
  settings.optimizer.muon.weight_decay = options_.weight_decay;
  settings.optimizer.bf16_weights = options_.weights == "bf16";
  settings.learning_rate.decay = kDecays.at(options_.decay);
  settings.recompute = kRecompute.at(options_.recompute);
  if (!options_.trains_indexer) settings.indexer_weight = 0.0;
  if (!model_->is_loaded()) initialise(model_->weights(), settings.seed);
  origin_ = {{"course", course_of(options_)},
             {"training_text", text_fingerprint(texts_.training)},
             {"validation_text", text_fingerprint(texts_.validation)},
             {"length", length_of(options_)},
             {"rounding", "backend " + options_.backend + ", sequences per pass " +
                              std::to_string(settings.sequences_per_pass)}};
  if (drafter) {  // trained for these weights alone
    origin_["course"] += ", drafter " + options_.drafter + ", model " +
                         detail::hexadecimal(Checkpoint::open(options_.init).fingerprint());
  }
  trainer_.emplace(*model_, std::move(texts_.training), settings);
  if (options_.resume) resume();

  make_folder(options_.out);
  const fs::path file = fs::is_directory(options_.tokenizer, error)
                            ? fs::path(options_.tokenizer) / "tokenizer.json"
                            : fs::path(options_.tokenizer);
  const fs::path copy = fs::path(options_.out) / "tokenizer.json";
  if (!fs::equivalent(file, copy, error)) write_file(copy, read_file(file.string()));
}

/// Whether this is the run that left a state with these entries; what changes it is an error, what
/// only changes its rounding a note.
void Run::check_origin(const Metadata& found, Notes& notes) const {
  const std::string where = detail::printable_path(state_file());
  const auto saved = [&](const std::string& key) {
    const auto entry = found.find(key);
    return entry == found.end() ? std::string() : entry->second;
  };
  const std::string course = saved("course");
  if (const std::string& own = origin_.at("course"); course != own) {
    throw Error(where, "found a run with " + detail::printable(differing(course, own)) +
                           ", expected " + differing(own, course));
  }
  const fs::path config = fs::path(options_.out) / "config.json";
  if (const auto differences = compare(read_config(config), config_); !differences.empty()) {
    const FieldDifference& first = differences.front();
    throw Error(detail::printable_path(config), "found a run with " + first.field + " " +
                                                    first.found + ", expected " + first.expected);
  }
  for (const std::string text : {"training", "validation"}) {
    const std::string& own = origin_.at(text + "_text");
    const std::string other = saved(text + "_text");
    if (other.empty()) {  // of a version before they were saved: nothing else is missing
      notes.push_back("found no fingerprint of its " + text +
                      " text, which is taken to be this one, " + own);
    } else if (other != own) {
      throw Error(where, "found a run with a " + text + " text of " + detail::printable(other) +
                             ", expected this one, " + own);
    }
  }
  const std::string& own = origin_.at("rounding");
  if (const std::string other = saved("rounding"); !other.empty() && other != own) {
    notes.push_back("found a run with " + differing(other, own) +
                    "; it goes on, but not bit for bit, with " + differing(own, other));
  }
}

/// Whether the run, which was to be as long as `earlier` says, is not longer than asked for
/// already.
void Run::check_length(const std::string& earlier, Notes& notes) const {
  const std::size_t steps = trainer_->optimizer().steps();
  const double minutes = seconds_before_ / 60.0;
  const std::string& own = origin_.at("length");
  // The last step of a run of minutes ends behind them: no reason to refuse the same again.
  const bool is_passed =
      options_.steps > 0 ? options_.steps < steps : options_.minutes < minutes && own != earlier;
  if (is_passed) {
    const auto text = [](double value) { return detail::field_text(value); };
    throw Error(options_.steps > 0 ? "--steps" : "--minutes",
                options_.steps > 0
                    ? "found " + std::to_string(options_.steps) + ", expected at least the " +
                          std::to_string(steps) + " that the run in --out has made"
                    : "found " + text(options_.minutes) + ", expected more than the " +
                          text(minutes) + " that the run in --out has taken");
  }
  if (!earlier.empty() && earlier != own) {
    notes.push_back("found a run of " + detail::printable(earlier) + "; from step " +
                    std::to_string(steps + 1) + " on its schedule is that of " + own);
  }
}

void Run::resume() {
  Notes notes;
  check_origin(Safetensors(state_file()).metadata(), notes);
  const Metadata metadata =
      load_training_state(state_file(), model_->weights(), trainer_->optimizer());
  rows_ = from_csv(detail::printable_path(csv_file()), read_file(csv_file().string()));
  const std::size_t steps = trainer_->optimizer().steps();
  if (rows_.size() < steps) {
    throw Error(
        detail::printable_path(csv_file()),
        "found " + std::to_string(rows_.size()) + " steps, expected " + std::to_string(steps));
  }
  rows_.resize(steps);
  if (!rows_.empty()) seconds_before_ = rows_.back().seconds;
  const auto earlier = metadata.find("length");
  check_length(earlier == metadata.end() ? "" : earlier->second, notes);
  for (const std::string& note : notes) {
    complain("ds4: " + detail::printable_path(state_file()) + ": " + note);
  }
}

void Run::save() const {
  const fs::path out = options_.out;
  write_file(csv_file(), to_csv(rows_));
  write_file(out / "loss.svg", loss_curve(rows_, config_.name + ", trained by ds4"));
  std::vector<const TrainedWeights<float>*> parts{&model_->weights()};
  if (model_->frozen() != nullptr) parts.insert(parts.begin(), model_->frozen());
  save_model<float>(out, config_, parts);
  save_training_state(state_file(), model_->weights(), trainer_->optimizer(), origin_);
}

void Run::show(const LossRow& row) const {
  if (!error_is_terminal()) return;
  constexpr std::size_t kWidth = 20;
  const double done = std::min(progress(), 1.0);
  const auto filled = static_cast<std::size_t>(static_cast<double>(kWidth) * done);
  std::optional<double> validation;
  for (const LossRow& earlier : rows_) {
    if (earlier.validation) validation = earlier.validation;
  }
  const double left = done > 0.0 ? seconds() * (1.0 - done) / done : 0.0;
  char text[200];
  std::snprintf(text, sizeof text,
                "\r[%s%s] step %zu  loss %.4f  validation %s  %.0f tokens/s  %.0f min left\x1b[K",
                std::string(filled, '#').c_str(), std::string(kWidth - filled, ' ').c_str(),
                row.report.step, row.report.loss,
                validation ? std::to_string(*validation).substr(0, 6).c_str() : "-", speed(),
                left / 60.0);
  print_error(text);
}

void Run::report_validation(const LossRow& row, const PassLosses& validation) const {
  if (error_is_terminal()) print_error("\r\x1b[K");
  char text[200];
  std::snprintf(text, sizeof text,
                "step %zu: %.0f tokens, loss %.4f, validation loss %.4f, %.0f tokens/s\n",
                row.report.step, tokens(), row.report.loss, *row.validation, speed());
  print(text);
  if (const DraftLosses& drafts = validation.drafts; drafts.blocks > 0) {
    std::snprintf(text, sizeof text, "%.3f of %zu drafts accepted, confidence loss %.4f\n",
                  drafts.accepted / static_cast<double>(drafts.blocks),
                  validation.predictions / drafts.blocks,
                  drafts.confidence / static_cast<double>(validation.predictions));
    print(text);
  }
}

void Run::train() {
  catch_interrupts();
  start_ = Clock::now();
  if (is_done()) {
    print("found nothing to do: step " + std::to_string(trainer_->optimizer().steps()) +
          " of the run in --out is its last\n");
    return;
  }
  Clock::time_point saved = start_;
  while (!is_done() && !interrupted()) {
    LossRow row;
    PassLosses validation;
    row.report = trainer_->step(progress());
    row.seconds = seconds();
    if (row.report.step % options_.validate_every == 0 || is_done()) {
      validation = trainer_->validate(texts_.validation);
      row.validation = validation.loss();
    }
    rows_.push_back(row);
    if (row.validation) report_validation(row, validation);
    show(row);
    if (std::chrono::duration<double>(Clock::now() - saved).count() > 60.0 * options_.save_every) {
      save();
      saved = Clock::now();
    }
  }
  if (error_is_terminal()) print_error("\r\x1b[K");
  save();
  if (!is_done()) {
    print("stopped after step " + std::to_string(trainer_->optimizer().steps()) +
          "; the same command with --resume goes on\n");
  }
}

Check expect_number(double least, double most) {
  char text[80];
  std::snprintf(text, sizeof text, "a number from %g to %g", least, most);
  return expect<double>(text, [=](double value) { return value >= least && value <= most; });
}

void add_options(Verb& verb) {
  auto options = std::make_shared<TrainOptions>();
  TrainOptions& o = *options;
  TrainerOptions& t = o.trainer;
  verb.add_option("CONFIG", o.config, "A config.json, or its folder")
      .required()
      .check(expect_path());
  verb.add_option("--text", o.texts, "Texts to learn from, one document each")
      .required()
      .check(expect_path());
  verb.add_option("--tokenizer", o.tokenizer, "A tokenizer.json, or its folder")
      .required()
      .check(expect_path());
  verb.add_option("--out", o.out,
                  "Folder to write: a checkpoint that every verb reads, loss.csv, loss.svg, and "
                  "what --resume needs")
      .required()
      .check(expect_path());
  verb.add_option("--validation", o.validation,
                  "A text that is not learned from; default: the last 2 % of each text")
      .check(expect_path());
  const Option init =
      verb.add_option("--init", o.init, "A checkpoint to start from; default: random weights")
          .check(expect_path());
  verb.add_option("--drafter", o.drafter,
                  "Train this drafter for the model of --init, which stays as it is: dspark")
      .one_of({"dspark"})
      .needs(init);
  add_training_backend_options(verb, o.backend, o.threads);
  const Option steps =
      verb.add_option("--steps", o.steps, "Steps of the run").check(expect_count(1));
  const Option minutes =
      verb.add_option("--minutes", o.minutes, "Minutes of the run, in place of --steps")
          .check(expect_number(0.01, 1e6));
  steps.excludes(minutes);
  verb.add_flag("--resume", o.resume, "Go on with the run in --out");
  verb.add_option("--batch", t.batch, "Sequences to a step")
      .capture_default_str()
      .check(expect_count(1));
  verb.add_option("--context", t.context, "Tokens to a sequence")
      .capture_default_str()
      .check(expect_count(2));
  verb.add_option(
          "--sequences-per-pass", t.sequences_per_pass,
          "Sequences that are in memory at once: the gradients of a batch are added up over "
          "passes; default: 512 tokens or one sequence")
      .check(expect_count(1));
  verb.add_option("--optimizer", o.optimizer, "For the matrices: muon, adamw")
      .capture_default_str()
      .one_of({"adamw", "muon"});
  verb.add_option("--learning-rate", t.learning_rate.peak, "The largest")
      .capture_default_str()
      .check(expect_number(0.0, 1e3));
  verb.add_option("--warmup", t.learning_rate.warmup_steps, "Steps in which it rises")
      .capture_default_str()
      .check(expect_count(0));
  verb.add_option("--decay", o.decay, "How it falls: cosine, linear, constant")
      .capture_default_str()
      .one_of({"constant", "linear", "cosine"});
  verb.add_option("--final-share", t.learning_rate.final_share, "What is left of it at the end")
      .capture_default_str()
      .check(expect_number(0.0, 1.0));
  verb.add_option("--weight-decay", o.weight_decay, "Of all weights")
      .capture_default_str()
      .check(expect_number(0.0, 1e3));
  verb.add_option("--clip", t.optimizer.clip_norm, "The largest norm of the gradients; 0: any")
      .capture_default_str()
      .check(expect_number(0.0, 1e9));
  verb.add_option("--mtp-weight", t.mtp_weight,
                  "Of the multi-token-prediction layer's loss in the first two thirds of the run")
      .capture_default_str()
      .check(expect_number(0.0, 1e3));
  verb.add_option("--late-mtp-weight", t.late_mtp_weight, "The same in the last third")
      .capture_default_str()
      .check(expect_number(0.0, 1e3));
  verb.add_option("--balance-weight", t.balance_weight, "Of the experts' balance loss")
      .capture_default_str()
      .check(expect_number(0.0, 1e3));
  verb.add_flag("--indexer,!--no-indexer", o.trains_indexer,
                "Train the indexer to pick what attention would");
  verb.add_option("--recompute", o.recompute,
                  "What is kept for the way back: none (everything is), layer, pair")
      .capture_default_str()
      .one_of({"none", "layer", "pair"});
  verb.add_option("--weights", o.weights,
                  "What the model computes on: bf16, matrices rounded as they are saved, of which "
                  "float32 masters are trained; f32, the masters themselves")
      .capture_default_str()
      .one_of({"bf16", "f32"});
  verb.add_option("--seed", t.seed, "Of the first weights and of the texts' order")
      .capture_default_str()
      .check(expect_seed());
  verb.add_option("--validate-every", o.validate_every, "Steps between validations")
      .capture_default_str()
      .check(expect_count(1));
  verb.add_option("--save-every", o.save_every, "Minutes between saves")
      .capture_default_str()
      .check(expect_number(0.0, 1e6));
  verb.callback([options] {
    if (options->steps == 0 && options->minutes == 0.0) {
      throw Error("train", "found neither --steps nor --minutes, expected one of them");
    }
    Run(*options).train();
  });
}

const VerbRegistration kTrain(180, "train", "Train a model from scratch, or further, on texts",
                              add_options);

}  // namespace

}  // namespace ds4::cli
