// The routers: each lane takes its share of the tokens.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/top_k.hpp>

namespace ds4::inline v0_1::simd {

/// The operations that choose experts. As in ds4::ops; Backend derives from this and from Lane.
template <class Backend>
class RouterOperations {
 public:
  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<float, k> weights,
                     RowsView<const float, E> logits, std::span<const std::int32_t> ids,
                     const Tensor<std::int32_t, V, k>& tid2eid, double scale) {
    lane().for_each(ids.size(), [&](std::size_t s) {
      std::ranges::copy(tid2eid[static_cast<std::size_t>(ids[s])].flat(), experts[s].data());
      weigh_experts(experts[s], weights[s], logits[s], scale);
    });
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<float, k> weights,
                      RowsView<const float, E> logits, const Tensor<float, E>& bias, double scale) {
    lane().for_each(logits.extent(0), [&](std::size_t s) {
      std::array<Candidate, E> score;
      for (std::size_t e = 0; e < E; ++e) {
        score[e] = {sqrt_softplus(logits(s, e)) + bias[e], static_cast<std::int32_t>(e)};
      }
      std::partial_sort(score.begin(), score.begin() + k, score.end());
      for (std::size_t i = 0; i < k; ++i) experts(s, i) = score[i].entry;
      weigh_experts(experts[s], weights[s], logits[s], scale);
    });
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }

  static float sqrt_softplus(float x) {
    return std::sqrt(std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))));
  }
  template <std::size_t k, std::size_t E>
  static void weigh_experts(TensorView<std::int32_t, k> experts, TensorView<float, k> weights,
                            TensorView<const float, E> logits, double scale) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < k; ++i) {
      sum += weights[i] = sqrt_softplus(logits[static_cast<std::size_t>(experts[i])]);
    }
    for (std::size_t i = 0; i < k; ++i) {
      weights[i] = weights[i] / (sum + 1e-20f) * static_cast<float>(scale);
    }
  }
};

}  // namespace ds4::inline v0_1::simd
