// Rows as they are: the embedding, rows taken from others, rows of a log.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <Kokkos_Core.hpp>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/kokkos/lanes.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/logs.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// x[s, n, :] = embed[ids[s], :] for every stream n < N.
template <class Space>
struct Embed {
  float* x;  ///< [S, N, D]
  const std::int32_t* ids;
  PackedMatrix embed;
  int N;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    switch (embed.storage) {
      case Storage::f32:
        return copy<Storage::f32>(team);
      case Storage::bf16:
        return copy<Storage::bf16>(team);
      case Storage::fp8:
        return copy<Storage::fp8>(team);
      case Storage::fp4:
        return copy<Storage::fp4>(team);
    }
  }

 private:
  template <Storage S, class Member>
  KOKKOS_FUNCTION void copy(const Member& team) const {
    constexpr int V = kPerWord<S>;
    const std::int32_t row = ids[team.league_rank()];
    const int lane = row % kPanelRows;
    const std::uint32_t* words = embed.panel(row / kPanelRows) + lane;
    const std::int32_t D = embed.cols;
    float* out = x + static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(N * D);
    for_each(team, D, [&](int c) {
      float value = value_of<S>(words[c / V * kPanelRows], c % V);
      if constexpr (kScaleCols<S> > 0) {
        value *= embed.scale(row / kPanelRows, c / kScaleCols<S>, lane);
      }
      for (int n = 0; n < N; ++n) out[n * D + c] = value;
    });
  }
};

/// y[i, :] = x[rows[i], :], `width` values each.
template <class Space>
struct TakeRows {
  float* y;
  const float* x;
  const std::int32_t* rows;
  int width;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t size = static_cast<std::size_t>(width);
    const float* from = x + static_cast<std::size_t>(rows[team.league_rank()]) * size;
    float* to = y + static_cast<std::size_t>(team.league_rank()) * size;
    for_each(team, width, [&](int c) { to[c] = from[c]; });
  }
};

/// Copies rows of float32, e.g. to a log; there they may be rounded to BF16.
template <class Space>
struct StoreRows {
  std::byte* out;
  const float* x;
  int width;
  bool bf16;

  KOKKOS_FUNCTION void operator()(const typename Launcher<Space>::Member& team) const {
    const std::size_t first =
        static_cast<std::size_t>(team.league_rank()) * static_cast<std::size_t>(width);
    const float* from = x + first;
    if (bf16) {
      std::uint16_t* to = reinterpret_cast<std::uint16_t*>(out) + first;
      for_each(team, width, [&](int c) { to[c] = bf16_from_float(from[c]); });
    } else {
      float* to = reinterpret_cast<float*>(out) + first;
      for_each(team, width, [&](int c) { to[c] = from[c]; });
    }
  }
};

/// Operations that copy rows, as in ds4::ops.
template <class Space>
class RowOperations {
 public:
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<Element, N, D> x, std::span<const Index> ids, const W& embed) {
    backend_of(this).launch("ds4::embed", moves(x.size() + x.size() / N), ids.size(), kTeam, 0,
                            Embed<Space>{raw(x), raw(ids.data()), embed, N});
  }

  template <std::size_t... E>
  void take_rows(RowsView<Element, E...> y, RowsView<const Element, E...> x,
                 std::span<const Index> rows) {
    constexpr int width = static_cast<int>((E * ... * 1));
    backend_of(this).launch("ds4::take_rows", moves(2 * y.size()), rows.size(), kTeam, 0,
                            TakeRows<Space>{raw(y), raw(x), raw(rows.data()), width});
  }

  template <class Log, std::size_t Width>
  void append(Log& log, RowsView<const Element, Width> rows) {
    auto& backend = backend_of(this);
    std::byte* out = log.add(backend.space(), rows.extent(0), backend.row_type());
    const bool bf16 = log.dtype() == DType::bf16;
    backend.launch("ds4::append", moves(rows.size() * (bf16 ? 3 : 4) / 2), rows.extent(0), kTeam, 0,
                   StoreRows<Space>{out, raw(rows), static_cast<int>(Width), bf16});
  }
  template <std::size_t Width>
  void read_rows(RowsView<Element, Width> rows, const RowLog<Space, Width>& log,
                 std::size_t first) {
    const std::byte* from = log.data() + (first - log.first()) * log.row_bytes();
    backend_of(this).launch(
        "ds4::read_rows", moves(2 * rows.size()), rows.extent(0), kTeam, 0,
        StoreRows<Space>{reinterpret_cast<std::byte*>(raw(rows)),
                         reinterpret_cast<const float*>(from), static_cast<int>(Width), false});
  }
  template <class Log>
  void forget_before(Log& log, std::size_t row) {
    log.forget_before(row);
  }
};

}  // namespace ds4::inline v0_1::kokkos
