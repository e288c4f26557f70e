// Training: the choice of experts, their load and its balance.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd::training {

/// The routers; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class RouterOperations {
 public:
  ///@{
  /// The operations.
  void route_by_score(std::int32_t* experts, float* weights, const float* logits, const float* bias,
                      std::size_t S, std::size_t E, std::size_t k, double scale) {
    tasks().by_rows(S, Tasks::kExpCost * E, E + k,
                    [&](std::size_t begin, std::size_t end, float* scratch) {
                      kernels().route(experts, weights, logits, bias, E, k,
                                      static_cast<float>(scale), begin, end, scratch);
                    });
  }
  void route_by_hash(std::int32_t* experts, float* weights, const float* logits,
                     const std::int32_t* ids, const std::int32_t* table, std::size_t S,
                     std::size_t E, std::size_t k, double scale) {
    for (std::size_t s = 0; s < S; ++s) {
      std::copy_n(table + static_cast<std::size_t>(ids[s]) * k, k, experts + s * k);
    }
    route_by_score(experts, weights, logits, nullptr, S, E, k, scale);
  }
  void expert_weights_backward(float* dlogits, const float* dweights, const std::int32_t* experts,
                               const float* logits, std::size_t S, std::size_t E, std::size_t k,
                               double scale) {
    tasks().by_rows(S, Tasks::kExpCost * kMaxLanes, 3 * k,
                    [&](std::size_t begin, std::size_t end, float* scratch) {
                      kernels().expert_weights_backward(dlogits, dweights, experts, logits, E, k,
                                                        static_cast<float>(scale), begin, end,
                                                        scratch);
                    });
  }
  void count_load(float* load, const std::int32_t* experts, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) load[experts[i]] += 1.0f;
  }
  double balance_loss(float* dlogits, const std::int32_t* experts, const float* logits,
                      std::size_t S, std::size_t E, std::size_t k, double weight) {
    Workers::Scratch scratch = tasks().scratch();
    float* const f = scratch.array(E);
    kernels().zero(f, E);
    for (std::size_t i = 0; i < S * k; ++i) f[experts[i]] += 1.0f;  // exact
    const float mean = static_cast<float>(k * S) / static_cast<float>(E);
    for (std::size_t e = 0; e < E; ++e) f[e] /= mean;
    const std::size_t step = Tasks::row_step(S, Tasks::kExpCost * E);
    double* const losses = scratch.array<double>(Tasks::parts(S, step));
    tasks().run(Tasks::parts(S, step), 2 * E, [&](std::size_t task, float* memory) {
      losses[task] = kernels().balance_loss(dlogits, f, logits, S, E, static_cast<float>(weight),
                                            task * step, std::min(S, (task + 1) * step), memory);
    });
    return std::accumulate(losses, losses + Tasks::parts(S, step), 0.0);
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
