// The compressors' pooling, on a tape.
#pragma once

#include <cassert>
#include <cstddef>

#include <ds4/core/tensor.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape/recorder.hpp>
#include <ds4/train/tape/weights.hpp>

namespace ds4::inline v0_1::tape {

/// Pooling, for a Backend that derives from this and TapeRecorder; see ds4::ops.
template <class Backend, class T>
class CompressorOperations {
 public:
  /// The operation.
  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<T, Width> entries, [[maybe_unused]] std::size_t first,
                    const TapeLog<T, Projected>& kv, const TapeLog<T, Projected>& gate,
                    const TrainedParameter<T, Ratio, Projected>& ape) {
    static_assert(Projected == (Overlapping ? 2 * Width : Width));
    assert(first == 0);
    const PoolShape shape{entries.extent(0), Ratio, Width, Overlapping};
    const auto kv_rows = kv.rows();
    const auto gate_rows = gate.rows();
    const std::size_t pooled = shape.count * Ratio * Projected;
    recorder().compute({.elementwise = 6 * pooled}, [=](auto& kernels) {
      kernels.pool_entries(entries.data(), kv_rows.data(), gate_rows.data(), ape.value, shape);
    });
    recorder().record_from(entries, [=, this](const T* dentries) {
      T* const dgate = recorder().sum_at(gate_rows);
      T* const dkv = recorder().sum_at(kv_rows);
      recorder().compute({.elementwise = 12 * pooled}, [=](auto& kernels) {
        kernels.pool_entries_backward(dkv, dgate, ape.gradient, dentries, kv_rows.data(),
                                      gate_rows.data(), ape.value, shape);
      });
    });
  }

 private:
  Backend& recorder() { return static_cast<Backend&>(*this); }
};

}  // namespace ds4::inline v0_1::tape
