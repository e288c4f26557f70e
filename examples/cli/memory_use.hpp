// The memory that a run takes beside the weights, next to what the plan says.
#pragma once

#include <cstddef>
#include <string>

#include <ds4/config/defaults.hpp>
#include <ds4/plan/memory_plan.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/model_choice.hpp"

namespace ds4::cli {

/// Measured bytes, and those of scratch_memory() and state_memory().
struct MemoryUse {
  std::size_t scratch = 0;
  std::size_t state = 0;
  std::size_t planned_scratch = 0;  ///< 0 on the reference backend, as below
  std::size_t planned_state = 0;
  std::size_t beside_page_cache = 0;  ///< resident and not pages of files; 0: not known
};

/// What a run used that took in `prompt` tokens of a sequence in one go, then more of them one by
/// one, or none; `state` is the sequence's. `drafted`: the most tokens of a draft, if it made any.
MemoryUse sequence_memory(const AnyModel& model, const ModelChoice& choice, const AnyState& state,
                          std::size_t prompt, std::size_t position, std::size_t drafted = 0);

/// Bytes that a pass of this shape is planned to take; storage, threads and precision are the
/// model's. `drafts`: the states keep what its drafter needs. 0 on the reference backend.
std::size_t planned_scratch(const AnyModel& model, const ModelChoice& choice, std::size_t tokens,
                            std::size_t sequences, std::size_t context, std::size_t logits,
                            bool drafts = false);

/// Bytes that the state of a sequence of this length is planned to hold; 0 likewise.
std::size_t planned_state(const AnyModel& model, const ModelChoice& choice, std::size_t position,
                          bool drafts = false, std::size_t rollback_limit = kDefaultRollbackLimit);

/// Resident bytes of this process that are not pages of files; 0 if the system does not say.
std::size_t anonymous_bytes();

/// The most resident bytes that this process has had.
std::size_t peak_rss_bytes();

/// "scratch 5.0 MB (planned 5.1), state 0.8 MB (planned 0.8), 31.0 MB resident beside the page
/// cache"
std::string to_string(const MemoryUse& use);

}  // namespace ds4::cli
