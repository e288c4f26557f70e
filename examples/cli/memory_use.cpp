#include "cli/memory_use.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <string>

#include <sys/resource.h>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/plan/memory_plan.hpp>
#include <ds4/plan/weight_cost.hpp>

namespace ds4::cli {
namespace {

/// The format that a checkpoint comes closest to.
StorageFormat storage_format(const AnyModel& model) {
  const auto tensors = model.checkpoint().tensors();
  const bool packed = std::ranges::any_of(tensors, [](const StoredTensor& tensor) {
    return storage_info(matrix_storage(tensor.dtype)).scale_rows > 0;
  });
  if (packed) return StorageFormat::release;
  const bool reduced = weight_cost(model.checkpoint(), model.config()).reduced_matrices;
  return reduced ? StorageFormat::bf16 : StorageFormat::f32;
}

bool is_planned(const ModelChoice& choice) { return choice.backend == "simd"; }

PassShape pass_shape(const AnyModel& model, const ModelChoice& choice, std::size_t tokens,
                     std::size_t sequences, std::size_t context, std::size_t logits, bool drafts) {
  const bool bf16 = simd::chosen_kernels().layout_for(DType::bf16, false) == simd::Layout::bf16;
  return {.tokens = tokens,
          .sequences = sequences,
          .context = context,
          .logits = logits,
          .threads = choice.threads,
          .storage = storage_format(model),
          .exact = choice.exact || !bf16,
          .targets = drafts && model.drafter() == DrafterKind::dspark};
}

}  // namespace

std::size_t planned_scratch(const AnyModel& model, const ModelChoice& choice, std::size_t tokens,
                            std::size_t sequences, std::size_t context, std::size_t logits,
                            bool drafts) {
  if (!is_planned(choice)) return 0;
  return scratch_memory(model.config(),
                        pass_shape(model, choice, tokens, sequences, context, logits, drafts));
}

std::size_t planned_state(const AnyModel& model, const ModelChoice& choice, std::size_t position,
                          bool drafts, std::size_t rollback_limit) {
  if (!is_planned(choice)) return 0;
  const bool f32 = choice.exact || storage_format(model) == StorageFormat::f32;
  return state_memory(model.config(), position, f32 ? 4 : 2, rollback_limit, drafts);
}

MemoryUse sequence_memory(const AnyModel& model, const ModelChoice& choice, const AnyState& state,
                          std::size_t prompt, std::size_t position, std::size_t drafted) {
  const std::size_t chunk = std::min(prompt, model.prefill_chunk());
  std::size_t scratch =
      std::max(planned_scratch(model, choice, chunk, 1, prompt, 1, drafted > 0),
               planned_scratch(model, choice, 1 + drafted, 1, position, 1 + drafted, drafted > 0));
  if (drafted > 0 && is_planned(choice)) {
    const std::size_t rows =
        std::min(prompt, model.config().sliding_window + kDefaultRollbackLimit);
    scratch = std::max(scratch, draft_memory(model.config(), pass_shape(model, choice, rows, 1,
                                                                        position, 1, true)));
  }
  return {.scratch = model.scratch_bytes(),
          .state = model.state_bytes(state),
          .planned_scratch = scratch,
          .planned_state = planned_state(model, choice, position, drafted > 0),
          .beside_page_cache = anonymous_bytes()};
}

std::size_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::size_t kilobytes = 0;
    if (std::sscanf(line.c_str(), "RssAnon: %zu kB", &kilobytes) == 1) return kilobytes * 1024;
  }
  return 0;
}

std::size_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::string to_string(const MemoryUse& use) {
  const auto megabytes = [](std::size_t bytes) {
    char text[40];
    std::snprintf(text, sizeof(text), "%.1f", static_cast<double>(bytes) / 1e6);
    return std::string(text);
  };
  const auto beside_plan = [&](std::size_t bytes, std::size_t planned) {
    return megabytes(bytes) + " MB" +
           (planned > 0 ? " (planned " + megabytes(planned) + ")" : std::string());
  };
  std::string text = "state " + beside_plan(use.state, use.planned_state);
  if (use.planned_scratch > 0) {
    text = "scratch " + beside_plan(use.scratch, use.planned_scratch) + ", " + text;
  }
  if (use.beside_page_cache > 0) {
    text += ", " + megabytes(use.beside_page_cache) + " MB resident beside the page cache";
  }
  return text;
}

}  // namespace ds4::cli
