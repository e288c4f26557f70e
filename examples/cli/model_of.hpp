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
#include <ds4/model.hpp>
#include <ds4/observer.hpp>

#include "cli/any_model.hpp"

namespace ds4::cli {

/// How the program makes a backend: kName, what --backend calls it, and make(options). Each backend
/// has its specialisation in cli/backend_NAME.hpp.
template <class B>
struct BackendTraits;

/// A ds4::Model as an AnyModel.
template <ModelConfig C, Backend B>
class ModelOf final : public AnyModel {
 public:
  explicit ModelOf(Model<C, B> model) : model_(std::move(model)) {}

  const ConfigValues& config() const override { return model_.config(); }
  AnyState new_state() const override { return model_.new_state(); }

  Logits prefill(AnyState& state, std::span<const std::int32_t> ids) override {
    return keep(model_.prefill(typed(state), ids));
  }

  Logits forward(std::span<const Sequence> batch, StageObserver<float>* observer) override {
    std::vector<typename Model<C, B>::Sequence> sequences;
    for (const Sequence& sequence : batch) {
      sequences.push_back({&typed(*sequence.state), sequence.ids});
    }
    return keep(model_.forward(sequences, LogitsOf::all, observer));
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
