// How the operations of training are cut into tasks, by sizes alone, and their sums put together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>

#include <ds4/kernels/simd/lanes.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/simd/training/workers.hpp>

namespace ds4::inline v0_1::simd::training {

/// Kernels of one instruction set, and the threads that run them. A copy is a handle to the same
/// threads and scratch memory.
class Tasks {
 public:
  ///@{
  /// What rows cost, in values: an exponential beside other operations; and values of a task among
  /// many.
  static constexpr std::size_t kExpCost = 8;
  static constexpr std::size_t kTaskValues = 1 << 14;
  ///@}

  /// Takes its threads; 0: one per processor.
  Tasks(const TrainingKernels& table, std::size_t threads)
      : table_(&table), workers_(std::make_shared<Workers>(threads)) {}

  ///@{
  /// What it is made of.
  std::size_t threads() const { return workers_->threads(); }
  const char* instruction_set() const { return table_->name; }
  const TrainingKernels& table() const { return *table_; }
  ///@}

  /// Memory that tasks share, until it goes out of scope.
  Workers::Scratch scratch() { return Workers::Scratch(*workers_); }

  /// See Workers::run.
  template <class F>
  void run(std::size_t count, std::size_t floats, F&& f) {
    workers_->run(count, floats, f);
  }

  /// Steps that cover `count`.
  static constexpr std::size_t parts(std::size_t count, std::size_t step) {
    return (count + step - 1) / step;
  }
  /// Rows of a task, each of which costs about as much as `cost` values: a multiple of `unit`.
  static constexpr std::size_t row_step(std::size_t rows, std::size_t cost,
                                        std::size_t unit = kMaxLanes) {
    constexpr std::size_t kAloneValues = 1 << 15;  // whose work is less than that of a fork
    if (rows * cost <= kAloneValues) return std::max<std::size_t>(1, rows);
    const std::size_t step = std::max<std::size_t>(1, kTaskValues / std::max<std::size_t>(1, cost));
    return std::min(parts(step, unit) * unit, std::max<std::size_t>(1, rows));
  }

  /// f(begin, end, scratch) for all rows; scratch has `floats` values. See row_step.
  template <class F>
  void by_rows(std::size_t rows, std::size_t cost, std::size_t floats, F&& f,
               std::size_t unit = kMaxLanes) {
    const std::size_t step = row_step(rows, cost, unit);
    run(parts(rows, step), floats, [&](std::size_t task, float* memory) {
      f(task * step, std::min(rows, (task + 1) * step), memory);
    });
  }

  /// f(begin, count) for all of n values.
  template <class F>
  void by_values(std::size_t n, F&& f) {
    run(parts(n, kTaskValues), 0, [&](std::size_t task, float*) {
      f(task * kTaskValues, std::min(kTaskValues, n - task * kTaskValues));
    });
  }

  /// A gradient that is a sum over all rows.
  struct Sum {
    float* to;         ///< += ; or null
    std::size_t size;  ///< values
  };
  /// by_rows for f(begin, end, sums, scratch), where the sums of the rows begin .. end, zeros at
  /// first, lie one behind the other.
  template <class F>
  void sum_by_rows(std::size_t rows, std::size_t cost, std::initializer_list<Sum> of,
                   std::size_t floats, F&& f) {
    constexpr std::size_t kMostParts = 64;
    std::size_t size = 0;
    for (const Sum& sum : of) size += sum.size;
    const std::size_t least = parts(parts(rows, kMostParts), kMaxLanes) * kMaxLanes;
    const std::size_t step = std::max({std::size_t{1}, least, row_step(rows, cost)});
    const std::size_t count = parts(rows, step);
    auto memory = scratch();
    float* const sums = memory.array(count * size);
    run(count, floats, [&](std::size_t task, float* own) {
      table_->zero(sums + task * size, size);
      f(task * step, std::min(rows, (task + 1) * step), sums + task * size, own);
    });
    std::size_t at = 0;
    for (const Sum& sum : of) {
      if (sum.to != nullptr) table_->add_parts(sum.to, sums + at, count, size, 0, sum.size);
      at += sum.size;
    }
  }

  /// Queries of a task that has key gradients of its own.
  static constexpr std::size_t query_step(std::size_t S) {
    constexpr std::size_t kLeast = 128;
    constexpr std::size_t kMostTasks = 16;
    return std::max(kLeast, parts(S, kMostTasks));
  }
  /// A part of a sum over rows: what some queries add to the rows [begin, end).
  struct RowSums {
    float* rows;        ///< [end - begin, width]
    std::size_t begin;  ///< see above
    std::size_t end;    ///< see above
  };
  /// y += all parts, in order.
  void add_row_sums(float* y, const RowSums* sums, std::size_t count, std::size_t width) {
    std::size_t rows = 0;
    for (std::size_t c = 0; c < count; ++c) rows = std::max(rows, sums[c].end);
    by_rows(rows, 4 * width, 0, [&](std::size_t begin, std::size_t end, float*) {
      for (std::size_t c = 0; c < count; ++c) {
        const std::size_t first = std::max(begin, sums[c].begin);
        const std::size_t last = std::min(end, sums[c].end);
        if (first >= last) continue;
        table_->add(y + first * width, sums[c].rows + (first - sums[c].begin) * width,
                    (last - first) * width);
      }
    });
  }

 private:
  const TrainingKernels* table_;
  std::shared_ptr<Workers> workers_;
};

}  // namespace ds4::inline v0_1::simd::training
