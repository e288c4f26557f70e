// Products of training as tasks: matrices in panels, blocks of what is computed.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/product.hpp>

namespace ds4::inline v0_1::simd::training {

///@{
/// The right matrix w^T of y = x w^T, and w of y = x w, in panels.
inline void pack_transposed(Tasks& tasks, float* panels, const float* w, std::size_t cols,
                            std::size_t depth) {
  const TrainingKernels& kernels = tasks.table();
  tasks.by_rows(
      Tasks::parts(cols, kernels.tile_cols), kernels.tile_cols * depth, 0,
      [&](std::size_t begin, std::size_t end, float*) {
        kernels.pack_transposed(panels, w, depth, cols, depth, begin, end);
      },
      1);
}
inline void pack_rows(Tasks& tasks, float* panels, const float* w, std::size_t depth,
                      std::size_t cols) {
  tasks.by_rows(depth, cols, 0, [&](std::size_t begin, std::size_t end, float*) {
    tasks.table().pack_rows(panels, w, cols, cols, depth, begin, end);
  });
}
///@}

/// y = x times what is in panels.
inline void multiply(Tasks& tasks, const Product& p) {
  // Rows of a task, a multiple of every kTileRows: more if there are many, for less traffic.
  constexpr std::size_t kFew = 48;
  constexpr std::size_t kMany = 96;
  const std::size_t step = p.rows < 8 * kMany ? kFew : kMany;
  const std::size_t blocks = Tasks::parts(p.cols, kBlockCols);
  tasks.run(Tasks::parts(p.rows, step) * blocks, 0, [&](std::size_t task, float*) {
    const std::size_t row = task / blocks * step;
    const std::size_t col = task % blocks * kBlockCols;
    tasks.table().multiply(p, row, std::min(p.rows, row + step), col,
                           std::min(p.cols, col + kBlockCols));
  });
}

/// c += a^T b. A small c is computed as a sum over parts of the depth, so that there are tasks.
inline void multiply_transposed(Tasks& tasks, const TransposedProduct& p, std::size_t rows,
                                std::size_t cols, std::size_t depth) {
  constexpr std::size_t kTasks = 8;
  constexpr std::size_t kLeastDepth = 128;
  const TrainingKernels& kernels = tasks.table();
  const std::size_t across = Tasks::parts(cols, kOuterCols);
  const std::size_t blocks = Tasks::parts(rows, kOuterRows) * across;
  const std::size_t wanted =
      std::min(Tasks::parts(kTasks, blocks), Tasks::parts(depth, kLeastDepth));
  const std::size_t step =
      wanted <= 1 ? std::max<std::size_t>(1, depth) : Tasks::parts(depth, wanted);
  const std::size_t count = Tasks::parts(depth, step);
  auto scratch = tasks.scratch();
  float* const sums = count > 1 ? scratch.array(count * rows * cols) : nullptr;
  tasks.run(blocks * count, kernels.transposed_scratch(), [&](std::size_t task, float* memory) {
    const std::size_t part = task / blocks;
    const std::size_t row = task % blocks / across * kOuterRows;
    const std::size_t col = task % blocks % across * kOuterCols;
    TransposedProduct own = p;
    if (count > 1) {
      own.c = sums + part * rows * cols;
      own.c_stride = cols;
      own.add = false;
    }
    kernels.multiply_transposed(own, row, std::min(kOuterRows, rows - row), col,
                                std::min(kOuterCols, cols - col), part * step,
                                std::min(depth, (part + 1) * step), memory);
  });
  if (count <= 1) return;
  tasks.by_rows(rows, cols * count, 0, [&](std::size_t begin, std::size_t end, float*) {
    kernels.add_parts(p.c, sums, count, rows * cols, begin * cols, end * cols);
  });
}

}  // namespace ds4::inline v0_1::simd::training
