// AnyModel for one configuration and backend. Each instance takes a while to compile: a source of
// its own for each keeps a parallel build busy.
#pragma once

#include <algorithm>
#include <any>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/drafting.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/model.hpp>
#include <ds4/runtime/any_model.hpp>
#include <ds4/runtime/compiled_model.hpp>
#include <ds4/serve/served_model.hpp>
#include <ds4/serve/served_model_of.hpp>
#include <ds4/state/session.hpp>

namespace ds4::inline v0_1 {

/// How a backend is made at run time: kName, what it is called, and make(options), which takes
/// BackendOptions. Each backend has its specialisation in <ds4/runtime/NAME.hpp>.
template <class B>
struct BackendTraits;

/// A ds4::Model as an AnyModel.
template <ModelConfig C, Backend B>
class ModelOf final : public AnyModel {
 public:
  /// Takes it over.
  explicit ModelOf(Model<C, B> model) : model_(std::move(model)), served_(model_) {}

  const ConfigValues& config() const override { return model_.config(); }
  const Checkpoint& checkpoint() const override { return model_.checkpoint(); }
  AnyState new_state(std::size_t rollback_limit) const override {
    return model_.new_state(rollback_limit);
  }

  DrafterKind drafter() const override { return model_.drafter(); }
  void keep_drafts(AnyState& state) const override { typed(state).keep_drafts(); }
  Logits mtp_logits(AnyState& state) override { return keep(model_.mtp_logits(typed(state))); }
  Logits draft_logits(AnyState& state, std::int32_t next, std::size_t count,
                      StageObserver<float>* observer) override {
    std::vector<float> all;
    model_.observe_drafts(observer);
    struct Over {  // also if the observer throws
      Model<C, B>& model;
      ~Over() { model.observe_drafts(nullptr); }
    } const over{model_};
    model_.draft(typed(state), next, count, [&](std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
      return argmax(logits);
    });
    const auto kept = std::make_shared<const std::vector<float>>(std::move(all));
    return {kept, *kept};
  }
  std::vector<std::int32_t> decode_with_drafts(AnyState& state, std::int32_t id, Sampler& sampler,
                                               DraftLength& length, std::size_t limit) override {
    return ds4::decode_with_drafts(model_, typed(state), id, sampler, length, limit);
  }

  std::size_t position(const AnyState& state) const override { return typed(state).position(); }
  void rollback(AnyState& state, std::size_t tokens) const override {
    typed(state).rollback(tokens);
  }
  void save_session(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                    const AnyState& state) const override {
    ds4::save_session(file, ids, typed(state), model_.fingerprint());
  }
  AnySession load_session(const std::filesystem::path& file) const override {
    Session<State> session = ds4::load_session<State>(file, model_.fingerprint());
    return {std::move(session.ids), std::move(session.state)};
  }

  std::size_t state_bytes(const AnyState& state) const override { return typed(state).bytes(); }
  std::size_t scratch_bytes() const override { return model_.scratch_bytes(); }
  std::size_t prefill_chunk() const override { return model_.prefill_chunk(); }
  AnyState random_state(std::size_t position, bool keep_drafts) override;

  Logits prefill(AnyState& state, std::span<const std::int32_t> ids, StageObserver<float>* observer,
                 const StopCheck& stop) override {
    return keep(model_.prefill(typed(state), ids, observer, stop));
  }

  Logits forward(std::span<const Sequence> batch, StageObserver<float>* observer,
                 const StopCheck& stop) override {
    std::vector<typename Model<C, B>::Sequence> sequences;
    for (const Sequence& sequence : batch) {
      sequences.push_back({&typed(*sequence.state), sequence.ids});
    }
    return keep(model_.forward(sequences, LogitsOf::all, observer, stop));
  }

  ServedModel& served() override { return served_; }

  std::vector<Launches> take_launches() override {
    std::vector<Launches> taken;
    if constexpr (requires { model_.backend().launches(); }) {
      auto& log = model_.backend().launches();
      for (const auto& [label, count, cost] : log.counts()) {
        taken.push_back({std::string(label), count, cost.bytes, cost.flops});
      }
      log.clear();
    }
    return taken;
  }

 private:
  using State = typename Model<C, B>::State;

  static const State& typed(const AnyState& state) {
    const auto* const own = std::any_cast<State>(&state);
    if (own == nullptr) {
      throw Error("state", "found one of another model, expected one that this model made");
    }
    return *own;
  }
  static State& typed(AnyState& state) { return const_cast<State&>(typed(std::as_const(state))); }

  template <class Tensor>
  static Logits keep(Tensor logits) {
    const auto kept = std::make_shared<const Tensor>(std::move(logits));
    return {kept, kept->flat()};
  }

  Model<C, B> model_;
  ServedModelOf<C, B> served_;
};

template <ModelConfig C, Backend B>
AnyState ModelOf<C, B>::random_state(std::size_t position, bool keep_drafts) {
  State state = model_.new_state();
  if (keep_drafts) state.keep_drafts();
  // Some tokens first: they settle the type of each log's rows.
  const std::vector<std::int32_t> ids(std::min<std::size_t>(position, 2 * C::sliding_window), 0);
  model_.prefill(state, ids);
  std::uint64_t random = 1;
  detail::StateParts::for_each_log(
      state, [&](auto& log, std::size_t tokens_per_row, auto&& first_needed) {
        const DType dtype = log.dtype();
        log.restart(first_needed(position - std::min(position, state.rollback_limit())), dtype);
        std::vector<float> values(log.kWidth);
        std::vector<std::byte> row(log.kWidth * dtype_size(dtype));
        while (log.end() < position / tokens_per_row) {
          for (float& value : values) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            value = static_cast<float>(static_cast<std::int32_t>(random >> 32)) * 0x1p-31f;
          }
          // The upper half of a float32 is a BF16.
          const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
          const std::size_t size = dtype_size(dtype);
          for (std::size_t i = 0; i < log.kWidth; ++i) {
            std::copy_n(bytes + 4 * i + (4 - size), size, row.data() + size * i);
          }
          log.append_row(row.data());
        }
      });
  detail::StateParts::advance(state, std::vector<std::int32_t>(position - state.position()));
  return state;
}

/// The entry of a list of compiled models for configuration C on backend B, and, if that is not
/// null, what makes it trainable.
template <ModelConfig C, Backend B>
CompiledModel compiled_model(
    std::unique_ptr<AnyTrainable> (*make_trainable)(const TrainableSource&) = nullptr) {
  return {config_values<C>(), BackendTraits<B>::kName,
          [](const std::filesystem::path& dir,
             const BackendOptions& options) -> std::unique_ptr<AnyModel> {
            auto model = Model<C, B>::load(dir, BackendTraits<B>::make(options));
            if (options.prefill_chunk) model.set_prefill_chunk(*options.prefill_chunk);
            return std::make_unique<ModelOf<C, B>>(std::move(model));
          },
          make_trainable};
}

}  // namespace ds4::inline v0_1
