// One forward pass: what every layer needs to know about the tokens it is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/layers/stop.hpp>

namespace ds4::inline v0_1 {

/// A part of a pass, marked for the backend's own tools and for the observer, if there is one, for
/// as long as the object lives.
template <Backend B>
class PassRegion {
 public:
  /// Who is told.
  using Observer = StageObserver<typename B::Scalar>;

  /// A region.
  PassRegion(B& backend, Observer* observer, std::string_view name)
      : backend_(backend), observer_(observer), marked_(backend.region(name)) {
    if (is_told()) observer_->begin_region(name);
  }
  /// A layer.
  PassRegion(B& backend, Observer* observer, const LayerInfo& layer)
      : backend_(backend),
        observer_(observer),
        marked_(backend.region("layers.", layer.layer, " ", name_of(layer.attention), " ",
                               name_of(layer.router))) {
    if (is_told()) observer_->begin_layer(layer);
  }
  /// A whole pass.
  PassRegion(B& backend, Observer* observer, std::span<const Segment> segments, std::size_t logits)
      : backend_(backend), observer_(observer), marked_(backend.region("pass")) {
    if (is_told()) observer_->begin_pass(segments, logits);
  }
  PassRegion(const PassRegion&) = delete;
  PassRegion& operator=(const PassRegion&) = delete;
  ~PassRegion() {
    if (observer_ == nullptr) return;
    // Lanes that an exception ends do not meet here. One that meets them because the exception is
    // another lane's finds out at the next operation.
    if (std::uncaught_exceptions() == exceptions_) {
      try {
        backend_.wait_for_all();
      } catch (...) {  // NOLINT(bugprone-empty-catch)
      }
    }
    if (backend_.is_leader()) observer_->end();
  }

 private:
  bool is_told() const { return observer_ != nullptr && backend_.is_leader(); }

  B& backend_;
  Observer* observer_;
  int exceptions_ = std::uncaught_exceptions();
  decltype(std::declval<B&>().region("")) marked_;
};

/// The rotary table [S, r/2] of a pass over these segments for layers of this kind, in scratch
/// memory.
template <ModelConfig C, Backend B, class Scratch>
RotaryTable<typename B::Element, C::qk_rope_head_dim / 2> rotary_of(
    B& backend, Scratch& scratch, std::span<const Segment> segments, AttentionKind kind) {
  constexpr std::size_t kPairs = C::qk_rope_head_dim / 2;
  using Table = RotaryTable<typename B::Element, kPairs>;
  const std::size_t S = segments.back().first + segments.back().count;
  const Table rotary{scratch.template rows<kPairs>(S), scratch.template rows<kPairs>(S)};
  for (const Segment& segment : segments) {
    ops::rotary_table(backend,
                      Table{rotary.cos.rows(segment.first, segment.count),
                            rotary.sin.rows(segment.first, segment.count)},
                      segment.position, 1, rotary_frequencies<C>(kind));
  }
  return rotary;
}

/// The tokens of one pass, S rows from one or more sequences, and the tables they share.
/// Source: model.md 2.
template <ModelConfig C, Backend B>
struct Pass {
  ///@{
  /// Types.
  using Scalar = typename B::Scalar;
  using Rotary = RotaryTable<typename B::Element, C::qk_rope_head_dim / 2>;
  ///@}

  B& backend;                              ///< this lane's
  std::span<const typename B::Index> ids;  ///< [S]
  std::span<const Segment> segments;       ///< cover the S rows in order
  Rotary main;                             ///< rope_theta, for sliding layers
  Rotary compress;  ///< compress_rope_theta with YaRN, for CSA and HCA layers
  StageObserver<Scalar>* observer = nullptr;  ///< or null
  std::size_t layer = 0;                      ///< the running layer's number
  const StopCheck* stop = nullptr;            ///< or null: nothing stops it

  /// S, the tokens of the pass.
  std::size_t rows() const { return ids.size(); }

  /// The table that a layer of this kind uses.
  const Rotary& rotary(AttentionKind kind) const {
    return kind == AttentionKind::sliding ? main : compress;
  }

  /// Marks a part of the pass. Throws Stopped on the leader if it is to end here.
  PassRegion<B> region(std::string_view name) const {
    if (stop != nullptr) detail::look_for_stop(*stop, backend);
    return {backend, observer, name};
  }
  /// The same for a layer.
  PassRegion<B> region(const LayerInfo& info) const {
    if (stop != nullptr) detail::look_for_stop(*stop, backend);
    return {backend, observer, info};
  }

  /// Shows a stage's result to the observer, if there is one that wants it.
  template <class T, std::size_t... E>
  void observe(std::string_view stage, RowsView<T, E...> view) const {
    if (observer == nullptr || !observer->wants(layer, stage)) return;
    backend.show(view.as_const().flat(), [&](auto shown) {
      if constexpr (std::is_same_v<decltype(shown), std::span<const std::int32_t>>) {
        observer->indices(layer, stage, shown);
      } else {
        observer->values(layer, stage, shown);
      }
    });
  }
};

}  // namespace ds4::inline v0_1
