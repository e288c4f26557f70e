// A host application that trains: a model learns a text further, and is saved as a checkpoint.
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <ds4/config/config_json.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <ds4/models/austen_config.hpp>
#include <ds4/text/tokenizer.hpp>
#include <ds4/train/trainable_model.hpp>
#include <ds4/train/trainer.hpp>
#include <ds4/train/training_files.hpp>

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::cerr << "usage: ds4_train_host DIR TEXT_FILE STEPS OUT_DIR\n";
    return 2;
  }
  using Model = ds4::TrainableModel<ds4::models::austen, ds4::SimdTraining>;
  Model model = Model::load(argv[1]);
  const auto tokenizer = ds4::Tokenizer::load(argv[1]);
  std::ifstream file(argv[2]);
  const std::string text{std::istreambuf_iterator<char>(file), {}};

  ds4::TrainerOptions options;
  options.batch = 2;
  options.context = 128;
  options.learning_rate = {.peak = 2e-4, .warmup_steps = 2};
  ds4::Trainer<Model> trainer(model, tokenizer.encode(text), options);
  const int steps = std::atoi(argv[3]);
  for (int step = 0; step < steps; ++step) {
    const ds4::StepReport report = trainer.step(static_cast<double>(step) / steps);
    std::cout << "step " << report.step << ": loss " << report.loss << ", gradient norm "
              << report.gradient_norm << "\n";
  }
  ds4::save_model(argv[4], ds4::read_config(std::string(argv[1]) + "/config.json"),
                  model.weights());
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
