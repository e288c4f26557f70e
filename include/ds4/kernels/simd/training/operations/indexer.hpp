// Training: the lightning indexer and its own loss.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include <ds4/kernels/simd/top_k.hpp>
#include <ds4/kernels/simd/training/operations/products.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// The indexer; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class IndexerOperations {
 public:
  ///@{
  /// The operations.
  void pick_entries(std::int32_t* picks, const float* q, const float* weights, const float* keys,
                    const IndexShape& shape) {
    if (shape.top_k == 0) return;
    constexpr std::size_t kRows = 48;  // of the product that gives the scores
    const std::size_t step = std::max<std::size_t>(1, kRows / shape.nI);
    const std::size_t entries = shape.S / shape.ratio;
    const std::size_t buffer = kernels().index_scratch(shape, step);
    Workers::Scratch scratch = tasks().scratch();
    float* const panels = scratch.array(kernels().panels_size(shape.dI, entries));
    pack_transposed(tasks(), panels, keys, entries, shape.dI);
    constexpr std::size_t kCandidate = sizeof(Candidate) / sizeof(float);
    const std::size_t of_candidates = (entries + 1) * kCandidate;
    const std::size_t of_groups = std::max(kernels().likely_best_scratch(shape.top_k), kMostRanked);
    tasks().run(
        Tasks::parts(shape.S, step), of_candidates + of_groups + step * entries + buffer,
        [&](std::size_t task, float* memory) {
          const std::size_t begin = task * step;
          const std::size_t end = std::min(shape.S, begin + step);
          auto* const found = reinterpret_cast<Candidate*>(memory);
          float* const groups = memory + of_candidates;
          float* const scores = groups + of_groups;
          kernels().index_scores(scores, entries, q, weights, panels, end / shape.ratio, shape,
                                 begin, end, scores + step * entries);
          for (std::size_t t = begin; t < end; ++t) {
            const std::size_t likely = kernels().likely_best(
                found, scores + (t - begin) * entries, (t + 1) / shape.ratio, shape.top_k, groups);
            const std::size_t count = std::min(likely, shape.top_k);
            std::int32_t* const own = picks + t * shape.top_k;
            if (likely <= kMostRanked) {
              kernels().rank_best(own, found, likely, shape.top_k, groups);
            } else {
              std::partial_sort(found, found + count, found + likely);
              std::transform(found, found + count, own, [](const Candidate& c) { return c.entry; });
            }
            std::fill(own + count, own + shape.top_k, -1);
          }
        });
  }
  double index_loss(float* dq, float* dweights, float* dkeys, const float* received,
                    const std::int32_t* picks, const float* q, const float* weights,
                    const float* keys, const IndexShape& shape, double weight) {
    Workers::Scratch scratch = tasks().scratch();
    const std::size_t step = Tasks::query_step(shape.S);
    const std::size_t count = Tasks::parts(shape.S, step);
    double* const losses = scratch.array<double>(count);
    Tasks::RowSums* const sums = scratch.array<Tasks::RowSums>(count);
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t seen = std::min(shape.S, (c + 1) * step) / shape.ratio;
      sums[c] = {scratch.array(seen * shape.dI), 0, seen};
    }
    tasks().run(count, kernels().index_loss_scratch(shape), [&](std::size_t c, float* memory) {
      kernels().zero(sums[c].rows, sums[c].end * shape.dI);
      losses[c] = kernels().index_loss(dq, dweights, sums[c].rows, received, picks, q, weights,
                                       keys, shape, static_cast<float>(weight), c * step,
                                       std::min(shape.S, (c + 1) * step), memory);
    });
    tasks().add_row_sums(dkeys, sums, count, shape.dI);
    return std::accumulate(losses, losses + count, 0.0);
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
