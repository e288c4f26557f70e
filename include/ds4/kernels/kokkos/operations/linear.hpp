// Products with weights.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/jobs.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/linear.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// Products of activations and weights, as in ds4::ops.
template <class Space>
class LinearOperations {
 public:
  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<Element, N> y, RowsView<const Element, K> x, const W& w) {
    product("ds4::linear", raw(y), raw(x), x.extent(0), w, 1);
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<Element, G, N> y, RowsView<const Element, G, K> x, const W& w) {
    product("ds4::grouped_linear", raw(y), raw(x), x.extent(0), w, G);
  }

 private:
  void product(std::string_view label, float* y, const float* x, std::size_t tokens,
               const PackedMatrix& w, std::size_t groups) {
    const auto& backend = backend_of(this);
    const auto S = static_cast<std::int32_t>(tokens);
    const std::int32_t tile = tile_tokens<Space>(S);
    const auto rows = static_cast<std::size_t>(w.rows);
    const auto cols = static_cast<std::size_t>(w.cols);
    const DenseJobs jobs{w,    x, cols * groups, y,
                         rows, S, tile,          static_cast<std::int32_t>(rows / groups)};
    const Cost cost = Cost{static_cast<double>(w.word_bytes() + w.scale_bytes()), 0} +
                      moves(tokens * (rows + cols * groups), 2 * tokens * rows * cols);
    multiply(backend, label, cost, jobs, w.storage, w.cols, std::min(S, tile), backend.is_exact());
  }
};

}  // namespace ds4::inline v0_1::kokkos
