// A host application's view into a forward pass: its parts, and the intermediate results of every
// stage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <ds4/config/config.hpp>
#include <ds4/kernels/ops.hpp>

namespace ds4::inline v0_1 {

/// A decoder layer as a pass runs it.
struct LayerInfo {
  std::size_t layer;           ///< its number
  std::size_t compress_ratio;  ///< 0, or the tokens to an entry
  AttentionKind attention;     ///< what its queries see
  RouterKind router;           ///< how its experts are picked
};

/// Whether a stage comes behind the layers.
inline bool is_of_head(std::string_view stage) {
  return stage == "hc_head" || stage == "final_norm" || stage == "logits";
}

/// Called during a pass with each stage's result, row-major with one leading row per token (or per
/// new compressed entry). Names are those of the golden data, e.g. "attn.q_rope". The memory is the
/// pass's own and only valid during the call. T is the backend's scalar.
///
/// The parts of a pass are announced as well: the pass, its layers, and the regions "embed" and
/// "head" and, inside layers, "hyper_connection", "mix_streams", "attention", "compressor",
/// "indexer", "attend", "moe", "router", "experts" and "shared_expert". Each begin... has its
/// end(), when all of the part's work is done. The calls come in order, from one thread. What one
/// of them throws ends the pass, and comes out of the call of the model: the parts that are open
/// get their end(), and the state is lost unless a StopCheck was given.
template <class T>
class StageObserver {
 public:
  virtual ~StageObserver() = default;
  /// Numbers, e.g. "attn.q_rope" [S, H, d].
  virtual void values(std::size_t layer, std::string_view stage, std::span<const T> values) = 0;
  /// Indices: "mlp.router_indices" [S, k] and "indexer.topk" [S, index_topk], -1 for none.
  virtual void indices(std::size_t layer, std::string_view stage,
                       std::span<const std::int32_t> indices) = 0;

  /// Whether a stage is to be shown: what is not wanted costs nothing. Asked from all threads of a
  /// backend; the answer must not change during a pass.
  virtual bool wants(std::size_t /*layer*/, std::string_view /*stage*/) const { return true; }

  /// A pass over these segments, of which `logits` rows reach the head.
  virtual void begin_pass(std::span<const Segment> /*segments*/, std::size_t /*logits*/) {}
  /// A layer begins.
  virtual void begin_layer(const LayerInfo& /*layer*/) {}
  /// A region begins.
  virtual void begin_region(std::string_view /*name*/) {}
  /// The part that began last and has not ended is done.
  virtual void end() noexcept {}
};

}  // namespace ds4::inline v0_1
