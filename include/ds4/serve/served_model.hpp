// What a scheduler needs of a model, whatever its configuration and backend are.
#pragma once

#include <any>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/version.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>

namespace ds4::inline v0_1 {

/// The state of one sequence of some model: a value, as ds4::State is. Empty: none.
using ServedState = std::any;

/// A model as a scheduler sees it: its own type is compiled once, behind this (ServedModelOf, or
/// what a program has already). One thread at a time uses it.
class ServedModel {
 public:
  /// One sequence of a pass: the tokens to take in, at least one, and the state they continue.
  struct Sequence {
    ///@{
    /// See above.
    ServedState* state;
    std::span<const std::int32_t> ids;
    ///@}
  };
  /// One sequence of a step with drafts; see ds4::DraftedSequence.
  struct Drafted {
    ///@{
    /// See there.
    ServedState* state;
    std::int32_t id;
    Sampler* sampler;
    DraftLength* length;
    std::size_t limit;
    ///@}
  };

  virtual ~ServedModel() = default;

  /// The configuration as the checkpoint's config.json states it.
  virtual const ConfigValues& config() const = 0;
  /// The state of an empty sequence, which keeps what drafts need if these are wanted.
  virtual ServedState new_served_state(std::size_t rollback_limit, bool keeps_drafts) const = 0;
  /// Tokens that a state has taken in.
  virtual std::size_t position(const ServedState& state) const = 0;
  ///@{
  /// How many of the last tokens can be taken back; takes them back.
  virtual std::size_t rollback_available(const ServedState& state) const = 0;
  virtual void rollback(ServedState& state, std::size_t tokens) const = 0;
  ///@}
  /// Bytes of a state's rows, shared ones included.
  virtual std::size_t state_bytes(const ServedState& state) const = 0;

  /// One pass; writes the logits [V] of each sequence's last token, sequence after sequence. The
  /// observer, if any, sees every stage. Throws as ds4::Model::forward does.
  virtual void forward_last(std::span<const Sequence> batch, std::span<float> logits,
                            StageObserver<float>* observer, const StopCheck& stop) = 0;
  /// The logits [S, V] of all tokens of one sequence.
  virtual std::vector<float> forward_all(ServedState& state, std::span<const std::int32_t> ids) = 0;
  /// One step of decoding with drafts; see ds4::decode_with_drafts.
  virtual std::vector<std::vector<std::int32_t>> decode_drafted(std::span<const Drafted> batch) = 0;

  ///@{
  /// A state in a file, with the tokens that it has taken in; see ds4::save_session.
  virtual void save_state(const std::filesystem::path& file, std::span<const std::int32_t> ids,
                          const ServedState& state) const = 0;
  virtual std::pair<std::vector<std::int32_t>, ServedState> load_state(
      const std::filesystem::path& file) const = 0;
  ///@}
};

}  // namespace ds4::inline v0_1
