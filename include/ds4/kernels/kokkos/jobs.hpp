// The products that teams compute: which rows of which matrix, with which tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include <Kokkos_Core.hpp>

#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>

namespace ds4::inline v0_1::kokkos {

/// Columns that are summed one after another. A multiple of every scale block and word.
template <class Space>
inline constexpr int kChunk = kOnHost<Space> ? 512 : 256;

/// One team's product: the rows of a panel with `count` tokens.
struct Job {
  PackedMatrix w;
  std::int32_t panel = 0;
  std::int32_t count = 0;       ///< tokens
  const float* x = nullptr;     ///< the first token's row, or all rows if there are places
  std::size_t x_stride = 0;     ///< between tokens
  float* y = nullptr;           ///< the first token's row
  std::size_t y_stride = 0;     ///< between tokens
  std::int32_t group_rows = 0;  ///< rows of w that multiply the same columns of x
  /// Of an expert's tokens: token i reads row places[i] / places_per_row of x.
  const std::int32_t* places = nullptr;
  std::int32_t places_per_row = 1;

  KOKKOS_INLINE_FUNCTION const float* token(std::int32_t i, std::int32_t group) const {
    const std::size_t row =
        static_cast<std::size_t>(places == nullptr ? i : places[i] / places_per_row);
    return x + row * x_stride + static_cast<std::size_t>(group) * static_cast<std::size_t>(w.cols);
  }
};

/// Teams for a dense product, dense or block-diagonal: (panel, up to `tile` tokens) each.
struct DenseJobs {
  PackedMatrix w;
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
  std::int32_t tokens;
  std::int32_t tile;
  std::int32_t group_rows;

  std::size_t teams() const {
    return static_cast<std::size_t>(w.panels()) *
           static_cast<std::size_t>((tokens + tile - 1) / tile);
  }
  KOKKOS_INLINE_FUNCTION bool job(std::int32_t team, Job& job) const {
    const std::int32_t panels = (w.rows + kPanelRows - 1) / kPanelRows;
    const std::int32_t first = team / panels * tile;
    job.w = w;
    job.panel = team % panels;
    job.count = tokens - first < tile ? tokens - first : tile;
    job.x = x + static_cast<std::size_t>(first) * x_stride;
    job.x_stride = x_stride;
    job.y = y + static_cast<std::size_t>(first) * y_stride;
    job.y_stride = y_stride;
    job.group_rows = group_rows;
    return true;
  }
};

/// Some tokens of one expert: those at the sorted places first .. first + count - 1.
struct ExpertTile {
  std::int32_t expert;
  std::int32_t first;
  std::int32_t count;
};

/// Teams for one of the three products of all picked experts: (panel, tile) each. The host knows an
/// upper bound of the tiles only; the others have nothing to do.
struct ExpertJobs {
  const PackedMatrix* experts;  ///< this product's matrix of each expert, `matrices` apart
  std::int32_t matrices;
  Storage storage;  ///< matrices of other storages are left to another launch
  std::int32_t rows;
  const ExpertTile* tiles;
  const std::int32_t* tile_count;
  std::int32_t most_tiles;
  const float* x;
  std::size_t x_stride;
  float* y;  ///< rows in the order of the sorted places
  std::size_t y_stride;
  const std::int32_t* places;  ///< sorted by expert; null if x is in this order
  std::int32_t places_per_row;

  std::size_t teams() const {
    return static_cast<std::size_t>((rows + kPanelRows - 1) / kPanelRows) *
           static_cast<std::size_t>(most_tiles);
  }
  KOKKOS_INLINE_FUNCTION bool job(std::int32_t team, Job& job) const {
    // Tiles first: the idle ones, at the end, are spread over all panels and so over all threads.
    const std::int32_t number = team % most_tiles;
    if (number >= *tile_count) return false;
    const ExpertTile tile = tiles[number];
    job.w = experts[tile.expert * matrices];
    if (job.w.storage != storage) return false;
    const std::size_t first = static_cast<std::size_t>(tile.first);
    job.panel = team / most_tiles;
    job.count = tile.count;
    job.x = places == nullptr ? x + first * x_stride : x;
    job.x_stride = x_stride;
    job.y = y + first * y_stride;
    job.y_stride = y_stride;
    job.group_rows = rows;
    if (places != nullptr) job.places = places + first;
    job.places_per_row = places_per_row;
    return true;
  }
};

}  // namespace ds4::inline v0_1::kokkos
