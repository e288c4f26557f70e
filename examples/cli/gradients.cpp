// ds4 gradients: the gradients of the mean cross-entropy of token sequences, as a file.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/runtime/any_trainable.hpp>
#include <ds4/train/trainable_model.hpp>

#include "cli/io.hpp"
#include "cli/model_choice.hpp"
#include "cli/options.hpp"
#include "cli/token_lists.hpp"
#include "cli/trainable_choice.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {
namespace {

struct GradientsOptions {
  ModelChoice model;
  std::string tokens;
  std::string out;
};

/// Whether the next-token loss reaches a weight; a router's bias has no gradient.
bool is_reached(const TrainedWeight<float>& weight) {
  return weight.rule != UpdateRule::load && weight.loss == LossKind::next_token;
}

void gradients(const GradientsOptions& options) {
  const auto lists = read_token_lists(options.tokens);
  const std::filesystem::path dir = model_dir(options.model);
  const std::filesystem::path config_file = dir / "config.json";
  const ConfigValues config = read_config(config_file);
  check_token_lists(options.tokens, lists, config);
  std::size_t predictions = 0;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (lists[i].size() < 2) {
      throw Error(options.tokens, "list " + std::to_string(i) + ": found " +
                                      std::to_string(lists[i].size()) +
                                      " tokens, expected at least 2");
    }
    predictions += lists[i].size() - 1;
  }
  const std::unique_ptr<AnyTrainable> model =
      make_trainable(config, config_file, options.model.backend, {dir, options.model.threads});

  PassOptions pass;
  pass.prediction_weight = 1.0 / static_cast<double>(predictions);
  catch_interrupts();
  double loss = 0.0;
  for (const TrainingSequence sequence : lists) {
    loss += model->add_gradients({&sequence, 1}, pass).cross_entropy;
    if (interrupted()) throw Error("gradients", "interrupted");
  }
  loss *= pass.prediction_weight;

  const Checkpoint checkpoint = Checkpoint::open(dir);  // for its names
  std::vector<TensorSpec> specs{{"loss", DType::f32, {1}}};
  std::vector<std::span<const float>> values;
  for (const TrainedWeight<float>& weight : model->weights().list()) {
    if (!is_reached(weight)) continue;
    specs.push_back(
        {"grad." + checkpoint.find(weight.name)->stored_name, DType::f32, weight.shape});
    values.push_back(weight.gradient);
  }
  SafetensorsWriter writer(options.out, std::move(specs));
  const auto rounded = static_cast<float>(loss);
  writer.write(0, std::as_bytes(std::span(&rounded, 1)));
  for (std::size_t i = 0; i < values.size(); ++i) writer.write(i + 1, std::as_bytes(values[i]));
  writer.finish();
  print("loss: " + std::to_string(loss) + " over " + std::to_string(predictions) +
        " predictions\n");
}

void add_options(Verb& verb) {
  auto options = std::make_shared<GradientsOptions>();
  add_training_backend_options(verb, options->model.backend, options->model.threads);
  verb.add_option("--model", options->model.dir, "Folder of the checkpoint")
      .required()
      .check(expect_path());
  verb.add_option("--tokens", options->tokens,
                  "JSON: an array of arrays of token ids, at least two in each")
      .required()
      .check(expect_path());
  verb.add_option("--out", options->out,
                  "Safetensors file: loss [1] and grad.{name} with the names of the checkpoint, "
                  "float32; without weights that this loss does not reach")
      .required()
      .check(expect_path());
  verb.callback([options] { gradients(*options); });
}

const VerbRegistration kGradients(
    170, "gradients", "Write the gradients of the mean next-token cross-entropy of token sequences",
    add_options);

}  // namespace

}  // namespace ds4::cli
