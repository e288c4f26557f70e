// AnyModel for one configuration and backend. Only generated sources include this: each instance of
// ds4::Model takes a while to compile.
#pragma once

#include <any>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/config_values.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/model.hpp>
#include <ds4/observer.hpp>

#include "cli/any_model.hpp"

namespace ds4::cli {

/// How the program makes a backend. A further one needs a specialisation here and an entry in
/// ds4_cli_backends of examples/CMakeLists.txt.
template <class B>
struct BackendTraits;

template <>
struct BackendTraits<Reference<float>> {
  static constexpr std::string_view kName = "reference";
  static Reference<float> make(const BackendOptions&) { return {}; }  // always one thread
};

/// Passes the output of each layer on.
class LayerObserver final : public StageObserver<float> {
 public:
  explicit LayerObserver(const AnyModel::LayerSink& sink) : sink_(sink) {}
  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    if (stage == "output") sink_(layer, values);
  }
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}

 private:
  const AnyModel::LayerSink& sink_;
};

template <ModelConfig C, Backend B>
class ModelOf final : public AnyModel {
 public:
  explicit ModelOf(Model<C, B> model) : model_(std::move(model)) {}

  const ConfigValues& config() const override { return model_.config(); }
  AnyState new_state() const override { return model_.new_state(); }

  Logits prefill(AnyState& state, std::span<const std::int32_t> ids) override {
    return keep(model_.prefill(typed(state), ids));
  }

  Logits forward(std::span<const Sequence> batch, const LayerSink& layers) override {
    std::vector<typename Model<C, B>::Sequence> sequences;
    for (const Sequence& sequence : batch) {
      sequences.push_back({&typed(*sequence.state), sequence.ids});
    }
    LayerObserver observer(layers);
    return keep(model_.forward(sequences, LogitsOf::all, layers ? &observer : nullptr));
  }

 private:
  using State = typename Model<C, B>::State;

  static State& typed(AnyState& state) { return std::any_cast<State&>(state); }

  template <class Tensor>
  static Logits keep(Tensor&& logits) {
    const auto kept = std::make_shared<const Tensor>(std::move(logits));
    return {kept, kept->flat()};
  }

  Model<C, B> model_;
};

template <ModelConfig C, Backend B>
CompiledModel compiled_model() {
  return {config_values<C>(), BackendTraits<B>::kName,
          [](const std::filesystem::path& dir,
             const BackendOptions& options) -> std::unique_ptr<AnyModel> {
            return std::make_unique<ModelOf<C, B>>(
                Model<C, B>::load(dir, BackendTraits<B>::make(options)));
          }};
}

}  // namespace ds4::cli
