// A backend beside the reference: the same tokens through both, compared stage by stage.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/inspect/check_report.hpp>
#include <ds4/inspect/lockstep.hpp>
#include <ds4/inspect/stage_comparison.hpp>
#include <ds4/layers/observer.hpp>

namespace ds4::inline v0_1 {

/// How check_backend compares.
struct CheckOptions {
  double tolerance = kFloat32Tolerance;  ///< of the largest error of a row; see check_report.hpp
  /// Tokens of the passes, at least 1 each, the last one repeating. They bound the memory, which is
  /// that of one stage and of the logits.
  std::vector<std::size_t> passes = {512};
  /// Called after each pass with the tokens that are done, and all.
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// Token ids without a pattern, the same in every run: `count` of them, or, if that is 0, as many
/// as it takes to reach every kind of attention: a full window, two entries of HCA, and one entry
/// of CSA more than the indexer may pick.
inline std::vector<std::int32_t> check_ids(const ConfigValues& config, std::size_t count = 0) {
  if (count == 0) {
    count = config.sliding_window;
    for (const std::size_t ratio : config.compress_ratios) {
      const bool indexed = ratio == config.compress_rates.compressed_sparse_attention;
      count = std::max(count, (indexed ? config.index_topk + 1 : 2) * ratio);
    }
    count = std::min(count + 8, config.max_position_embeddings);
  }
  std::vector<std::int32_t> ids(count);
  std::uint64_t random = 1;
  for (std::int32_t& id : ids) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    id = static_cast<std::int32_t>((random >> 33) % config.vocab_size);
  }
  return ids;
}

namespace detail {

inline constexpr std::size_t kCheckedDrafts = 5;

/// Whether two models, as check_backend takes them, have the same drafter.
template <class M, class R>
bool draft_alike([[maybe_unused]] const M& model, [[maybe_unused]] const R& reference) {
  if constexpr (requires { model.drafter() == reference.drafter(); }) {
    return model.drafter() != DrafterKind::none && model.drafter() == reference.drafter();
  } else {
    return false;
  }
}

/// The logits that the likeliest draft behind a state is chosen by, of up to `count` tokens.
template <class M, class S>
std::vector<typename M::Scalar> draft_rows(M& model, S& state, std::int32_t next,
                                           std::size_t count) {
  std::vector<typename M::Scalar> rows;
  model.draft(state, next, count, [&](std::span<const typename M::Scalar> logits) {
    rows.insert(rows.end(), logits.begin(), logits.end());
    return static_cast<std::int32_t>(top_of(logits, 0, logits.size()));
  });
  return rows;
}

/// Shows an observer the first pass of a draft.
template <class M, class S>
void observe_draft(M& model, S& state, std::int32_t next,
                   StageObserver<typename M::Scalar>& observer) {
  model.observe_drafts(&observer);
  try {
    draft_rows(model, state, next, 1);
  } catch (...) {
    model.observe_drafts(nullptr);
    throw;
  }
  model.observe_drafts(nullptr);
}

/// Compares the drafts of two models behind states that are as far as each other: the stages of the
/// first pass, and the logits up to the first token that they choose differently.
template <class M, class R, class S, class Q>
void compare_drafts(StageComparison& comparison, M& model, R& reference, S& state,
                    Q& reference_state, std::int32_t next, std::size_t V) {
  comparison.begin_drafts();
  Lockstep<typename M::Scalar, typename R::Scalar, StageComparison> lockstep(comparison);
  lockstep.run([&](auto& observer) { observe_draft(model, state, next, observer); },
               [&](auto& observer) { observe_draft(reference, reference_state, next, observer); });
  const auto rows = draft_rows(model, state, next, kCheckedDrafts);
  const auto expected = draft_rows(reference, reference_state, next, kCheckedDrafts);
  const std::span got(rows);
  const std::span wanted(expected);
  const std::size_t most = std::min(got.size(), wanted.size()) / V;
  std::size_t count = 0;
  while (count < most &&
         (count == 0 || top_of(got, count - 1, V) == top_of(wanted, count - 1, V))) {
    ++count;
  }
  if (count > 0) comparison.drafts(got.first(count * V), wanted.first(count * V));
}

}  // namespace detail

/// Runs the ids through a model and the reference, two ds4::Model of one configuration, usually of
/// one checkpoint, and compares every stage of every layer, and the logits; where both have the
/// same drafter, also every stage of a draft behind all ids and its logits. The two run side by
/// side, the reference on a thread of its own, and wait for each other at each stage: no more than
/// one is in memory.
///
/// A stage passes if each row's largest error is at most `tolerance`, and the mean error kMeanShare
/// of that. Other picks pass if the reference scores them as nearly equal: the gap is at most twice
/// the tolerance, as each of two scores may be off by it; a hash router has no choice. Rows behind
/// a differing pick are bound by kBehindTolerance alone. So picks that differ hide what comes
/// behind them: in float32, there are next to none.
///
/// Throws ds4::Error for what Model::prefill does, and if the stages of the two are not the same
/// ones. Source of the stages: StageObserver.
template <class M, class R>
CheckReport check_backend(M& model, R& reference, std::span<const std::int32_t> ids,
                          const CheckOptions& options = {}) {
  using Scalar = typename M::Scalar;
  using ReferenceScalar = typename R::Scalar;
  if (ids.empty()) throw Error("tokens", "found none, expected at least one");
  if (options.passes.empty() || std::ranges::count(options.passes, std::size_t{0}) > 0) {
    throw Error("passes",
                "found one of no tokens or none at all, expected at least one token each");
  }
  detail::StageComparison comparison(reference.config(), reference.checkpoint());
  const bool drafts = detail::draft_alike(model, reference);
  const auto new_state = [drafts](auto& of) {
    auto state = of.new_state();
    if constexpr (requires { state.keep_drafts(); }) {
      if (drafts) state.keep_drafts();
    }
    return state;
  };
  auto state = new_state(model);
  auto reference_state = new_state(reference);
  std::size_t done = 0;
  for (std::size_t pass = 0; done < ids.size(); ++pass) {
    const std::size_t most = options.passes[std::min(pass, options.passes.size() - 1)];
    const auto next = ids.subspan(done, std::min(most, ids.size() - done));
    comparison.begin_pass(done, next.size());
    using Logits = decltype(model.forward(state, next, nullptr));
    using ReferenceLogits = decltype(reference.forward(reference_state, next, nullptr));
    std::optional<Logits> logits;
    std::optional<ReferenceLogits> expected;
    detail::Lockstep<Scalar, ReferenceScalar, detail::StageComparison> lockstep(comparison);
    lockstep.run([&](auto& observer) { logits.emplace(model.forward(state, next, &observer)); },
                 [&](auto& observer) {
                   expected.emplace(reference.forward(reference_state, next, &observer));
                 });
    comparison.logits(std::span<const Scalar>(logits->flat()),
                      std::span<const ReferenceScalar>(expected->flat()));
    done += next.size();
    if (options.progress) options.progress(done, ids.size());
  }
  if constexpr (requires { model.drafter() == reference.drafter(); }) {
    if (drafts) {
      detail::compare_drafts(comparison, model, reference, state, reference_state, ids.front(),
                             reference.config().vocab_size);
    }
  }
  return comparison.report(options.tolerance);
}

}  // namespace ds4::inline v0_1
