// Training: the residual streams and their hyper-connections.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/kernels/simd/training/operations/tasks.hpp>
#include <ds4/kernels/simd/training/table.hpp>

namespace ds4::inline v0_1::simd::training {

/// What reads and writes the streams; see ReferenceTraining. Training derives from this and from
/// Tasks.
template <class Training>
class HyperConnectionOperations {
 public:
  ///@{
  /// The operations.
  void hyper_connection_weights(float* pre, float* post, float* comb, const float* u,
                                const float* base, const float* scale, std::size_t S, std::size_t N,
                                std::size_t iters, double eps) {
    tasks().by_rows(S, connection_cost(N, iters), kernels().connection_scratch(N),
                    [&](std::size_t begin, std::size_t end, float* scratch) {
                      kernels().hyper_connection_weights(pre, post, comb, u, base, scale, N, iters,
                                                         static_cast<float>(eps), begin, end,
                                                         scratch);
                    });
  }
  void hyper_connection_weights_backward(float* du, float* dbase, float* dscale, const float* dpre,
                                         const float* dpost, const float* dcomb, const float* u,
                                         const float* base, const float* scale, std::size_t S,
                                         std::size_t N, std::size_t iters, double eps) {
    const std::size_t width = (2 + N) * N;
    tasks().sum_by_rows(S, 2 * connection_cost(N, iters), {{dbase, width}, {dscale, 3}},
                        kernels().connection_backward_scratch(N, iters),
                        [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                          kernels().hyper_connection_weights_backward(
                              du, sums, sums + width, dpre, dpost, dcomb, u, base, scale, N, iters,
                              static_cast<float>(eps), begin, end, scratch);
                        });
  }
  void hyper_head_weights(float* pre, const float* u, const float* base, const float* scale,
                          std::size_t S, std::size_t N, double eps) {
    tasks().by_rows(S, Tasks::kExpCost * N, 3 * N * kMaxLanes,
                    [&](std::size_t begin, std::size_t end, float* scratch) {
                      kernels().hyper_head_weights(pre, u, base, scale, N, static_cast<float>(eps),
                                                   begin, end, scratch);
                    });
  }
  void hyper_head_weights_backward(float* du, float* dbase, float* dscale, const float* dpre,
                                   const float* u, const float* base, const float* scale,
                                   std::size_t S, std::size_t N) {
    tasks().sum_by_rows(S, Tasks::kExpCost * N, {{dbase, N}, {dscale, 1}}, 3 * N * kMaxLanes,
                        [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                          kernels().hyper_head_weights_backward(du, sums, sums + N, dpre, u, base,
                                                                scale, N, begin, end, scratch);
                        });
  }

  void mean_streams(float* y, const float* X, std::size_t S, std::size_t M, std::size_t N,
                    std::size_t D) {
    Workers::Scratch scratch = tasks().scratch();
    float* const share = scratch.array(N);
    std::fill_n(share, N, 1.0f / static_cast<float>(N));
    tasks().by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      for (std::size_t s = begin; s < end; ++s) {
        kernels().sum_copies(y + s * M * D, X + s * N * D, share, N, D, 0, 1);
      }
    });
  }
  void collapse_streams(float* c, const float* X, const float* pre, std::size_t S, std::size_t N,
                        std::size_t D) {
    tasks().by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().sum_copies(c, X, pre, N, D, begin, end);
    });
  }
  void collapse_streams_backward(float* dX, float* dpre, const float* dc, const float* X,
                                 const float* pre, std::size_t S, std::size_t N, std::size_t D) {
    tasks().by_rows(S, 2 * N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().collapse_streams_backward(dX, dpre, dc, X, pre, N, D, begin, end);
    });
  }

  void mix_streams(float* X, float* before, const float* post, const float* comb, const float* y,
                   std::size_t S, std::size_t N, std::size_t D) {
    tasks().by_rows(S, 3 * N * D, N * D, [&](std::size_t begin, std::size_t end, float* scratch) {
      kernels().mix_streams(X, before, post, comb, y, N, D, begin, end, scratch);
    });
  }
  void mix_streams_backward(float* dX, float* dpost, float* dcomb, float* dy, const float* X,
                            const float* post, const float* comb, const float* y, std::size_t S,
                            std::size_t N, std::size_t D) {
    tasks().by_rows(S, 4 * N * D, N * D, [&](std::size_t begin, std::size_t end, float* scratch) {
      kernels().mix_streams_backward(dX, dpost, dcomb, dy, X, post, comb, y, N, D, begin, end,
                                     scratch);
    });
  }

  void add_to_streams(float* X, const float* y, std::size_t S, std::size_t N, std::size_t D) {
    tasks().by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().add_to_streams(X, y, N, D, begin, end);
    });
  }
  void add_to_streams_backward(float* dy, const float* dX, std::size_t S, std::size_t N,
                               std::size_t D) {
    tasks().by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      kernels().add_copies(dy, dX, nullptr, N, D, begin, end);
    });
  }
  ///@}

 private:
  Training& tasks() { return static_cast<Training&>(*this); }
  const TrainingKernels& kernels() { return tasks().table(); }

  static std::size_t connection_cost(std::size_t N, std::size_t iters) {
    return N * (N * (iters + Tasks::kExpCost) + iters);
  }
};

}  // namespace ds4::inline v0_1::simd::training
