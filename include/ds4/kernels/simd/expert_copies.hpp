// Copies of routed experts in panels, for as many of them as there is room, where they are used.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <ds4/kernels/simd/expert_cache.hpp>
#include <ds4/kernels/simd/linear.hpp>
#include <ds4/kernels/simd/scratch.hpp>

namespace ds4::inline v0_1::simd {

/// An expert of a layer that some tokens of the pass have picked.
struct PickedExpert {
  ProductMatrix w1, w2, w3;
  std::size_t first;  ///< of its places, sorted by expert
  std::size_t count;
};

/// Whose copies all lanes share.
class ExpertCopies {
 public:
  /// Lets experts that have a copy in memory use it, and makes copies where there is room. All
  /// lanes call it with the same experts.
  template <class Lane>
  void use(Lane& lane, Scratch& memory, std::span<PickedExpert> picked) {
    const auto bytes = [&](const ProductMatrix& w) {
      return (lane.kernels().panel_bytes(w.stored) + 63) / 64 * 64;
    };
    const auto bytes_of = [&](const PickedExpert& expert) {
      return bytes(expert.w1) + bytes(expert.w2) + bytes(expert.w3);
    };
    const std::size_t expert_bytes = bytes_of(picked[0]);
    if (lane.memory_left() < expert_bytes) return;
    auto* copies = memory.shared<ExpertCache::Place>(picked.size());
    if (lane.is_leader()) {
      auto& cache = shared_->cache;
      // A pass that an exception has ended may have left copies unwritten.
      if (std::exchange(shared_->is_writing, true)) cache.reset();
      if (!cache) cache.emplace(lane.memory_left(), expert_bytes);
      cache->begin_pass();
      for (std::size_t i = 0; i < picked.size(); ++i) {
        const PickedExpert& expert = picked[i];
        const bool fits = bytes_of(expert) <= expert_bytes;
        copies[i] = fits ? cache->use(expert.w1.stored.values, expert.count) : ExpertCache::Place{};
      }
    }
    lane.wait_for_all();
    for (std::size_t i = lane.index(); i < picked.size(); i += lane.lanes()) {
      if (!copies[i].is_new) continue;
      for (const auto* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) lane.start_reading(*w);
    }
    for (std::size_t i = 0; i < picked.size(); ++i) {
      std::byte* copy = copies[i].copy;
      if (copy == nullptr) continue;
      for (ProductMatrix* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) {
        if (copies[i].is_new) {
          const auto rows = lane.part(w->stored.rows, w->panel_rows);
          lane.kernels().store_in_panels(copy, w->stored, w->panel_rows, rows.begin, rows.end);
        }
        w->panels = copy;
        copy += bytes(*w);
      }
    }
    lane.wait_for_all();
    if (lane.is_leader()) shared_->is_writing = false;
    for (std::size_t i = 0; lane.is_leader() && i < picked.size(); ++i) {
      if (!copies[i].is_new) continue;
      for (const auto* w : {&picked[i].w1, &picked[i].w2, &picked[i].w3}) lane.release(*w);
    }
  }

 private:
  // Only the leader changes it.
  struct Shared {
    std::optional<ExpertCache> cache;
    bool is_writing = false;  // copies that the cache already has
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace ds4::inline v0_1::simd
