// How operations run on a tape: computed, or counted, and recorded with their ways back.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/cost.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/train/tape.hpp>

namespace ds4::inline v0_1 {

/// Sums of the losses that arise inside layers, before any weight.
struct LossSums {
  double balance = 0.0;  ///< over the sequences and the learned-routed layers
  double indexer = 0.0;  ///< over the queries and the CSA layers
};

/// What the operations of a TapeBackend share: the kernels K, the tape, the pass under way, and how
/// to record.
template <class K>
class TapeRecorder {
  using T = typename K::Scalar;

 public:
  /// Weights of the losses that arise inside layers; 0 leaves one out.
  struct LossWeights {
    double balance = 0.0;  ///< of a sequence's balance loss
    double indexer = 0.0;  ///< of a query's divergence
  };

  /// Nothing is recorded yet.
  explicit TapeRecorder(K kernels) : kernels_(std::move(kernels)), tape_(K::kDry) {}

  ///@{
  /// What it is made of.
  K& kernels() { return kernels_; }
  Tape<T>& tape() { return tape_; }
  const Tape<T>& tape() const { return tape_; }
  ///@}

  /// Before a pass: see set_segments.
  void begin_pass(std::span<const Segment> segments, const LossWeights& weights) {
    segments_ = segments;
    weights_ = weights;
    losses_ = {};
  }
  ///@{
  /// The sequences of the operations that follow; they have to live until these have gone back.
  void set_segments(std::span<const Segment> segments) { segments_ = segments; }
  std::span<const Segment> segments() const { return segments_; }
  ///@}
  ///@{
  /// The weights of the pass, and the sums of these losses, which are made while going back.
  const LossWeights& loss_weights() const { return weights_; }
  LossSums& losses() { return losses_; }
  ///@}
  ///@{
  /// Whether operations are recorded, until the next call.
  void set_recording(bool recording) { recording_ = recording; }
  bool recording() const { return recording_; }
  ///@}

  /// f(kernels); kernels that are dry are told its cost instead.
  template <class F>
  void compute(const OperationCost& cost, F&& f) {
    if constexpr (K::kDry) {
      kernels_.count(cost);
    } else {
      f(kernels_);
    }
  }
  ///@{
  /// For n values: y = x; y = 0.
  void copy(T* y, const T* x, std::size_t n) {
    compute({}, [=](auto& kernels) { kernels.copy(y, x, n); });
  }
  void zero(T* y, std::size_t n) {
    compute({}, [=](auto& kernels) { kernels.zero(y, n); });
  }
  ///@}
  /// The values of x as they are now, for a way back: a copy, if operations are recorded.
  template <std::size_t... E>
  const T* kept_copy(RowsView<T, E...> x) {
    if (!recording_) return x.data();
    T* const kept = tape_.allocate(x.size(), false);
    copy(kept, x.data(), x.size());
    return kept;
  }

  /// Appends a way back if operations are recorded.
  template <class F>
  void record(F&& back) {
    if (recording_) tape_.record(std::forward<F>(back));
  }
  /// The way back of an operation that wrote all of y: back(dy), if anything has reached y. If it
  /// read y as well, y's gradient starts anew.
  template <std::size_t... E, class F>
  void record_from(RowsView<T, E...> y, F back) {
    record([=, this] {
      const auto dy = tape_.take_gradient(y.data());
      if (dy.get() != nullptr) back(static_cast<const T*>(dy.get()));
    });
  }
  /// Where the gradient of x goes, for kernels that can set it; zeros otherwise.
  template <std::size_t... E>
  typename Tape<T>::Target target(RowsView<const T, E...> x) {
    return tape_.target(x.data(), x.size(), [&](T* p, std::size_t n) { zero(p, n); });
  }
  ///@{
  /// Where the gradient of x is to be added, or null.
  template <std::size_t... E>
  T* sum_at(RowsView<const T, E...> x) {
    const auto [at, set] = target(x);
    if (set) zero(at, x.size());
    return at;
  }
  template <std::size_t... E>
  T* sum_at(RowsView<T, E...> x) {
    return sum_at(x.as_const());
  }
  ///@}

 private:
  K kernels_;
  Tape<T> tape_;
  bool recording_ = true;
  std::span<const Segment> segments_;
  LossWeights weights_;
  LossSums losses_;
};

}  // namespace ds4::inline v0_1
