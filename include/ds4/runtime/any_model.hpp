// A model whose configuration and backend are known at run time only.
#pragma once

#include <any>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/serve/served_model.hpp>

namespace ds4::inline v0_1 {

/// The decoding state of one sequence of some model: a value, as ds4::State is. It goes to the
/// model that made it, or to one of the same configuration and backend; another one throws
/// ds4::Error.
using AnyState = std::any;

/// A ds4::Session: tokens, and a state that has taken in the first `position` of them.
struct AnySession {
  ///@{
  /// As in ds4::Session.
  std::vector<std::int32_t> ids;
  AnyState state;
  ///@}
};

/// Rows of logits [S, V], in memory that this object and its copies keep.
struct Logits {
  std::shared_ptr<const void> memory;  ///< what the values lie in
  std::span<const float> values;       ///< row by row
};

/// The launches of one kernel: how many, and what all of them move and compute.
struct Launches {
  std::string label;  ///< of the kernel
  std::size_t count;  ///< launches
  double bytes;       ///< read and written
  double flops;       ///< operations
};

/// A ds4::Model whose configuration and backend are known at run time only. Everything throws as
/// the function of ds4::Model of the same name does, and the rules for threads are that model's:
/// one pass at a time; see docs/architecture.md, Threads.
class AnyModel {
 public:
  /// One sequence of a batch: the tokens to take in, and the state they continue.
  struct Sequence {
    ///@{
    /// A state of this model's, and at least one token.
    AnyState* state;
    std::span<const std::int32_t> ids;
    ///@}
  };

  virtual ~AnyModel() = default;

  /// The configuration as the checkpoint's config.json states it.
  virtual const ConfigValues& config() const = 0;
  /// The checkpoint that was loaded, its files mapped.
  virtual const Checkpoint& checkpoint() const = 0;
  /// The state of an empty sequence.
  virtual AnyState new_state(std::size_t rollback_limit = kDefaultRollbackLimit) const = 0;

  ///@{
  /// As ds4::Model::drafter, ds4::State::keep_drafts, ds4::Model::mtp_logits and
  /// ds4::decode_with_drafts.
  virtual DrafterKind drafter() const = 0;
  virtual void keep_drafts(AnyState& state) const = 0;
  virtual Logits mtp_logits(AnyState& state) = 0;
  virtual std::vector<std::int32_t> decode_with_drafts(AnyState& state, std::int32_t id,
                                                       Sampler& sampler, DraftLength& length,
                                                       std::size_t limit) = 0;
  ///@}
  /// The logits [n, V] that the likeliest draft behind the state and `next` is chosen by, of
  /// `count` tokens at most; the observer, if any, sees the drafter's passes.
  virtual Logits draft_logits(AnyState& state, std::int32_t next, std::size_t count,
                              StageObserver<float>* observer = nullptr) = 0;

  ///@{
  /// Tokens that a state has taken in; takes back the last ones, as ds4::State::rollback does.
  virtual std::size_t position(const AnyState& state) const = 0;
  virtual void rollback(AnyState& state, std::size_t tokens) const = 0;
  ///@}

  ///@{
  /// As ds4::save_session and ds4::load_session.
  virtual void save_session(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                            const AnyState& state) const = 0;
  virtual AnySession load_session(const std::filesystem::path& file) const = 0;
  ///@}

  ///@{
  /// Bytes of a state's rows, and of the scratch memory that the model keeps.
  virtual std::size_t state_bytes(const AnyState& state) const = 0;
  virtual std::size_t scratch_bytes() const = 0;
  ///@}
  /// Tokens of a pass over a long prompt; see Model.
  virtual std::size_t prefill_chunk() const = 0;

  /// The state of a sequence of `position` tokens, at least one, with rows of random numbers: what
  /// decoding behind a long context costs can be measured without taking the context in.
  virtual AnyState random_state(std::size_t position, bool keep_drafts) = 0;

  /// Takes in some tokens; the logits [V] of the last one.
  virtual Logits prefill(AnyState& state, std::span<const std::int32_t> ids,
                         StageObserver<float>* observer = nullptr, const StopCheck& stop = {}) = 0;
  /// Takes in one token and returns its logits [V].
  Logits decode(AnyState& state, std::int32_t id, StageObserver<float>* observer = nullptr) {
    return prefill(state, {&id, 1}, observer);
  }

  /// The same model for a Scheduler.
  virtual ServedModel& served() = 0;

  /// The kernels launched since the last call, by label; none on backends that launch none.
  virtual std::vector<Launches> take_launches() { return {}; }

  /// One pass; the logits of every token, sequence after sequence. The observer, if any, sees every
  /// stage.
  virtual Logits forward(std::span<const Sequence> batch, StageObserver<float>* observer = nullptr,
                         const StopCheck& stop = {}) = 0;
};

}  // namespace ds4::inline v0_1
