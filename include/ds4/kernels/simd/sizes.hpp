// Sizes that kernels and what they work on agree on, apart from both so that a plan of the memory
// that they take needs neither.
#pragma once

#include <cstddef>

namespace ds4::inline v0_1::simd {

/// Rows of a panel of weights; see panel.hpp.
inline constexpr std::size_t kPanelRows = 32;
/// Bytes of a word.
inline constexpr std::size_t kWord = 4;
/// Words of a block: its sums are rounded into y, and it stays in the first-level cache.
inline constexpr std::size_t kBlockWords = 128;
/// What a panel's reader may touch behind its end.
inline constexpr std::size_t kPanelSlack = kPanelRows * kWord;
/// Words of FP4's scales that are transposed at once where the rows are not in panels.
inline constexpr std::size_t kScaleWords = 16;
/// Values up to which every lane lays out tokens for itself rather than wait for the others.
inline constexpr std::size_t kPrivateLayout = 1 << 14;

/// Keys of a tile of attention, and heads that share it; see attention.hpp.
inline constexpr std::size_t kKeyTile = 256;
inline constexpr std::size_t kHeadGroup = 8;
/// Float32 lanes of the widest vector.
inline constexpr std::size_t kMaxLanes = 16;

/// Keys of a block of the indexer, and heads of a query side by side; see indexer.hpp.
inline constexpr std::size_t kKeyBlock = 16;
inline constexpr std::size_t kQueryHeads = 16;

/// Rows of an allocation of a state's logs: keys, tails, and key blocks of the indexer.
inline constexpr std::size_t kKeyLogRows = 64;
inline constexpr std::size_t kTailLogRows = 16;
inline constexpr std::size_t kIndexLogBlocks = 8;

}  // namespace ds4::inline v0_1::simd
