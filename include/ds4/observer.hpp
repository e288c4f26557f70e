// A host application's view into a forward pass: the intermediate results of every stage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ds4::inline v0_1 {

/// Called during a pass with each stage's result, row-major with one leading row per token (or per
/// new compressed entry). Names are those of the golden data, e.g. "attn.q_rope". The memory is the
/// pass's own and only valid during the call. T is the backend's scalar.
template <class T>
class StageObserver {
 public:
  virtual ~StageObserver() = default;
  /// Numbers, e.g. "attn.q_rope" [S, H, d].
  virtual void values(std::size_t layer, std::string_view stage, std::span<const T> values) = 0;
  /// Indices: "mlp.router_indices" [S, k] and "indexer.topk" [S, index_topk], -1 for none.
  virtual void indices(std::size_t layer, std::string_view stage,
                       std::span<const std::int32_t> indices) = 0;
};

}  // namespace ds4::inline v0_1
