// The kernels for training with vectors and threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <span>

#include <ds4/config/config.hpp>
#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/simd/top_k.hpp>
#include <ds4/kernels/simd/training/table.hpp>
#include <ds4/kernels/simd/training/workers.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1 {

/// Settings of the kernels for training.
struct SimdTrainingOptions {
  std::size_t threads = 0;  ///< 0: one per processor
  /// The instruction set; the one that this translation unit is compiled for, unless a program
  /// chooses another at run time.
  const simd::TrainingKernels* kernels = &simd::training_kernels<simd::Native>();
};

/// The operations of ReferenceTraining in float32, with vectors and threads; see there. A copy is a
/// handle to the same threads and scratch memory; one operation at a time may run on them. Sums are
/// cut into parts by the sizes alone, so results do not depend on the number of threads.
class SimdTraining {
 public:
  /// Of values and gradients.
  using Scalar = float;
  /// There is memory behind the pointers.
  static constexpr bool kDry = false;

  /// Takes its threads.
  explicit SimdTraining(const SimdTrainingOptions& options = {})
      : k_(options.kernels), workers_(std::make_shared<Workers>(options.threads)) {}

  ///@{
  /// Of the settings.
  std::size_t threads() const { return workers_->threads(); }
  const char* instruction_set() const { return k_->name; }
  ///@}

  ///@{
  /// See ReferenceTraining for these and all that follow.
  void linear(float* y, std::size_t y_stride, const float* x, std::size_t x_stride, const float* w,
              std::size_t S, std::size_t outs, std::size_t ins) {
    Scratch scratch(*workers_);
    float* const panels = scratch.array(k_->panels_size(ins, outs));
    pack_transposed(panels, w, outs, ins);
    multiply({y, y_stride, x, x_stride, panels, S, outs, ins, false});
  }
  void linear_backward(float* dx, bool add, float* dw, const float* dy, std::size_t y_stride,
                       const float* x, std::size_t x_stride, const float* w, std::size_t S,
                       std::size_t outs, std::size_t ins) {
    Scratch scratch(*workers_);
    if (dx != nullptr) {
      float* const panels = scratch.array(k_->panels_size(outs, ins));
      pack_rows(panels, w, outs, ins);
      multiply({dx, x_stride, dy, y_stride, panels, S, ins, outs, add});
    }
    if (dw != nullptr) {
      multiply_transposed({dw, ins, {dy, y_stride}, {x, x_stride}, true}, outs, ins, S);
    }
  }
  ///@}

