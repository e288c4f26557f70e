// Rows that are looked up, copied, and kept in a sequence's logs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/simd/logs.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1::simd {

/// The operations on rows: embeddings, and a sequence's logs. As in ds4::ops; Backend derives from
/// this, from Lane and from WeightBinding.
template <class Backend>
class RowOperations {
 public:
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<float, N, D> x, std::span<const std::int32_t> ids, const W& embed) {
    lane().for_each(ids.size(), [&](std::size_t s) {
      embed.stored.decode_row(static_cast<std::size_t>(ids[s]), x[s].data());
      for (std::size_t n = 1; n < N; ++n) std::copy_n(x[s].data(), D, x[s][n].data());
    });
  }

  template <std::size_t... E>
  void take_rows(RowsView<float, E...> y, RowsView<const float, E...> x,
                 std::span<const std::int32_t> rows) {
    lane().for_each(rows.size(), [&](std::size_t i) {
      std::ranges::copy(x.rows(static_cast<std::size_t>(rows[i]), 1).flat(), y.rows(i, 1).data());
    });
  }

  template <std::size_t Width>
  void append(TailLog<Width>& log, RowsView<const float, Width> rows) {
    if (lane().is_leader()) log.append(rows);
    lane().wait_for_all();
  }

  template <std::size_t Width>
  void append(KeyLog<Width>& log, RowsView<const float, Width> rows) {
    if (lane().is_leader()) {
      for (std::size_t i = 0; i < rows.extent(0); ++i) {
        std::byte* row = log.add(lane().row_type());
        if (log.bf16()) {
          lane().kernels().store_bf16(reinterpret_cast<std::uint16_t*>(row), rows[i].data(), Width);
        } else {
          std::memcpy(row, rows[i].data(), Width * sizeof(float));
        }
      }
    }
    lane().wait_for_all();
  }

  template <std::size_t Width>
  void append(IndexLog<Width>& log, RowsView<const float, Width> rows) {
    if (lane().is_leader()) {
      for (std::size_t i = 0; i < rows.extent(0); ++i) {
        std::byte* block = log.add(lane().row_type());
        lane().kernels().store_key(block, (log.end() - 1) % kKeyBlock, rows[i].data(), Width,
                                   log.bf16());
      }
    }
    lane().wait_for_all();
  }

  template <std::size_t Width>
  void read_rows(RowsView<float, Width> rows, const TailLog<Width>& log, std::size_t first) {
    lane().for_each(rows.extent(0),
                    [&](std::size_t i) { std::copy_n(log.row(first + i), Width, rows[i].data()); });
  }

  template <std::size_t Width>
  void forget_before(TailLog<Width>& log, std::size_t row) {
    if (lane().is_leader()) log.forget_before(row);
  }

  template <std::size_t Width>
  void forget_before(KeyLog<Width>& log, std::size_t row) {
    if (lane().is_leader()) log.forget_before(row);
  }

 private:
  Backend& lane() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::simd
