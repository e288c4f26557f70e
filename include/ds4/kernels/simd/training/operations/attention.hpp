// Training: attention.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ds4/config/config.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1::simd::training {

/// Attention; see ReferenceTraining. Training derives from this and from Tasks.
template <class Training>
class AttentionOperations {
 public:
  ///@{
  /// The operations.
  void attend(float* out, float* received, const float* q, const float* sink, const float* window,
              const float* entries, const std::int32_t* picks, const AttentionShape& shape) {
    constexpr std::size_t kStep = 16;
    tasks().run(Tasks::parts(shape.S, kStep), kernels().attention_scratch(shape),
                [&](std::size_t task, float* memory) {
                  kernels().attend(out, received, q, sink, window, entries, picks, shape,
                                   task * kStep, std::min(shape.S, (task + 1) * kStep), memory);
                });
  }
  void attend_backward(float* dq, float* dsink, float* dwindow, float* dentries, const float* dout,
                       const float* q, const float* sink, const float* window, const float* entries,
                       const std::int32_t* picks, const AttentionShape& shape) {
    Workers::Scratch scratch = tasks().scratch();
    const std::size_t step = Tasks::query_step(shape.S);
    const std::size_t count = Tasks::parts(shape.S, step);
    Tasks::RowSums* const of_window = scratch.array<Tasks::RowSums>(count);
    Tasks::RowSums* const of_entries = scratch.array<Tasks::RowSums>(count);
    float* const of_sink = scratch.array(count * shape.H);
    // The window's rows and the entries that the queries before `end` see, from `begin` on.
    const auto window_of = [&](std::size_t begin, std::size_t end) -> Tasks::RowSums {
      if (shape.whole) return {nullptr, 0, shape.W};
      return {nullptr, begin + 1 - std::min(begin + 1, shape.W), end};
    };
    const auto entries_of = [&](std::size_t end) {
      if (shape.whole) return shape.keys;
      return shape.kind == AttentionKind::sliding ? 0 : std::min(shape.keys, end / shape.ratio);
    };
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t end = std::min(shape.S, (c + 1) * step);
      of_window[c] = window_of(c * step, end);
      of_window[c].rows = scratch.array((of_window[c].end - of_window[c].begin) * shape.d);
      const std::size_t seen = entries_of(end);
      of_entries[c] = {scratch.array(seen * shape.d), 0, seen};
    }
    tasks().run(count, kernels().attention_scratch(shape), [&](std::size_t c, float* memory) {
      const Tasks::RowSums& rows = of_window[c];
      kernels().zero(rows.rows, (rows.end - rows.begin) * shape.d);
      kernels().zero(of_entries[c].rows, of_entries[c].end * shape.d);
      kernels().zero(of_sink + c * shape.H, shape.H);
      kernels().attend_backward(
          dq, of_sink + c * shape.H, {rows.rows, rows.begin, of_entries[c].rows}, dout, q, sink,
          window, entries, picks, shape, c * step, std::min(shape.S, (c + 1) * step), memory);
    });
    kernels().add_parts(dsink, of_sink, count, shape.H, 0, shape.H);
    tasks().add_row_sums(dwindow, of_window, count, shape.d);
    tasks().add_row_sums(dentries, of_entries, count, shape.d);
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }
};

}  // namespace ds4::inline v0_1::simd::training