  ///@{
  void rms_norm(float* y, const float* x, const float* weight, std::size_t rows, std::size_t n,
                double eps) {
    by_rows(rows, n, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->rms_norm(y + begin * n, x + begin * n, weight, end - begin, n, static_cast<float>(eps));
    });
  }
  void rms_norm_backward(float* dx, float* dweight, const float* dy, const float* x,
                         const float* weight, std::size_t rows, std::size_t n, double eps) {
    sum_by_rows(rows, 2 * n, {{dweight, n}}, 0,
                [&](std::size_t begin, std::size_t end, float* sums, float*) {
                  k_->rms_norm_backward(dx + begin * n, dweight == nullptr ? nullptr : sums,
                                        dy + begin * n, x + begin * n, weight, end - begin, n,
                                        static_cast<float>(eps));
                });
  }
  ///@}

  ///@{
  void swiglu(float* y, const float* gate, const float* up, std::size_t n, double limit) {
    by_values(n, [&](std::size_t begin, std::size_t count) {
      k_->swiglu(y + begin, gate + begin, up + begin, count, static_cast<float>(limit));
    });
  }
  void swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate,
                       const float* up, std::size_t n, double limit) {
    by_values(n, [&](std::size_t begin, std::size_t count) {
      k_->swiglu_backward(dgate + begin, dup + begin, dy + begin, gate + begin, up + begin, count,
                          static_cast<float>(limit));
    });
  }
  ///@}

  ///@{
  void rotary_table(float* cos, float* sin, std::size_t first, std::size_t step, std::size_t S,
                    const double* inv_freq, std::size_t pairs) {
    constexpr std::size_t kCost = 16;  // of a cosine and a sine
    by_rows(S, kCost * pairs, 0, [&](std::size_t begin, std::size_t end, float*) {
      reference::rotary_table(cos + begin * pairs, sin + begin * pairs, first + begin * step, step,
                              end - begin, inv_freq, pairs);
    });
  }
  void rotate(float* x, const float* cos, const float* sin, std::size_t S, std::size_t heads,
              std::size_t d, std::size_t pairs, bool inverse) {
    by_rows(S, 2 * pairs * heads, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->rotate(x, cos, sin, heads, d, pairs, inverse, begin, end);
    });
  }
  ///@}

  ///@{
  void embed(float* x, const std::int32_t* ids, const float* table, std::size_t S, std::size_t N,
             std::size_t D) {
    by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->take_rows(x, table, ids, N, D, begin, end);
    });
  }
  void embed_backward(float* dtable, const float* dx, const std::int32_t* ids, std::size_t S,
                      std::size_t N, std::size_t D) {
    add_rows(dtable, dx, ids, S, N, D);
  }
  ///@}

  ///@{
  void take_rows(float* y, const float* x, const std::int32_t* rows, std::size_t count,
                 std::size_t width) {
    embed(y, rows, x, count, 1, width);
  }
  void take_rows_backward(float* dx, const float* dy, const std::int32_t* rows, std::size_t count,
                          std::size_t width) {
    add_rows(dx, dy, rows, count, 1, width);
  }
  ///@}

  ///@{
  void hyper_connection_weights(float* pre, float* post, float* comb, const float* u,
                                const float* base, const float* scale, std::size_t S, std::size_t N,
                                std::size_t iters, double eps) {
    by_rows(S, connection_cost(N, iters), k_->connection_scratch(N),
            [&](std::size_t begin, std::size_t end, float* scratch) {
              k_->hyper_connection_weights(pre, post, comb, u, base, scale, N, iters,
                                           static_cast<float>(eps), begin, end, scratch);
            });
  }
  void hyper_connection_weights_backward(float* du, float* dbase, float* dscale, const float* dpre,
                                         const float* dpost, const float* dcomb, const float* u,
                                         const float* base, const float* scale, std::size_t S,
                                         std::size_t N, std::size_t iters, double eps) {
    const std::size_t width = (2 + N) * N;
    sum_by_rows(S, 2 * connection_cost(N, iters), {{dbase, width}, {dscale, 3}},
                k_->connection_backward_scratch(N, iters),
                [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                  k_->hyper_connection_weights_backward(
                      du, sums, sums + width, dpre, dpost, dcomb, u, base, scale, N, iters,
                      static_cast<float>(eps), begin, end, scratch);
                });
  }
  void hyper_head_weights(float* pre, const float* u, const float* base, const float* scale,
                          std::size_t S, std::size_t N, double eps) {
    by_rows(S, kExpCost * N, 3 * N * simd::kMaxLanes,
            [&](std::size_t begin, std::size_t end, float* scratch) {
              k_->hyper_head_weights(pre, u, base, scale, N, static_cast<float>(eps), begin, end,
                                     scratch);
            });
  }
  void hyper_head_weights_backward(float* du, float* dbase, float* dscale, const float* dpre,
                                   const float* u, const float* base, const float* scale,
                                   std::size_t S, std::size_t N) {
    sum_by_rows(S, kExpCost * N, {{dbase, N}, {dscale, 1}}, 3 * N * simd::kMaxLanes,
                [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                  k_->hyper_head_weights_backward(du, sums, sums + N, dpre, u, base, scale, N,
                                                  begin, end, scratch);
                });
  }
  ///@}

  ///@{
  void collapse_streams(float* c, const float* X, const float* pre, std::size_t S, std::size_t N,
                        std::size_t D) {
    by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->sum_copies(c, X, pre, N, D, begin, end);
    });
  }
  void collapse_streams_backward(float* dX, float* dpre, const float* dc, const float* X,
                                 const float* pre, std::size_t S, std::size_t N, std::size_t D) {
    by_rows(S, 2 * N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->collapse_streams_backward(dX, dpre, dc, X, pre, N, D, begin, end);
    });
  }
  ///@}

  ///@{
  void mix_streams(float* X, float* before, const float* post, const float* comb, const float* y,
                   std::size_t S, std::size_t N, std::size_t D) {
    by_rows(S, 3 * N * D, N * D, [&](std::size_t begin, std::size_t end, float* scratch) {
      k_->mix_streams(X, before, post, comb, y, N, D, begin, end, scratch);
    });
  }
  void mix_streams_backward(float* dX, float* dpost, float* dcomb, float* dy, const float* X,
                            const float* post, const float* comb, const float* y, std::size_t S,
                            std::size_t N, std::size_t D) {
    by_rows(S, 4 * N * D, N * D, [&](std::size_t begin, std::size_t end, float* scratch) {
      k_->mix_streams_backward(dX, dpost, dcomb, dy, X, post, comb, y, N, D, begin, end, scratch);
    });
  }
  ///@}

  ///@{
  void add_to_streams(float* X, const float* y, std::size_t S, std::size_t N, std::size_t D) {
    by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->add_to_streams(X, y, N, D, begin, end);
    });
  }
  void add_to_streams_backward(float* dy, const float* dX, std::size_t S, std::size_t N,
                               std::size_t D) {
    by_rows(S, N * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->add_copies(dy, dX, nullptr, N, D, begin, end);
    });
  }
  ///@}

  ///@{
  void pool_entries(float* entries, const float* kv, const float* gate, const float* ape,
                    const PoolShape& shape) {
    constexpr std::size_t kStep = 1;  // entries are few and large
    const std::size_t cost = kExpCost * shape.ratio * shape.width;
    by_rows(
        shape.count, cost, k_->pool_scratch(shape),
        [&](std::size_t begin, std::size_t end, float* scratch) {
          k_->pool_entries(entries, kv, gate, ape, shape, begin, end, scratch);
        },
        kStep);
  }
  void pool_entries_backward(float* dkv, float* dgate, float* dape, const float* dentries,
                             const float* kv, const float* gate, const float* ape,
                             const PoolShape& shape) {
    const std::size_t biases = shape.ratio * (shape.overlapping ? 2 * shape.width : shape.width);
    sum_by_rows(shape.count, kExpCost * shape.ratio * shape.width, {{dape, biases}},
                k_->pool_scratch(shape),
                [&](std::size_t begin, std::size_t end, float* sums, float* scratch) {
                  k_->pool_entries_backward(dkv, dgate, sums, dentries, kv, gate, ape, shape, begin,
                                            end, scratch);
                });
  }
  ///@}

  ///@{
  void pick_entries(std::int32_t* picks, const float* q, const float* weights, const float* keys,
                    const IndexShape& shape) {
    if (shape.top_k == 0) return;
    constexpr std::size_t kRows = 48;  // of the product that gives the scores
    const std::size_t step = std::max<std::size_t>(1, kRows / shape.nI);
    const std::size_t entries = shape.S / shape.ratio;
    const std::size_t buffer = k_->index_scratch(shape, step);
    Scratch scratch(*workers_);
    float* const panels = scratch.array(k_->panels_size(shape.dI, entries));
    pack_transposed(panels, keys, entries, shape.dI);
    constexpr std::size_t kCandidate = sizeof(simd::Candidate) / sizeof(float);
    const std::size_t of_candidates = (entries + 1) * kCandidate;
    const std::size_t of_groups =
        std::max(k_->likely_best_scratch(shape.top_k), simd::training::kMostRanked);
    workers_->run(parts(shape.S, step), of_candidates + of_groups + step * entries + buffer,
                  [&](std::size_t task, float* memory) {
                    const std::size_t begin = task * step;
                    const std::size_t end = std::min(shape.S, begin + step);
                    auto* const found = reinterpret_cast<simd::Candidate*>(memory);
                    float* const groups = memory + of_candidates;
                    float* const scores = groups + of_groups;
                    k_->index_scores(scores, entries, q, weights, panels, end / shape.ratio, shape,
                                     begin, end, scores + step * entries);
                    for (std::size_t t = begin; t < end; ++t) {
                      const std::size_t likely =
                          k_->likely_best(found, scores + (t - begin) * entries,
                                          (t + 1) / shape.ratio, shape.top_k, groups);
                      const std::size_t count = std::min(likely, shape.top_k);
                      std::int32_t* const own = picks + t * shape.top_k;
                      if (likely <= simd::training::kMostRanked) {
                        k_->rank_best(own, found, likely, shape.top_k, groups);
                      } else {
                        std::partial_sort(found, found + count, found + likely);
                        std::transform(found, found + count, own,
                                       [](const simd::Candidate& c) { return c.entry; });
                      }
                      std::fill(own + count, own + shape.top_k, -1);
                    }
                  });
  }
  double index_loss(float* dq, float* dweights, float* dkeys, const float* received,
                    const std::int32_t* picks, const float* q, const float* weights,
                    const float* keys, const IndexShape& shape, double weight) {
    Scratch scratch(*workers_);
    const std::size_t step = query_step(shape.S);
    const std::size_t count = parts(shape.S, step);
    double* const losses = scratch.array<double>(count);
    RowSums* const sums = scratch.array<RowSums>(count);
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t seen = std::min(shape.S, (c + 1) * step) / shape.ratio;
      sums[c] = {scratch.array(seen * shape.dI), 0, seen};
    }
    workers_->run(count, k_->index_loss_scratch(shape), [&](std::size_t c, float* memory) {
      k_->zero(sums[c].rows, sums[c].end * shape.dI);
      losses[c] = k_->index_loss(dq, dweights, sums[c].rows, received, picks, q, weights, keys,
                                 shape, static_cast<float>(weight), c * step,
                                 std::min(shape.S, (c + 1) * step), memory);
    });
    add_row_sums(dkeys, sums, count, shape.dI);
    return std::accumulate(losses, losses + count, 0.0);
  }
  ///@}

  ///@{
  void attend(float* out, float* received, const float* q, const float* sink, const float* window,
              const float* entries, const std::int32_t* picks, const AttentionShape& shape) {
    constexpr std::size_t kStep = 16;
    workers_->run(parts(shape.S, kStep), k_->attention_scratch(shape),
                  [&](std::size_t task, float* memory) {
                    k_->attend(out, received, q, sink, window, entries, picks, shape, task * kStep,
                               std::min(shape.S, (task + 1) * kStep), memory);
                  });
  }
  void attend_backward(float* dq, float* dsink, float* dwindow, float* dentries, const float* dout,
                       const float* q, const float* sink, const float* window, const float* entries,
                       const std::int32_t* picks, const AttentionShape& shape) {
    Scratch scratch(*workers_);
    const std::size_t step = query_step(shape.S);
    const std::size_t count = parts(shape.S, step);
    RowSums* const of_window = scratch.array<RowSums>(count);
    RowSums* const of_entries = scratch.array<RowSums>(count);
    float* const of_sink = scratch.array(count * shape.H);
    const bool has_entries = shape.kind != AttentionKind::sliding;
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t end = std::min(shape.S, (c + 1) * step);
      const std::size_t first = c * step + 1 - std::min(c * step + 1, shape.W);
      const std::size_t seen = has_entries ? std::min(shape.keys, end / shape.ratio) : 0;
      of_window[c] = {scratch.array((end - first) * shape.d), first, end};
      of_entries[c] = {scratch.array(seen * shape.d), 0, seen};
    }
    workers_->run(count, k_->attention_scratch(shape), [&](std::size_t c, float* memory) {
      const RowSums& rows = of_window[c];
      k_->zero(rows.rows, (rows.end - rows.begin) * shape.d);
      k_->zero(of_entries[c].rows, of_entries[c].end * shape.d);
      k_->zero(of_sink + c * shape.H, shape.H);
      k_->attend_backward(dq, of_sink + c * shape.H, {rows.rows, rows.begin, of_entries[c].rows},
                          dout, q, sink, window, entries, picks, shape, c * step, rows.end, memory);
    });
    k_->add_parts(dsink, of_sink, count, shape.H, 0, shape.H);
    add_row_sums(dwindow, of_window, count, shape.d);
    add_row_sums(dentries, of_entries, count, shape.d);
  }
  ///@}

  ///@{
  void route_by_score(std::int32_t* experts, float* weights, const float* logits, const float* bias,
                      std::size_t S, std::size_t E, std::size_t k, double scale) {
    by_rows(S, kExpCost * E, E + k, [&](std::size_t begin, std::size_t end, float* scratch) {
      k_->route(experts, weights, logits, bias, E, k, static_cast<float>(scale), begin, end,
                scratch);
    });
  }
  void route_by_hash(std::int32_t* experts, float* weights, const float* logits,
                     const std::int32_t* ids, const std::int32_t* table, std::size_t S,
                     std::size_t E, std::size_t k, double scale) {
    for (std::size_t s = 0; s < S; ++s) {
      std::copy_n(table + static_cast<std::size_t>(ids[s]) * k, k, experts + s * k);
    }
    route_by_score(experts, weights, logits, nullptr, S, E, k, scale);
  }
  void expert_weights_backward(float* dlogits, const float* dweights, const std::int32_t* experts,
                               const float* logits, std::size_t S, std::size_t E, std::size_t k,
                               double scale) {
    by_rows(S, kExpCost * simd::kMaxLanes, 3 * k,
            [&](std::size_t begin, std::size_t end, float* scratch) {
              k_->expert_weights_backward(dlogits, dweights, experts, logits, E, k,
                                          static_cast<float>(scale), begin, end, scratch);
            });
  }
  void count_load(float* load, const std::int32_t* experts, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) load[experts[i]] += 1.0f;
  }
  double balance_loss(float* dlogits, const std::int32_t* experts, const float* logits,
                      std::size_t S, std::size_t E, std::size_t k, double weight) {
    Scratch scratch(*workers_);
    float* const f = scratch.array(E);
    k_->zero(f, E);
    for (std::size_t i = 0; i < S * k; ++i) f[experts[i]] += 1.0f;  // exact
    const float mean = static_cast<float>(k * S) / static_cast<float>(E);
    for (std::size_t e = 0; e < E; ++e) f[e] /= mean;
    const std::size_t step = row_step(S, kExpCost * E, simd::kMaxLanes);
    double* const losses = scratch.array<double>(parts(S, step));
    workers_->run(parts(S, step), 2 * E, [&](std::size_t task, float* memory) {
      losses[task] = k_->balance_loss(dlogits, f, logits, S, E, static_cast<float>(weight),
                                      task * step, std::min(S, (task + 1) * step), memory);
    });
    return std::accumulate(losses, losses + parts(S, step), 0.0);
  }
  ///@}

  ///@{
  /// Differs from the reference: a token's outputs are added in the order of its choices.
  void routed_experts(float* y, const ExpertRecord<float>& record, const float* x,
                      const std::int32_t* picks, const float* weights,
                      std::span<const ExpertMatrices<const float>> experts,
                      const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    sort_places(record, picks, shape);
    Scratch scratch(*workers_);
    float* const outs = scratch.array(S * k * D);  // by place
    for_expert_groups(shape, [&](std::size_t first, std::size_t last) {
      Scratch group(*workers_);
      const ExpertPanels panels = pack_experts(group, experts, first, last, shape, true);
      const std::span<const ExpertTask> tasks = expert_tasks(group, record.begin, first, last);
      workers_->run(tasks.size(), kExpertRows * (2 * D + F), [&](std::size_t i, float* memory) {
        const auto [e, begin, n] = tasks[i];
        float* const in = memory;
        float* const out = in + kExpertRows * D;
        float* const hidden = out + kExpertRows * D;
        float* const gate = record.gate + begin * F;
        float* const up = record.up + begin * F;
        k_->gather_rows(in, {x, D, record.places + begin, static_cast<std::uint32_t>(k)}, n, D);
        k_->multiply({gate, F, in, D, panels.w1(e), n, F, D, false}, 0, n, 0, F);
        k_->multiply({up, F, in, D, panels.w3(e), n, F, D, false}, 0, n, 0, F);
        k_->swiglu(hidden, gate, up, n * F, static_cast<float>(limit));
        k_->multiply({out, D, hidden, F, panels.w2(e), n, D, F, false}, 0, n, 0, D);
        k_->scatter_rows(outs, out, record.places + begin, n, D);
      });
    });
    by_rows(S, k * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->sum_copies(y, outs, weights, k, D, begin, end);
    });
  }
  void routed_experts_backward(float* dx, float* dweights,
                               std::span<const ExpertMatrices<float>> gradients, const float* dy,
                               const ExpertRecord<const float>& record, const float* x,
                               const float* weights,
                               std::span<const ExpertMatrices<const float>> experts,
                               const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    Scratch scratch(*workers_);
    float* const dins = scratch.array(S * k * D);  // by place
    float* const hidden = scratch.array(S * k * F);
    float* const dgate = scratch.array(S * k * F);
    float* const dup = scratch.array(S * k * F);
    for_expert_groups(shape, [&](std::size_t first, std::size_t last) {
      Scratch group(*workers_);
      const ExpertPanels panels = pack_experts(group, experts, first, last, shape, false);
      const std::span<const ExpertTask> tasks = expert_tasks(group, record.begin, first, last);
      workers_->run(tasks.size(), kExpertRows * (2 * D + F), [&](std::size_t i, float* memory) {
        const auto [e, begin, n] = tasks[i];
        const std::int32_t* const places = record.places + begin;
        float* const dout = memory;
        float* const din = dout + kExpertRows * D;
        float* const dhidden = din + kExpertRows * D;
        const std::size_t at = begin * F;
        k_->gather_rows(dout, {dy, D, places, static_cast<std::uint32_t>(k)}, n, D);
        k_->multiply({dhidden, F, dout, D, panels.w2(e), n, F, D, false}, 0, n, 0, F);
        k_->expert_activation_backward(dgate + at, dup + at, hidden + at, dhidden, dweights,
                                       record.gate + at, record.up + at, weights, places, n, F,
                                       static_cast<float>(limit));
        k_->multiply({din, D, dgate + at, F, panels.w1(e), n, D, F, false}, 0, n, 0, D);
        k_->multiply({din, D, dup + at, F, panels.w3(e), n, D, F, true}, 0, n, 0, D);
        k_->scatter_rows(dins, din, places, n, D);
      });
    });
    by_rows(S, k * D, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->add_copies(dx, dins, nullptr, k, D, begin, end);
    });
    // The weights' gradients, by expert, matrix and block of the matrix.
    using simd::training::kOuterCols;
    using simd::training::kOuterRows;
    const std::size_t blocks = std::max(parts(F, kOuterRows) * parts(D, kOuterCols),
                                        parts(D, kOuterRows) * parts(F, kOuterCols));
    workers_->run(E * 3 * blocks, k_->transposed_scratch(), [&](std::size_t task, float* memory) {
      const std::size_t e = task / (3 * blocks);
      const std::size_t matrix = task / blocks % 3;
      const auto begin = static_cast<std::size_t>(record.begin[e]);
      const std::size_t n = static_cast<std::size_t>(record.begin[e + 1]) - begin;
      const auto of_places = [&](const float* rows) {
        return simd::training::RowList{rows, D, record.places + begin,
                                       static_cast<std::uint32_t>(k)};
      };
      const auto block = [&](float* dw, const simd::training::RowList& left,
                             const simd::training::RowList& right) {
        const std::size_t rows = left.stride;
        const std::size_t cols = right.stride;
        const std::size_t row = task % blocks / parts(cols, kOuterCols) * kOuterRows;
        const std::size_t col = task % blocks % parts(cols, kOuterCols) * kOuterCols;
        if (dw == nullptr || n == 0 || row >= rows) return;
        k_->multiply_transposed({dw, cols, left, right, true}, row,
                                std::min(kOuterRows, rows - row), col,
                                std::min(kOuterCols, cols - col), 0, n, memory);
      };
      if (matrix == 0) block(gradients[e].w1, {dgate + begin * F, F}, of_places(x));
      if (matrix == 1) block(gradients[e].w2, of_places(dy), {hidden + begin * F, F});
      if (matrix == 2) block(gradients[e].w3, {dup + begin * F, F}, of_places(x));
    });
  }
  ///@}

  double cross_entropy(float* dlogits, const float* logits, const std::int32_t* targets,
                       std::size_t S, std::size_t V, double weight) {
    Scratch scratch(*workers_);
    double* const losses = scratch.array<double>(S);
    by_rows(
        S, kExpCost * V, 0,
        [&](std::size_t begin, std::size_t end, float*) {
          k_->cross_entropy(dlogits, losses, logits, targets, V, static_cast<float>(weight), begin,
                            end);
        },
        1);
    return std::accumulate(losses, losses + S, 0.0);
  }

  ///@{
  void add(float* y, const float* x, std::size_t n) {
    by_values(n,
              [&](std::size_t begin, std::size_t count) { k_->add(y + begin, x + begin, count); });
  }
  void copy(float* y, const float* x, std::size_t n) {
    by_values(n,
              [&](std::size_t begin, std::size_t count) { k_->copy(y + begin, x + begin, count); });
  }
  void zero(float* y, std::size_t n) {
    by_values(n, [&](std::size_t begin, std::size_t count) { k_->zero(y + begin, count); });
  }
  ///@}

  void scale(float* y, double factor, std::size_t n) {
    by_values(n, [&](std::size_t begin, std::size_t count) {
      k_->combine(y + begin, 0.0f, y + begin, static_cast<float>(factor), count);
    });
  }
  double sum_of_squares(const float* x, std::size_t n) {
    Scratch scratch(*workers_);
    double* const sums = scratch.array<double>(parts(n, kTaskValues));
    by_values(n, [&](std::size_t begin, std::size_t count) {
      sums[begin / kTaskValues] = k_->sum_of_squares(x + begin, count);
    });
    return std::accumulate(sums, sums + parts(n, kTaskValues), 0.0);
  }

  ///@{
  void adamw_step(std::span<float> weights, std::span<const float> gradient, std::span<float> mean,
                  std::span<float> mean_square, std::size_t step, const AdamWOptions& options) {
    const auto bias = [&](double beta) { return 1.0 - std::pow(beta, static_cast<double>(step)); };
    const double kept = 1.0 - options.learning_rate * options.weight_decay;
    const simd::training::AdamWStep values{
        static_cast<float>(options.beta1),
        static_cast<float>(options.beta2),
        static_cast<float>(kept),
        static_cast<float>(options.learning_rate / bias(options.beta1)),
        static_cast<float>(std::sqrt(bias(options.beta2))),
        static_cast<float>(options.epsilon)};
    by_values(weights.size(), [&](std::size_t begin, std::size_t count) {
      k_->adamw_step(weights.data() + begin, gradient.data() + begin, mean.data() + begin,
                     mean_square.data() + begin, count, values);
    });
  }
  void muon_steps(std::span<const MuonTarget<float>> targets, const MuonOptions& options) {
    std::vector<const MuonTarget<float>*> small;  // not worth a fork for each product
    for (const MuonTarget<float>& target : targets) {
      constexpr std::size_t kLarge = std::size_t{1} << 26;
      if (target.weights.size() * std::min(target.rows, target.cols) < kLarge) {
        small.push_back(&target);
      } else {
        muon_step(target, options);
      }
    }
    const std::size_t lanes = std::min(threads(), small.size());
    while (alone_->size() < lanes) alone_->emplace_back(SimdTrainingOptions{1, k_});
    workers_->run(lanes, 0, [&](std::size_t lane, float*) {
      for (std::size_t i = lane; i < small.size(); i += lanes) {
        (*alone_)[lane].muon_step(*small[i], options);
      }
    });
  }
  ///@}

 private:
  using Workers = simd::training::Workers;
  using Scratch = Workers::Scratch;

  void muon_step(const MuonTarget<float>& target, const MuonOptions& options) {
    const auto [weights, gradient, momentum, rows, cols] = target;
    const std::size_t size = rows * cols;
    const bool tall = rows > cols;  // products of the smaller side are cheaper
    Scratch scratch(*workers_);
    float* const update = scratch.array(size);
    combine(momentum.data(), 1.0, gradient.data(), options.momentum, size);
    copy(update, gradient.data(), size);
    combine(update, options.momentum, momentum.data(), 1.0, size);
    float* const X = tall ? scratch.array(size) : update;
    if (tall) transpose(X, update, rows, cols);
    const bool any = orthogonalise(X, std::min(rows, cols), std::max(rows, cols));
    if (!any) {
      zero(update, size);
    } else if (tall) {
      transpose(update, X, cols, rows);
    }
    const auto longer = static_cast<double>(std::max(rows, cols));
    const double rate = options.learning_rate * options.scale * std::sqrt(longer);
    combine(weights.data(), -rate, update, 1.0 - options.learning_rate * options.weight_decay,
            size);
  }

  static constexpr std::size_t kTaskValues = 1 << 14;   // of a task, among many
  static constexpr std::size_t kAloneValues = 1 << 15;  // whose work is less than that of a fork
  static constexpr std::size_t kExpCost = 8;            // an exponential beside other operations
  static constexpr std::size_t kMostParts = 64;         // of a sum
  static constexpr std::size_t kExpertRows = 96;        // places of a task

  static std::size_t parts(std::size_t count, std::size_t step) {
    return (count + step - 1) / step;
  }
  static std::size_t connection_cost(std::size_t N, std::size_t iters) {
    return N * (N * (iters + kExpCost) + iters);
  }

  // Rows of a task: a multiple of `unit`.
  static std::size_t row_step(std::size_t rows, std::size_t cost, std::size_t unit) {
    if (rows * cost <= kAloneValues) return std::max<std::size_t>(1, rows);
    const std::size_t step = std::max<std::size_t>(1, kTaskValues / std::max<std::size_t>(1, cost));
    return std::min((step + unit - 1) / unit * unit, std::max<std::size_t>(1, rows));
  }

  // f(begin, end, scratch) for all rows, each of which costs about as much as `cost` values.
  template <class F>
  void by_rows(std::size_t rows, std::size_t cost, std::size_t floats, F&& f,
               std::size_t unit = simd::kMaxLanes) {
    const std::size_t step = row_step(rows, cost, unit);
    workers_->run(parts(rows, step), floats, [&](std::size_t task, float* scratch) {
      f(task * step, std::min(rows, (task + 1) * step), scratch);
    });
  }

  // f(begin, count) for all of n values.
  template <class F>
  void by_values(std::size_t n, F&& f) {
    workers_->run(parts(n, kTaskValues), 0, [&](std::size_t task, float*) {
      f(task * kTaskValues, std::min(kTaskValues, n - task * kTaskValues));
    });
  }

  // A gradient that is a sum over all rows.
  struct Sum {
    float* to;  // += ; or null
    std::size_t size;
  };
  // by_rows for f(begin, end, sums, scratch), where the sums of the rows begin .. end, zeros at
  // first, lie one behind the other.
  template <class F>
  void sum_by_rows(std::size_t rows, std::size_t cost, std::initializer_list<Sum> of,
                   std::size_t floats, F&& f) {
    std::size_t size = 0;
    for (const Sum& sum : of) size += sum.size;
    constexpr std::size_t kUnit = simd::kMaxLanes;
    const std::size_t least = parts(parts(rows, kMostParts), kUnit) * kUnit;
    const std::size_t step = std::max({std::size_t{1}, least, row_step(rows, cost, kUnit)});
    const std::size_t count = parts(rows, step);
    Scratch scratch(*workers_);
    float* const sums = scratch.array(count * size);
    workers_->run(count, floats, [&](std::size_t task, float* memory) {
      k_->zero(sums + task * size, size);
      f(task * step, std::min(rows, (task + 1) * step), sums + task * size, memory);
    });
    std::size_t at = 0;
    for (const Sum& sum : of) {
      if (sum.to != nullptr) k_->add_parts(sum.to, sums + at, count, size, 0, sum.size);
      at += sum.size;
    }
  }

  // y[rows[i], :] += sum_n x[i, n, :]. A row may be there often, so tasks are of columns.
  void add_rows(float* y, const float* x, const std::int32_t* rows, std::size_t count,
                std::size_t copies, std::size_t width) {
    constexpr std::size_t kCols = 64;
    workers_->run(parts(width, kCols), 0, [&](std::size_t task, float*) {
      k_->add_rows(y, x, rows, count, copies, width, task * kCols,
                   std::min(width, (task + 1) * kCols));
    });
  }

  // Queries of a task that has key gradients of its own.
  static std::size_t query_step(std::size_t S) {
    constexpr std::size_t kLeast = 128;
    constexpr std::size_t kMostTasks = 16;
    return std::max(kLeast, parts(S, kMostTasks));
  }

  // A part of a sum over rows: what some queries add to the rows [begin, end).
  struct RowSums {
    float* rows;
    std::size_t begin;
    std::size_t end;
  };
  // y += all parts, in order.
  void add_row_sums(float* y, const RowSums* sums, std::size_t count, std::size_t width) {
    std::size_t rows = 0;
    for (std::size_t c = 0; c < count; ++c) rows = std::max(rows, sums[c].end);
    by_rows(rows, 4 * width, 0, [&](std::size_t begin, std::size_t end, float*) {
      for (std::size_t c = 0; c < count; ++c) {
        const std::size_t first = std::max(begin, sums[c].begin);
        const std::size_t last = std::min(end, sums[c].end);
        if (first >= last) continue;
        k_->add(y + first * width, sums[c].rows + (first - sums[c].begin) * width,
                (last - first) * width);
      }
    });
  }

  // The right matrix w^T of y = x w^T, and w of y = x w, in panels.
  void pack_transposed(float* panels, const float* w, std::size_t cols, std::size_t depth) {
    by_rows(
        parts(cols, k_->tile_cols), k_->tile_cols * depth, 0,
        [&](std::size_t begin, std::size_t end, float*) {
          k_->pack_transposed(panels, w, depth, cols, depth, begin, end);
        },
        1);
  }
  void pack_rows(float* panels, const float* w, std::size_t depth, std::size_t cols) {
    by_rows(depth, cols, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->pack_rows(panels, w, cols, cols, depth, begin, end);
    });
  }

  void multiply(const simd::training::Product& p) {
    using simd::training::kBlockCols;
    // Rows of a task, a multiple of every kTileRows: more if there are many, for less traffic.
    constexpr std::size_t kFew = 48;
    constexpr std::size_t kMany = 96;
    const std::size_t step = p.rows < 8 * kMany ? kFew : kMany;
    const std::size_t blocks = parts(p.cols, kBlockCols);
    workers_->run(parts(p.rows, step) * blocks, 0, [&](std::size_t task, float*) {
      const std::size_t row = task / blocks * step;
      const std::size_t col = task % blocks * kBlockCols;
      k_->multiply(p, row, std::min(p.rows, row + step), col, std::min(p.cols, col + kBlockCols));
    });
  }

  // c += a^T b. A small c is computed as a sum over parts of the depth, so that there are tasks.
  void multiply_transposed(const simd::training::TransposedProduct& p, std::size_t rows,
                           std::size_t cols, std::size_t depth) {
    using simd::training::kOuterCols;
    using simd::training::kOuterRows;
    constexpr std::size_t kTasks = 8;
    constexpr std::size_t kLeastDepth = 128;
    const std::size_t across = parts(cols, kOuterCols);
    const std::size_t blocks = parts(rows, kOuterRows) * across;
    const std::size_t wanted = std::min(parts(kTasks, blocks), parts(depth, kLeastDepth));
    const std::size_t step = wanted <= 1 ? std::max<std::size_t>(1, depth) : parts(depth, wanted);
    const std::size_t count = parts(depth, step);
    Scratch scratch(*workers_);
    float* const sums = count > 1 ? scratch.array(count * rows * cols) : nullptr;
    workers_->run(blocks * count, k_->transposed_scratch(), [&](std::size_t task, float* memory) {
      const std::size_t part = task / blocks;
      const std::size_t row = task % blocks / across * kOuterRows;
      const std::size_t col = task % blocks % across * kOuterCols;
      simd::training::TransposedProduct own = p;
      if (count > 1) {
        own.c = sums + part * rows * cols;
        own.c_stride = cols;
        own.add = false;
      }
      k_->multiply_transposed(own, row, std::min(kOuterRows, rows - row), col,
                              std::min(kOuterCols, cols - col), part * step,
                              std::min(depth, (part + 1) * step), memory);
    });
    if (count <= 1) return;
    by_rows(rows, cols * count, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->add_parts(p.c, sums, count, rows * cols, begin * cols, end * cols);
    });
  }

  static void sort_places(const ExpertRecord<float>& record, const std::int32_t* picks,
                          const ExpertShape& shape) {
    const std::size_t places = shape.S * shape.k;
    std::int32_t* const begin = record.begin;
    std::fill_n(begin, shape.E + 1, 0);
    for (std::size_t i = 0; i < places; ++i) ++begin[picks[i] + 1];
    std::partial_sum(begin, begin + shape.E + 1, begin);
    for (std::size_t i = 0; i < places; ++i) {  // moves every begin to the next one's
      record.places[begin[picks[i]]++] = static_cast<std::int32_t>(i);
    }
    std::copy_backward(begin, begin + shape.E, begin + shape.E + 1);
    begin[0] = 0;
  }

  // f(first, last) for groups of experts whose weights in panels take a bounded amount of memory.
  template <class F>
  static void for_expert_groups(const ExpertShape& shape, F&& f) {
    constexpr std::size_t kPanelValues = std::size_t{1} << 24;
    const std::size_t own = 3 * shape.F * shape.D;
    const std::size_t step = std::max<std::size_t>(1, kPanelValues / std::max<std::size_t>(1, own));
    for (std::size_t e = 0; e < shape.E; e += step) f(e, std::min(shape.E, e + step));
  }

  // The weights of the experts from `first` on, in panels.
  struct ExpertPanels {
    float* panels;
    std::size_t first;
    std::size_t size[3];  // of an expert's w1, w2 and w3
    float* w1(std::size_t e) const { return panels + (e - first) * (size[0] + size[1] + size[2]); }
    float* w2(std::size_t e) const { return w1(e) + size[0]; }
    float* w3(std::size_t e) const { return w2(e) + size[1]; }
  };
  ExpertPanels pack_experts(Scratch& scratch, std::span<const ExpertMatrices<const float>> experts,
                            std::size_t first, std::size_t last, const ExpertShape& shape,
                            bool transposed) {
    const std::size_t D = shape.D;
    const std::size_t F = shape.F;
    const auto size = [&](std::size_t outs, std::size_t ins) {
      return transposed ? k_->panels_size(ins, outs) : k_->panels_size(outs, ins);
    };
    ExpertPanels panels{nullptr, first, {size(F, D), size(D, F), size(F, D)}};
    panels.panels =
        scratch.array((last - first) * (panels.size[0] + panels.size[1] + panels.size[2]));
    const auto pack = [&](float* to, const float* w, std::size_t outs, std::size_t ins) {
      if (transposed) {
        k_->pack_transposed(to, w, ins, outs, ins, 0, parts(outs, k_->tile_cols));
      } else {
        k_->pack_rows(to, w, ins, ins, outs, 0, outs);
      }
    };
    workers_->run(3 * (last - first), 0, [&](std::size_t task, float*) {
      const std::size_t e = first + task / 3;
      if (task % 3 == 0) pack(panels.w1(e), experts[e].w1, F, D);
      if (task % 3 == 1) pack(panels.w2(e), experts[e].w2, D, F);
      if (task % 3 == 2) pack(panels.w3(e), experts[e].w3, F, D);
    });
    return panels;
  }

  // At most kExpertRows of an expert's places.
  struct ExpertTask {
    std::size_t expert;
    std::size_t begin;
    std::size_t count;
  };
  static std::span<const ExpertTask> expert_tasks(Scratch& scratch, const std::int32_t* begin,
                                                  std::size_t first, std::size_t last) {
    const auto place = [&](std::size_t e) { return static_cast<std::size_t>(begin[e]); };
    std::size_t count = 0;
    for (std::size_t e = first; e < last; ++e) count += parts(place(e + 1) - place(e), kExpertRows);
    ExpertTask* const tasks = scratch.array<ExpertTask>(count);
    std::size_t task = 0;
    for (std::size_t e = first; e < last; ++e) {
      for (std::size_t at = place(e); at < place(e + 1); at += kExpertRows) {
        tasks[task++] = {e, at, std::min(kExpertRows, place(e + 1) - at)};
      }
    }
    return {tasks, count};
  }

  // y = a x + b y.
  void combine(float* y, double a, const float* x, double b, std::size_t n) {
    by_values(n, [&](std::size_t begin, std::size_t count) {
      k_->combine(y + begin, static_cast<float>(a), x + begin, static_cast<float>(b), count);
    });
  }
  void transpose(float* to, const float* from, std::size_t rows, std::size_t cols) {
    by_rows(rows, cols, 0, [&](std::size_t begin, std::size_t end, float*) {
      k_->transpose(to, from, rows, cols, begin, end);
    });
  }

  // The rounds of detail::orthogonalised for X [n, m], n <= m, in place; false if X is 0.
  bool orthogonalise(float* X, std::size_t n, std::size_t m) {
    const double norm = std::sqrt(sum_of_squares(X, n * m));
    if (!(norm > 0.0)) return false;
    combine(X, 0.0, X, 1.0 / norm, n * m);
    Scratch scratch(*workers_);
    float* const A = scratch.array(n * n);
    float* const B = scratch.array(n * n);
    float* const panels = scratch.array(k_->panels_size(n, m));
    for (const auto& c : simd::training::kMuonRounds) {
      linear(A, n, X, m, X, n, n, m);  // X X^T
      linear(B, n, A, n, A, n, n, n);  // A A, A being symmetric
      combine(B, c[1], A, c[2], n * n);
      for (std::size_t i = 0; i < n; ++i) B[i * n + i] += static_cast<float>(c[0]);
      pack_rows(panels, X, n, m);  // X may then be written over
      multiply({X, m, B, n, panels, n, m, n, false});
    }
    return true;
  }

  const simd::TrainingKernels* k_;
  std::shared_ptr<Workers> workers_;
  // Handles of one thread, each for matrices of its own.
  std::shared_ptr<std::vector<SimdTraining>> alone_ = std::make_shared<std::vector<SimdTraining>>();
};

}  // namespace ds4::inline v0_1
