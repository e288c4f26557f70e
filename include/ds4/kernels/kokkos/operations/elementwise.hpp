// What goes over values one by one: activations, sums, the largest.
#pragma once

#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>

namespace ds4::inline v0_1::kokkos {

/// gate <- silu(min(gate, limit)) * clamp(up, -limit, limit) over rows of n values.
template <class Space>
struct Swiglu {
  float* gate;
  const float* up;
  int n;
  float limit;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t first =
        static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(n);
    float* out = gate + first;
    const float* in = up + first;
    const float most = limit;
    for_each(team, n, [&](int c) {
      const float g = most < out[c] ? most : out[c];
      const float u = in[c] < -most ? -most : in[c] > most ? most : in[c];
      out[c] = g * sigmoid(g) * u;
    });
  }
};

/// y += x over rows of n values; each row of x is added to `repeats` rows of y.
template <class Space>
struct Add {
  float* y;
  const float* x;
  int n;
  int repeats;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t size = static_cast<std::size_t>(n);
    float* to = y + static_cast<std::size_t>(team.league_rank()) * size;
    const float* from = x + static_cast<std::size_t>(team.league_rank() / repeats) * size;
    for_each(team, n, [&](int c) { to[c] += from[c]; });
  }
};

/// ids[row] = the index of the largest of x[row, 0 .. n-1], a tie to the lower one.
template <class Space>
struct Argmax {
  std::int32_t* ids;
  const float* x;
  int n;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const float* row =
        x + static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(n);
    std::uint64_t best = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(team, n),
        [&](int i, std::uint64_t& most) {
          // Behind what cannot be chosen from comes nothing.
          const bool unfit = !(row[i] < Kokkos::Experimental::infinity_v<float>);
          const std::uint64_t key =
              unfit ? ~std::uint64_t{0} : order_key(row[i], static_cast<std::uint32_t>(i));
          if (key > most) most = key;
        },
        Kokkos::Max<std::uint64_t>(best));
    Kokkos::single(Kokkos::PerTeam(team), [&] {
      const bool unfit = best <= order_key(-Kokkos::Experimental::infinity_v<float>, 0) ||
                         best == ~std::uint64_t{0};
      ids[team.league_rank()] = unfit ? -1 : static_cast<std::int32_t>(index_of(best));
    });
  }
};

/// Activations, sums and the largest of rows, as in ds4::ops.
template <class Space>
class ElementwiseOperations {
 public:
  template <std::size_t F>
  void swiglu(RowsView<Element, F> gate, RowsView<const Element, F> up, double limit) {
    backend_of(this).launch(
        "ds4::swiglu", moves(3 * gate.size(), 8 * gate.size()), gate.extent(0), kTeam, 0,
        Swiglu<Space>{raw(gate), raw(up), static_cast<int>(F), static_cast<float>(limit)});
  }

  template <std::size_t D>
  void add(RowsView<Element, D> y, RowsView<const Element, D> x) {
    backend_of(this).launch("ds4::add", moves(3 * y.size(), y.size()), y.extent(0), kTeam, 0,
                            Add<Space>{raw(y), raw(x), static_cast<int>(D), 1});
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<Element, N, D> X, RowsView<const Element, D> y) {
    backend_of(this).launch("ds4::add_to_streams", moves(2 * X.size() + y.size(), X.size()),
                            X.extent(0) * N, kTeam, 0,
                            Add<Space>{raw(X), raw(y), static_cast<int>(D), static_cast<int>(N)});
  }

  template <std::size_t V>
  void argmax(RowsView<Index, 1> ids, RowsView<const Element, V> logits) {
    backend_of(this).launch("ds4::argmax", moves(logits.size()), logits.extent(0), 1024, 0,
                            Argmax<Space>{raw(ids), raw(logits), static_cast<int>(V)});
  }
};

}  // namespace ds4::inline v0_1::kokkos
