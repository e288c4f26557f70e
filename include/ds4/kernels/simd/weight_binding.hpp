// Weights of the SIMD backend: kept in memory, in panels, as far as they fit, and otherwise left in
// the mapped files and read ahead of their use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/linear.hpp>
#include <ds4/kernels/simd/memory.hpp>
#include <ds4/kernels/simd/sizes.hpp>
#include <ds4/kernels/simd/weight_pool.hpp>

namespace ds4::inline v0_1::simd {

/// A weight, [kRows, kCols].
template <std::size_t Rows, std::size_t Cols>
struct BoundMatrix : ProductMatrix {
  ///@{
  /// Its extents.
  static constexpr std::size_t kRows = Rows;
  static constexpr std::size_t kCols = Cols;
  ///@}
};

/// The part of a backend that binds weights; Backend derives from it and from Lane.
template <class Backend>
class WeightBinding {
 public:
  /// Keeps weights of up to `budget` bytes; see SimdOptions.
  explicit WeightBinding(std::optional<std::size_t> budget)
      : budget_(budget),
        pool_(std::make_shared<WeightPool>()),
        mapped_(std::make_shared<MappedWeights>()) {}

  /// Before weights are bound: how many bytes they are in all, and whether the system tells which
  /// of them are in memory.
  void expect_weights(std::size_t bytes, bool tells_residency) {
    const std::size_t available = available_memory();
    if (bytes > available) pass_memory_ = available / kPassShare;
    if (!budget_) budget_ = bytes <= available / 2 ? kAll : 0;
    if (*budget_ > bytes + bytes / 8) budget_ = kAll;  // panels are padded
    mapped_->tells_residency = tells_residency;
    pool_->expect(std::min(*budget_, bytes));
  }

  /// A weight of the model from a checkpoint's, or some of its rows.
  template <std::size_t Rows, std::size_t Cols>
  BoundMatrix<Rows, Cols> bind(const StoredMatrix& stored) {
    if (stored.dtype != DType::f32) reduced_ = true;
    BoundMatrix<Rows, Cols> matrix;
    matrix.stored = stored;
    // A matrix of few rows is cut so that every lane has some.
    const std::size_t threads = lane().threads();
    matrix.panel_rows =
        std::clamp<std::size_t>((stored.rows + threads - 1) / threads, 1, kPanelRows);
    const Kernels& kernels = lane().kernels();
    const std::size_t bytes = kernels.panel_bytes(stored);
    const std::size_t growth = pool_->growth(bytes);
    if (bytes > memory_left() || growth > memory_left()) {
      mapped_->any = true;
      return matrix;
    }
    if (*budget_ != kAll) *budget_ -= growth;
    std::byte* panels = pool_->allocate(bytes);
    kernels.store_in_panels(panels, stored, matrix.panel_rows, 0, stored.rows);
    matrix.panels = panels;
    release(matrix);
    return matrix;
  }
  /// A weight of a routed expert: kept if all are; otherwise the experts share what the others
  /// leave of the budget.
  template <std::size_t Rows, std::size_t Cols>
  BoundMatrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    const std::optional<std::size_t> budget = budget_;
    if (budget != kAll) budget_ = 0;
    const auto matrix = bind<Rows, Cols>(stored);
    budget_ = budget;
    return matrix;
  }
  /// All experts of a layer are bound.
  template <class Expert>
  void bind_experts(std::vector<Expert>&) {}
  /// A weight whose rows are looked up, not multiplied.
  template <std::size_t Rows, std::size_t Cols>
  BoundMatrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    BoundMatrix<Rows, Cols> matrix;
    matrix.stored = stored;
    return matrix;
  }

  /// These bytes of mapped files are wanted soon. Does nothing while all that is wanted has turned
  /// out to be in memory.
  void read_ahead(std::span<const std::span<const std::byte>> ranges) {
    if (!lane().is_leader() || !mapped_->any || !mapped_->cold) return;
    for (const auto& range : ranges) {
      simd::start_reading(range.data(), range.size(), mapped_->tells_residency);
    }
  }

  ///@{
  /// For the operations: a weight's bytes in the mapped file are wanted soon; they are not wanted
  /// any more.
  void start_reading(const ProductMatrix& w) const {
    simd::start_reading(w.stored.values, value_bytes(w.stored), mapped_->tells_residency);
  }
  void release(const ProductMatrix& w) const {
    release_mapped(w.stored.values, value_bytes(w.stored));
  }
  /// What is left of the budget.
  std::size_t memory_left() const { return budget_.value_or(0); }
  /// Bytes of activations that a pass may take: an eighth of the memory where the weights are
  /// larger than memory, so that each pass reads them from the disk again; 0 where they are not.
  std::size_t pass_memory() const { return pass_memory_; }
  /// The type of new states' rows that may be rounded.
  DType row_type() const { return reduced_ && !lane().exact() ? DType::bf16 : DType::f32; }
  ///@}

 protected:
  /// What passes of another team change is no longer this backend's: nothing is left of the budget,
  /// which that team has for copies of experts.
  void leave_team() {
    if (budget_ != kAll) budget_ = 0;
    auto mapped = std::make_shared<MappedWeights>();
    mapped->any = mapped_->any;
    mapped->tells_residency = mapped_->tells_residency;
    mapped_ = std::move(mapped);
  }
  /// Before a pass: finds out whether something had to be waited for in the one before.
  void note_waits() {
    if (!mapped_->any) return;
    const std::size_t waits = pages_waited_for();
    mapped_->cold = waits != std::exchange(mapped_->waits, waits);
  }

 private:
  static constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t kPassShare =
      8;  // what is left of the memory holds pages of the files
  /// What is known of weights that are not in panels; only the leader changes it during a pass.
  struct MappedWeights {
    bool any = false;
    bool tells_residency = true;
    bool cold = true;          // something had to be waited for in the pass before
    std::size_t waits = kAll;  // pages_waited_for() then
  };

  Backend& lane() { return static_cast<Backend&>(*this); }
  const Backend& lane() const { return static_cast<const Backend&>(*this); }

  std::size_t value_bytes(const StoredMatrix& stored) const {
    return stored.rows * lane().kernels().row_bytes(stored);
  }

  std::optional<std::size_t> budget_;  // what is left of it; kAll: all weights
  std::size_t pass_memory_ = 0;
  std::shared_ptr<WeightPool> pool_;
  std::shared_ptr<MappedWeights> mapped_;
  bool reduced_ = false;  // some weight is stored in less than float32
};

}  // namespace ds4::inline v0_1::simd
