// A backend beside the reference: the same tokens through both, compared stage by stage.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <ds4/check_report.hpp>
#include <ds4/config_values.hpp>
#include <ds4/detail/lockstep.hpp>
#include <ds4/detail/stage_comparison.hpp>
#include <ds4/error.hpp>

namespace ds4::inline v0_1 {

struct CheckOptions {
  double tolerance = 1e-4;
  std::vector<std::size_t> chunks = {512};
  std::function<void(std::size_t, std::size_t)> progress = {};
};

inline std::vector<std::int32_t> check_ids(const ConfigValues& config, std::size_t count = 0) {
  if (count == 0) {
    count = config.sliding_window;
    const auto& rates = config.compress_rates;
    for (const std::size_t ratio : config.compress_ratios) {
      const bool chosen = ratio != 0 && ratio == rates.compressed_sparse_attention;
      count = std::max(count, chosen ? (config.index_topk + 1) * ratio : 2 * ratio);
    }
    count = std::min(count + 8, config.max_position_embeddings);
  }
  std::vector<std::int32_t> ids(count);
  std::uint64_t x = 1;
  for (std::int32_t& id : ids) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    id = static_cast<std::int32_t>((x >> 33) % config.vocab_size);
  }
  return ids;
}

template <class M, class R>
CheckReport check_backend(M& model, R& reference, std::span<const std::int32_t> ids,
                          const CheckOptions& options = {}) {
  using Scalar = typename M::Scalar;
  using ReferenceScalar = typename R::Scalar;
  if (ids.empty()) throw Error("tokens", "found none, expected at least one");
  detail::StageComparison comparison(reference.config(), reference.checkpoint());
  auto state = model.new_state();
  auto reference_state = reference.new_state();
  std::size_t done = 0;
  for (std::size_t pass = 0; done < ids.size(); ++pass) {
    const std::size_t chunk = options.chunks[std::min(pass, options.chunks.size() - 1)];
    const auto next = ids.subspan(done, std::min(chunk, ids.size() - done));
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
  return comparison.report(options.tolerance);
}

}  // namespace ds4::inline v0_1
