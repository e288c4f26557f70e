// Kernels for training: the routed experts, apart from their products.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ds4/kernels/simd/training/elementwise.hpp>
#include <ds4/kernels/simd/training/product.hpp>
#include <ds4/kernels/simd/training/vectors.hpp>

namespace ds4::inline v0_1::simd::training {

/// y[i, :] = row i of the list for i < count.
template <class A>
inline void gather_rows(float* y, const RowList& rows, std::size_t count, std::size_t width) {
  for (std::size_t i = 0; i < count; ++i) copy<A>(y + i * width, row_of<A>(rows, i), width);
}

/// y[places[i], :] = x[i, :] for i < count.
template <class A>
inline void scatter_rows(float* y, const float* x, const std::int32_t* places, std::size_t count,
                         std::size_t width) {
  for (std::size_t i = 0; i < count; ++i) {
    copy<A>(y + static_cast<std::size_t>(places[i]) * width, x + i * width, width);
  }
}

/// What lies between the products of the experts' backward pass, for `count` places: from dhidden
/// [count, F] of a weight of 1 to dgate, dup and dweights (+=), and hidden, the activation times
/// the weight. dhidden is overwritten.
template <class A>
inline void expert_activation_backward(float* dgate, float* dup, float* hidden, float* dhidden,
                                       float* dweights, const float* gate, const float* up,
                                       const float* weights, const std::int32_t* places,
                                       std::size_t count, std::size_t F, float limit) {
  swiglu<A>(hidden, gate, up, count * F, limit);
  for (std::size_t i = 0; i < count; ++i) {
    const auto place = static_cast<std::size_t>(places[i]);
    float* const h = hidden + i * F;
    float* const d = dhidden + i * F;
    dweights[place] += dot<A>(d, h, F);
    const Batch<A> weight = splat<A>(weights[place]);
    for_vectors<A>(F, [&](std::size_t f, auto lanes) {
      put<A>(h + f, get<A>(h + f, lanes) * weight, lanes);
      put<A>(d + f, get<A>(d + f, lanes) * weight, lanes);
    });
  }
  swiglu_backward<A, true>(dgate, dup, dhidden, gate, up, count * F, limit);
}

}  // namespace ds4::inline v0_1::simd::training
