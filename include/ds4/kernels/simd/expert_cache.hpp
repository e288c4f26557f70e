// Copies of the experts that are used most, in a limited number of bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <vector>

#include <ds4/kernels/simd/memory.hpp>

namespace ds4::inline v0_1::simd {

/// Which experts have a copy in memory. Uses are counted, older ones less; an expert that is used
/// twice as much as one with a copy takes its place. All experts are of one size.
class ExpertCache {
 public:
  /// Room for copies of `expert_bytes` each in `bytes` together.
  ExpertCache(std::size_t bytes, std::size_t expert_bytes)
      : expert_bytes_(block_size(expert_bytes)),
        places_(bytes / std::max<std::size_t>(expert_bytes_, 1)) {}

  /// Where an expert's copy is.
  struct Place {
    std::byte* copy = nullptr;  ///< null: it has none
    bool is_new = false;        ///< and is to be written now
  };

  /// Copies that are in use stay until the next call.
  void begin_pass() {
    if (++pass_ % kAging != 0) return;
    for (auto& [key, expert] : experts_) expert.uses /= 2;
  }

  /// An expert, known by where its weights are stored, is used by `tokens` tokens of this pass.
  Place use(const std::byte* key, std::size_t tokens) {
    Expert& expert = experts_[key];
    expert.uses += tokens;
    expert.pass = pass_;
    if (expert.copy != nullptr) return {expert.copy, false};
    if (copies_.size() < places_) {
      copies_.push_back({allocate_block(expert_bytes_), &expert});
      expert.copy = copies_.back().memory.get();
      return {expert.copy, true};
    }
    Copy* least = nullptr;
    for (Copy& copy : copies_) {
      if (copy.of->pass == pass_) continue;
      if (least == nullptr || copy.of->uses < least->of->uses) least = &copy;
    }
    // Twice as much: a copy costs more than it saves in a few uses.
    if (least == nullptr || 2 * least->of->uses >= expert.uses) return {};
    least->of->copy = nullptr;
    least->of = &expert;
    expert.copy = least->memory.get();
    return {expert.copy, true};
  }

 private:
  static constexpr std::size_t kAging = 4096;
  struct Expert {
    std::size_t uses = 0;
    std::size_t pass = 0;  // that used it last
    std::byte* copy = nullptr;
  };
  struct Copy {
    MemoryBlock memory;
    Expert* of;  // a node of the map, which stays where it is
  };

  std::size_t expert_bytes_;
  std::size_t places_;
  std::size_t pass_ = 0;
  std::vector<Copy> copies_;
  std::unordered_map<const std::byte*, Expert> experts_;
};

}  // namespace ds4::inline v0_1::simd
