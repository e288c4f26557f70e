// A model's weights in the space's memory: their types, and their upload from a checkpoint's.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/kernels/kokkos/launch.hpp>
#include <ds4/kernels/kokkos/memory.hpp>
#include <ds4/kernels/kokkos/packed_matrix.hpp>
#include <ds4/kernels/kokkos/weight_pool.hpp>

namespace ds4::inline v0_1::kokkos {

/// A weight, [kRows, kCols].
template <std::size_t Rows, std::size_t Cols>
struct Matrix : PackedMatrix {
  ///@{
  /// Its extents.
  static constexpr std::size_t kRows = Rows;
  static constexpr std::size_t kCols = Cols;
  ///@}
};

/// A layer's experts, and their matrices side by side for the kernels.
template <class Space, class Expert>
class Experts : public std::vector<Expert> {
 public:
  using std::vector<Expert>::vector;

  /// The three matrices w1, w2, w3 of every expert, on the device.
  const PackedMatrix* table() const { return reinterpret_cast<const PackedMatrix*>(table_.data()); }
  ///@{
  /// Which storages matrix `which` of some expert has, and the bytes of one expert's.
  bool has(std::size_t which, Storage storage) const {
    return (storages_[which] >> static_cast<unsigned>(storage) & 1u) != 0;
  }
  double bytes(std::size_t which) const { return bytes_[which]; }
  ///@}

  /// Makes the table, once all experts are bound.
  void complete(const Space& space) {
    std::vector<PackedMatrix> all;
    for (const Expert& expert : *this) {
      for (const PackedMatrix* w : {static_cast<const PackedMatrix*>(&expert.w1),
                                    static_cast<const PackedMatrix*>(&expert.w2),
                                    static_cast<const PackedMatrix*>(&expert.w3)}) {
        const std::size_t which = all.size() % 3;
        storages_[which] |= 1u << static_cast<unsigned>(w->storage);
        bytes_[which] = static_cast<double>(w->word_bytes() + w->scale_bytes());
        all.push_back(*w);
      }
    }
    const std::size_t bytes = all.size() * sizeof(PackedMatrix);
    table_ = Bytes<Space>("ds4 expert table", bytes);
    copy_to_device(space, table_.data(), all.data(), bytes);
  }

 private:
  Bytes<Space> table_;
  std::array<unsigned, 3> storages_{};
  std::array<double, 3> bytes_{};
};

/// A backend's weights, uploaded once. Copies share them.
template <class Space>
class WeightBinding {
 public:
  /// Told bytes uploaded and bytes in all; whether activations are float32 throughout.
  WeightBinding(typename WeightPool<Space>::Progress progress, bool exact)
      : exact_(exact), weights_(std::make_shared<WeightPool<Space>>(std::move(progress))) {}

  /// Before weights are bound: how many bytes they are in all.
  void expect_weights(std::size_t bytes, bool) { weights_->expect(bytes); }
  /// Bytes of the weights in the space's memory.
  std::size_t weight_bytes() const { return weights_->bytes(); }
  /// Nothing is read from files any more.
  void read_ahead(std::span<const std::span<const std::byte>>) {}

  /// A weight of the model from a checkpoint's: uploaded.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind(const StoredMatrix& stored) {
    if (stored.dtype != DType::f32) reduced_ = true;
    return bind_rows<Rows, Cols>(stored);
  }
  /// One of a routed expert.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    return bind<Rows, Cols>(stored);
  }
  /// One whose rows are looked up, not multiplied.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    return {weights_->upload(backend_of(this).space(), stored)};
  }
  /// A parameter or a table: uploaded.
  template <class P>
  P bind_small(const typename P::Host& values) {
    return P(backend_of(this).space(), values);
  }
  /// All experts of a layer are bound.
  template <class Expert>
  void bind_experts(Experts<Space, Expert>& experts) {
    experts.complete(backend_of(this).space());
  }

  /// Whether the activations of BF16 matrices stay float32.
  bool is_exact() const { return exact_; }
  /// The type of new states' rows that may be rounded.
  DType row_type() const { return reduced_ && !exact_ ? DType::bf16 : DType::f32; }

 private:
  bool exact_;
  bool reduced_ = false;  // some weight is stored in less than float32
  std::shared_ptr<WeightPool<Space>> weights_;
};

}  // namespace ds4::inline v0_1::kokkos
