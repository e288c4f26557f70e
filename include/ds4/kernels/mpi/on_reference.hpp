// A rank's own part on the reference backend: for tests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/mpi/own_part.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

namespace ds4::inline v0_1::mpi {

/// The kernels of kernels/reference/ on some of the rows. Attention and the indexer stay whole: all
/// ranks compute all of them.
template <class T>
struct OwnPart<Reference<T>> {
  ///@{
  /// See OwnPart and ds4::ops.
  using Inner = Reference<T>;
  static constexpr bool kDividesHeads = false;
  static constexpr bool kDividesPicks = false;

  template <std::size_t K, class W>
  static void linear(Inner&, T* y, std::size_t stride, RowsView<const T, K> x, const W& w) {
    reference::linear(y, stride, x.data(), K, x.extent(0), w.stored, 0, w.stored.rows);
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  static void grouped_linear(Inner&, T* y, const T* x, std::size_t S, std::size_t first,
                             const W& w) {
    for (std::size_t row = first, end; row < first + w.stored.rows; row = end) {
      const std::size_t g = row / N;
      end = std::min((g + 1) * N, first + w.stored.rows);
      reference::linear(y + row, G * N, x + g * K, G * K, S, w.stored, row - first, end - row);
    }
  }

  static void rms_norm(Inner&, T* y, const T* x, std::size_t S, std::size_t stride,
                       std::size_t rows, std::size_t K, double eps) {
    for (std::size_t s = 0; s < S; ++s) {
      reference::rms_norm<T>(y + s * stride, x + s * stride, nullptr, rows, K, T(eps));
    }
  }

  template <std::size_t Pairs>
  static void rotate(Inner&, T* x, std::size_t S, std::size_t stride, std::size_t heads,
                     std::size_t d, const RotaryTable<T, Pairs>& table, bool inverse) {
    for (std::size_t s = 0; s < S; ++s) {
      reference::rotate(x + s * stride, table.cos[s].data(), table.sin[s].data(), 1, heads, d,
                        Pairs, inverse);
    }
  }

  static void swiglu(Inner&, T* gate, const T* up, std::size_t S, std::size_t stride,
                     std::size_t count, double limit) {
    for (std::size_t s = 0; s < S; ++s) {
      reference::swiglu(gate + s * stride, up + s * stride, count, T(limit));
    }
  }

  static void add(Inner&, T* y, const T* x, std::size_t S, std::size_t stride, std::size_t count) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t i = 0; i < count; ++i) y[s * stride + i] += x[s * stride + i];
    }
  }

  /// See simd::ExpertOperations::routed_rows.
  template <std::size_t D, std::size_t k, class Expert, class Complete>
  static void routed_experts(Inner& inner, T* y, RowsView<const T, D> x,
                             RowsView<const std::int32_t, k> picks, RowsView<const T, k> weights,
                             const std::vector<Expert>& experts, double limit,
                             std::size_t first_hidden, Complete&& complete) {
    constexpr std::size_t F = Expert::F;
    const std::size_t hidden_rows = experts[0].w1.stored.rows;
    const std::size_t rows = experts[0].w2.stored.rows;
    for (std::size_t s = 0; s < x.extent(0); ++s) std::fill_n(y + s * D, rows, T(0));
    for (std::size_t e = 0; e < experts.size(); ++e) {
      std::vector<std::size_t> places;  // token * k + choice
      for (std::size_t i = 0; i < picks.size(); ++i) {
        if (static_cast<std::size_t>(picks.flat()[i]) == e) places.push_back(i);
      }
      if (places.empty()) continue;
      auto scratch = inner.scratch();
      auto in = scratch.template rows<D>(places.size());
      auto hidden = scratch.template rows<F>(places.size());
      auto up = scratch.template rows<F>(places.size());
      for (std::size_t i = 0; i < places.size(); ++i) {
        std::ranges::copy(x[places[i] / k].flat(), in[i].data());
      }
      linear(inner, hidden.data() + first_hidden, F, in.as_const(), experts[e].w1);
      linear(inner, up.data() + first_hidden, F, in.as_const(), experts[e].w3);
      swiglu(inner, hidden.data() + first_hidden, up.data() + first_hidden, places.size(), F,
             hidden_rows, limit);
      complete(hidden.data(), places.size());
      linear(inner, in.data(), D, hidden.as_const(), experts[e].w2);
      for (std::size_t i = 0; i < places.size(); ++i) {
        for (std::size_t c = 0; c < rows; ++c) {
          y[places[i] / k * D + c] += weights.flat()[places[i]] * in(i, c);
        }
      }
    }
  }
  ///@}
};

}  // namespace ds4::inline v0_1::mpi
