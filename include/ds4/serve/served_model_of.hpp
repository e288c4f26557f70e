// A ds4::Model as a ServedModel.
#pragma once

#include <algorithm>
#include <any>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/decode/drafting.hpp>
#include <ds4/model.hpp>
#include <ds4/serve/served_model.hpp>
#include <ds4/state/session.hpp>

namespace ds4::inline v0_1 {

/// A model of configuration C on backend B as a ServedModel.
template <ModelConfig C, Backend B>
class ServedModelOf final : public ServedModel {
 public:
  /// Keeps the model: a copy of one shares its weights, and its threads.
  explicit ServedModelOf(Model<C, B> model) : model_(std::move(model)) {}

  ///@{
  /// See ServedModel.
  const ConfigValues& config() const override { return model_.config(); }
  ServedState new_served_state(std::size_t rollback_limit, bool keeps_drafts) const override {
    State state = model_.new_state(rollback_limit);
    if (keeps_drafts) state.keep_drafts();
    return state;
  }
  std::size_t position(const ServedState& state) const override { return typed(state).position(); }
  std::size_t rollback_available(const ServedState& state) const override {
    return typed(state).rollback_available();
  }
  void rollback(ServedState& state, std::size_t tokens) const override {
    typed(state).rollback(tokens);
  }
  std::size_t state_bytes(const ServedState& state) const override { return typed(state).bytes(); }

  void forward_last(std::span<const ServedModel::Sequence> batch, std::span<float> logits,
                    StageObserver<float>* observer, const StopCheck& stop) override {
    std::vector<typename Model<C, B>::Sequence> sequences;
    for (const ServedModel::Sequence& sequence : batch) {
      sequences.push_back({&typed(*sequence.state), sequence.ids});
    }
    model_.forward(sequences, LogitsOf::last, logits, observer, stop);
  }
  std::vector<float> forward_all(ServedState& state, std::span<const std::int32_t> ids) override {
    const auto rows = model_.forward(typed(state), ids);
    return {rows.flat().begin(), rows.flat().end()};
  }
  std::vector<std::vector<std::int32_t>> decode_drafted(
      std::span<const ServedModel::Drafted> batch) override {
    std::vector<DraftedSequence<C, B>> sequences;
    for (const ServedModel::Drafted& of : batch) {
      sequences.push_back({&typed(*of.state), of.id, of.sampler, of.length, of.limit});
    }
    return ds4::decode_with_drafts(model_, std::span<const DraftedSequence<C, B>>(sequences));
  }

  void save_state(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                  const ServedState& state) const override {
    ds4::save_session(file, ids, typed(state), model_.fingerprint());
  }
  std::pair<std::vector<std::int32_t>, ServedState> load_state(
      const std::filesystem::path& file) const override {
    Session<State> session = ds4::load_session<State>(file, model_.fingerprint());
    return {std::move(session.ids), ServedState(std::move(session.state))};
  }
  ///@}

 private:
  using State = typename Model<C, B>::State;
  static State& typed(ServedState& state) { return std::any_cast<State&>(state); }
  static const State& typed(const ServedState& state) { return std::any_cast<const State&>(state); }

  Model<C, B> model_;
};

}  // namespace ds4::inline v0_1
