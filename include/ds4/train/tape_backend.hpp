// The backend that trains: it runs the layers as they are written and records every operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ds4/core/tensor.hpp>
#include <ds4/train/tape/attention.hpp>
#include <ds4/train/tape/compressor.hpp>
#include <ds4/train/tape/elementwise.hpp>
#include <ds4/train/tape/experts.hpp>
#include <ds4/train/tape/hyper_connection.hpp>
#include <ds4/train/tape/indexer.hpp>
#include <ds4/train/tape/linear.hpp>
#include <ds4/train/tape/loss.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/router.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1 {

/// Runs a pass with kernels K (ReferenceTraining, SimdTraining) on a tape. See Backend; its bases
/// have the operations of a pass that starts at the first token of each of its sequences, as
/// ds4::ops has them, and with each its way back and what both cost.
template <class K>
class TapeBackend : public TapeRecorder<K>,
                    public tape::LinearOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::ElementwiseOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::HyperConnectionOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::CompressorOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::IndexerOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::AttentionOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::RouterOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::ExpertOperations<TapeBackend<K>, typename K::Scalar>,
                    public tape::LossOperations<TapeBackend<K>, typename K::Scalar> {
  using T = typename K::Scalar;

 public:
  ///@{
  /// See Backend.
  using Scalar = T;
  using Element = T;
  using Index = std::int32_t;
  template <std::size_t Rows, std::size_t Cols>
  using Matrix = TrainedMatrix<T, Rows, Cols>;
  template <std::size_t... E>
  using Parameter = TrainedParameter<T, E...>;
  template <std::size_t V, std::size_t k>
  using HashTable = Tensor<std::int32_t, V, k>;
  template <std::size_t Width>
  using RowLog = TapeLog<T, Width>;
  template <std::size_t Width>
  using KeyLog = RowLog<Width>;
  template <std::size_t Width>
  using IndexLog = RowLog<Width>;
  template <class Expert>
  using Experts = std::vector<Expert>;
  ///@}

  /// Nothing is recorded yet.
  explicit TapeBackend(K kernels = K()) : TapeRecorder<K>(std::move(kernels)) {}
  TapeBackend(const TapeBackend&) = delete;
  TapeBackend& operator=(const TapeBackend&) = delete;

  /// Activations. Their memory stays until the tape releases it: the way back needs it.
  class Scratch {
   public:
    /// In the memory of the backend's tape.
    explicit Scratch(TapeBackend& backend) : tape_(&backend.tape()) {}
    ///@{
    /// As Reference::Scratch has it.
    template <std::size_t... E>
    RowsView<T, E...> rows(std::size_t S) {
      return {tape_->allocate(S * (E * ... * 1)), S};
    }
    template <std::size_t... E>
    RowsView<std::int32_t, E...> indices(std::size_t S) {
      return {tape_->allocate_indices(S * (E * ... * 1)), S};
    }
    template <class Item>
    std::span<Item> array(std::size_t count) {
      auto items = std::make_shared<std::vector<Item>>(count);
      arrays_.push_back(items);
      return *items;
    }
    ///@}

   private:
    Tape<T>* tape_;
    std::vector<std::shared_ptr<void>> arrays_;
  };
  /// See Scratch.
  Scratch scratch() { return Scratch(*this); }
  ///@{
  /// Of the tape, which stays: the gradients are made from it.
  std::size_t scratch_bytes() const { return this->tape().held_bytes(); }
  void release_scratch() {}
  ///@}

  ///@{
  /// One lane, the calling thread; the kernels have threads of their own.
  template <class F>
  void run(F&& f) {
    f(*this);
  }
  bool is_leader() const { return true; }
  void wait_for_all() {}
  template <class Item, class F>
  void show(std::span<const Item> values, F&& f) {
    f(values);
  }
  template <class... Parts>
  int region(const Parts&...) {
    return 0;
  }
  ///@}

  ///@{
  /// The logs.
  template <std::size_t Width>
  void append(RowLog<Width>& log, RowsView<const T, Width> rows) {
    log.append(rows);
  }
  template <class Log>
  void forget_before(Log&, std::size_t) {}  // the way back needs all
  ///@}
};

}  // namespace ds4::inline v0_1
