// Training: norms, rotations, activations, sums and rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd::training {

/// What works on values or rows alone; see ReferenceTraining. Training derives from this and from
/// Tasks.
template <class Training>
class ElementwiseOperations {
 public:
  ///@{
  /// The operations.
  void rms_norm(float* y, const float* x, const float* weight, std::size_t rows, std::size_t n,
                double eps) {
    tasks().by_rows(rows, n, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().rms_norm(y + begin * n, x + begin * n, weight, end - begin, n,
                         static_cast<float>(eps));
    });
  }
  void rms_norm_backward(float* dx, float* dweight, const float* dy, const float* x,
                         const float* weight, std::size_t rows, std::size_t n, double eps) {
    tasks().sum_by_rows(rows, 2 * n, {{dweight, n}}, 0,
                        [&](std::size_t begin, std::size_t end, float* sums, float*) {
                          kernels().rms_norm_backward(
                              dx + begin * n, dweight == nullptr ? nullptr : sums, dy + begin * n,
                              x + begin * n, weight, end - begin, n, static_cast<float>(eps));
                        });
  }

  void swiglu(float* y, const float* gate, const float* up, std::size_t n, double limit) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().swiglu(y + begin, gate + begin, up + begin, count, static_cast<float>(limit));
    });
  }
  void swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate,
                       const float* up, std::size_t n, double limit) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().swiglu_backward(dgate + begin, dup + begin, dy + begin, gate + begin, up + begin,
                                count, static_cast<float>(limit));
    });
  }

  void rotary_table(float* cos, float* sin, std::size_t first, std::size_t step, std::size_t S,
                    const double* inv_freq, std::size_t pairs) {
    constexpr std::size_t kCost = 16;  // of a cosine and a sine
    tasks().by_rows(S, kCost * pairs, 0, [&](std::size_t begin, std::size_t end, float*) {
      reference::rotary_table(cos + begin * pairs, sin + begin * pairs, first + begin * step, step,
                              end - begin, inv_freq, pairs);
    });
  }
  void rotate(float* x, const float* cos, const float* sin, std::size_t S, std::size_t heads,
              std::size_t d, std::size_t pairs, bool inverse) {
    tasks().by_rows(S, 2 * pairs * heads, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().rotate(x, cos, sin, heads, d, pairs, inverse, begin, end);
    });
  }

  void embed(float* x, const std::int32_t* ids, const float* table, std::size_t S, std::size_t N,
             std::size_t D) {
    tasks().by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().take_rows(x, table, ids, N, D, begin, end);
    });
  }
  void embed_backward(float* dtable, const float* dx, const std::int32_t* ids, std::size_t S,
                      std::size_t N, std::size_t D) {
    add_rows(dtable, dx, ids, S, N, D);
  }

  void take_rows(float* y, const float* x, const std::int32_t* rows, std::size_t count,
                 std::size_t width) {
    embed(y, rows, x, count, 1, width);
  }
  void take_rows_backward(float* dx, const float* dy, const std::int32_t* rows, std::size_t count,
                          std::size_t width) {
    add_rows(dx, dy, rows, count, 1, width);
  }

  void add(float* y, const float* x, std::size_t n) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().add(y + begin, x + begin, count);
    });
  }
  void copy(float* y, const float* x, std::size_t n) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().copy(y + begin, x + begin, count);
    });
  }
  void zero(float* y, std::size_t n) {
    tasks().by_values(
        n, [&](std::size_t begin, std::size_t count) { kernels().zero(y + begin, count); });
  }

  void scale(float* y, double factor, std::size_t n) {
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      kernels().combine(y + begin, 0.0f, y + begin, static_cast<float>(factor), count);
    });
  }
  double sum_of_squares(const float* x, std::size_t n) {
    Workers::Scratch scratch = tasks().scratch();
    double* const sums = scratch.array<double>(Tasks::parts(n, Tasks::kTaskValues));
    tasks().by_values(n, [&](std::size_t begin, std::size_t count) {
      sums[begin / Tasks::kTaskValues] = kernels().sum_of_squares(x + begin, count);
    });
    return std::accumulate(sums, sums + Tasks::parts(n, Tasks::kTaskValues), 0.0);
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }

  // y[rows[i], :] += sum_n x[i, n, :]. A row may be there often, so tasks are of columns.
  void add_rows(float* y, const float* x, const std::int32_t* rows, std::size_t count,
                std::size_t copies, std::size_t width) {
    constexpr std::size_t kCols = 64;
    tasks().run(Tasks::parts(width, kCols), 0, [&](std::size_t task, float*) {
      kernels().add_rows(y, x, rows, count, copies, width, task * kCols,
                         std::min(width, (task + 1) * kCols));
    });
  }
};

}  // namespace ds4::inline v0_1::simd::training
