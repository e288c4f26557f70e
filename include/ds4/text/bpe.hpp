// Byte-pair merges: which pairs of tokens join, and joining them in order of rank.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace ds4::inline v0_1::detail {

/// Two neighbouring tokens become one. A merge's rank is its place in the list.
struct Merge {
  std::int32_t left;
  std::int32_t right;
  std::int32_t result;
};

/// The merges of a tokenizer, found by pair.
class MergeTable {
 public:
  MergeTable() = default;

  /// Ids are in [0, vocab_size); fewer than 2^32 merges.
  MergeTable(std::vector<Merge> merges, std::size_t vocab_size)
      : merges_(std::move(merges)), begin_(vocab_size + 1) {
    by_pair_.reserve(merges_.size());
    for (std::uint32_t rank = 0; rank < merges_.size(); ++rank) {
      by_pair_.push_back({merges_[rank].right, rank});
      ++begin_[static_cast<std::size_t>(merges_[rank].left) + 1];
    }
    for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
    std::sort(by_pair_.begin(), by_pair_.end(), [&](const Entry& a, const Entry& b) {
      return key(a) != key(b) ? key(a) < key(b) : a.rank < b.rank;
    });
  }

  /// Rank of a merge whose pair an earlier merge has already, if there is one.
  std::optional<std::uint32_t> duplicate() const {
    const auto same = [&](const Entry& a, const Entry& b) { return key(a) == key(b); };
    const auto found = std::adjacent_find(by_pair_.begin(), by_pair_.end(), same);
    if (found == by_pair_.end()) return std::nullopt;
    return (found + 1)->rank;
  }

  /// Rank of the merge of left and right, if there is one.
  std::optional<std::uint32_t> rank(std::int32_t left, std::int32_t right) const {
    const auto first = by_pair_.begin() + begin_[static_cast<std::size_t>(left)];
    const auto last = by_pair_.begin() + begin_[static_cast<std::size_t>(left) + 1];
    const auto found = std::lower_bound(
        first, last, right, [](const Entry& entry, std::int32_t id) { return entry.right < id; });
    if (found == last || found->right != right) return std::nullopt;
    return found->rank;
  }

  const Merge& operator[](std::uint32_t rank) const { return merges_[rank]; }

 private:
  struct Entry {
    std::int32_t right;
    std::uint32_t rank;
  };

  std::pair<std::int32_t, std::int32_t> key(const Entry& entry) const {
    return {merges_[entry.rank].left, entry.right};
  }

  std::vector<Merge> merges_;
  std::vector<std::uint32_t> begin_;  // by_pair_[begin_[i], begin_[i + 1]) have i on the left
  std::vector<Entry> by_pair_;        // sorted by pair
};

/// Applies merges to one sequence after another; holds the working memory.
class Merger {
 public:
  explicit Merger(const MergeTable& table) : table_(&table) {}

  /// Merges ids (fewer than 2^32) until no merge applies, always the one of lowest rank, the
  /// leftmost of equals, and appends what is left to out. O(n log n).
  void merge(std::span<const std::int32_t> ids, std::vector<std::int32_t>& out) {
    const auto n = static_cast<std::uint32_t>(ids.size());
    symbols_.clear();
    candidates_.clear();
    for (std::uint32_t i = 0; i < n; ++i) symbols_.push_back({ids[i], i - 1, i + 1});
    for (std::uint32_t i = 0; i + 1 < n; ++i) propose(i, i + 1);
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
      const std::uint64_t best = candidates_.back();
      candidates_.pop_back();
      apply((*table_)[static_cast<std::uint32_t>(best >> 32)], static_cast<std::uint32_t>(best), n);
    }
    for (std::uint32_t i = 0; i < n; i = symbols_[i].next) out.push_back(symbols_[i].id);
  }

 private:
  struct Symbol {
    std::int32_t id;  // -1: merged into the symbol on its left
    std::uint32_t previous;
    std::uint32_t next;
  };

  /// Rank above, position of the left symbol below: the heap's order is that of merging.
  void propose(std::uint32_t left, std::uint32_t right) {
    const auto rank = table_->rank(symbols_[left].id, symbols_[right].id);
    if (!rank) return;
    candidates_.push_back(std::uint64_t{*rank} << 32 | left);
    std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  }

  void apply(const Merge& merge, std::uint32_t left, std::uint32_t end) {
    Symbol& symbol = symbols_[left];
    if (symbol.id != merge.left || symbol.next >= end) return;  // stale: merged since
    Symbol& taken = symbols_[symbol.next];
    if (taken.id != merge.right) return;
    symbol.id = merge.result;
    symbol.next = taken.next;
    taken.id = -1;
    if (symbol.next < end) {
      symbols_[symbol.next].previous = left;
      propose(left, symbol.next);
    }
    if (left > 0) propose(symbol.previous, left);
  }

  const MergeTable* table_;
  std::vector<Symbol> symbols_;
  std::vector<std::uint64_t> candidates_;  // a heap, smallest first
};

}  // namespace ds4::inline v0_1::detail
