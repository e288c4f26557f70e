// The reference path's kernels for training: every operation of a pass and its gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include <ds4/config/config.hpp>
#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <ds4/kernels/reference/attention.hpp>
#include <ds4/kernels/reference/backward/attention.hpp>
#include <ds4/kernels/reference/backward/compressor.hpp>
#include <ds4/kernels/reference/backward/hyper_connection.hpp>
#include <ds4/kernels/reference/backward/indexer.hpp>
#include <ds4/kernels/reference/backward/linear.hpp>
#include <ds4/kernels/reference/backward/loss.hpp>
#include <ds4/kernels/reference/backward/norm.hpp>
#include <ds4/kernels/reference/backward/router.hpp>
#include <ds4/kernels/reference/backward/swiglu.hpp>
#include <ds4/kernels/reference/compressor.hpp>
#include <ds4/kernels/reference/hyper_connection.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/norm.hpp>
#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/reference/router.hpp>
#include <ds4/kernels/reference/swiglu.hpp>
#include <ds4/kernels/training.hpp>

namespace ds4::inline v0_1 {

/// The kernels in T (float or double) on one thread: the oracle for the others, never tuned.
/// Gradients are added to what is there, unless a member says otherwise. Tensors are dense, row by
/// row, with the shapes of ds4::ops; names ending in `_backward` are of the operation without it.
template <class T = float>
class ReferenceTraining {
 public:
  /// Of values and gradients.
  using Scalar = T;
  /// There is memory behind the pointers.
  static constexpr bool kDry = false;

  ///@{
  /// y[s, o] = sum_i w[o, i] x[s, i]; rows of x are x_stride apart, those of y y_stride.
  void linear(T* y, std::size_t y_stride, const T* x, std::size_t x_stride, const T* w,
              std::size_t S, std::size_t outs, std::size_t ins) {
    map(y, S, outs, y_stride).noalias() = map(x, S, ins, x_stride) * map(w, outs, ins).transpose();
  }
  /// dx (null: not wanted) is set unless `add`; dw may be null as well.
  void linear_backward(T* dx, bool add, T* dw, const T* dy, std::size_t y_stride, const T* x,
                       std::size_t x_stride, const T* w, std::size_t S, std::size_t outs,
                       std::size_t ins) {
    if (dx != nullptr && !add) map(dx, S, ins, x_stride).setZero();
    reference::linear_backward(dx, dw, dy, y_stride, x, x_stride, w, S, outs, ins);
  }
  ///@}

  ///@{
  /// y = weight * x / sqrt(mean(x^2) + eps) for `rows` rows of n; weight and dweight may be null.
  void rms_norm(T* y, const T* x, const T* weight, std::size_t rows, std::size_t n, double eps) {
    reference::rms_norm(y, x, weight, rows, n, T(eps));
  }
  void rms_norm_backward(T* dx, T* dweight, const T* dy, const T* x, const T* weight,
                         std::size_t rows, std::size_t n, double eps) {
    reference::rms_norm_backward(dx, dweight, dy, x, weight, rows, n, T(eps));
  }
  ///@}

  ///@{
  /// y = silu(min(gate, limit)) * clamp(up, -limit, limit) for n values.
  void swiglu(T* y, const T* gate, const T* up, std::size_t n, double limit) {
    std::copy_n(gate, n, y);
    reference::swiglu(y, up, n, T(limit));
  }
  void swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, std::size_t n,
                       double limit) {
    reference::swiglu_backward(dgate, dup, dy, gate, up, n, T(limit));
  }
  ///@}

  ///@{
  /// The rotation of the last 2 * pairs values of each head, in place; its own gradient is the
  /// rotation in the other direction.
  void rotary_table(T* cos, T* sin, std::size_t first, std::size_t step, std::size_t S,
                    const double* inv_freq, std::size_t pairs) {
    reference::rotary_table(cos, sin, first, step, S, inv_freq, pairs);
  }
  void rotate(T* x, const T* cos, const T* sin, std::size_t S, std::size_t heads, std::size_t d,
              std::size_t pairs, bool inverse) {
    reference::rotate(x, cos, sin, S, heads, d, pairs, inverse);
  }
  ///@}

  ///@{
  /// x[s, n, :] = table[ids[s], :].
  void embed(T* x, const std::int32_t* ids, const T* table, std::size_t S, std::size_t N,
             std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n)
        std::copy_n(row(table, ids[s], D), D, x + (s * N + n) * D);
    }
  }
  void embed_backward(T* dtable, const T* dx, const std::int32_t* ids, std::size_t S, std::size_t N,
                      std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(row(dtable, ids[s], D), dx + (s * N + n) * D, D);
    }
  }
  ///@}

  ///@{
  /// y[i, :] = x[rows[i], :] for `count` rows.
  void take_rows(T* y, const T* x, const std::int32_t* rows, std::size_t count, std::size_t width) {
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(row(x, rows[i], width), width, y + i * width);
  }
  void take_rows_backward(T* dx, const T* dy, const std::int32_t* rows, std::size_t count,
                          std::size_t width) {
    for (std::size_t i = 0; i < count; ++i) add(row(dx, rows[i], width), dy + i * width, width);
  }
  ///@}

  ///@{
  /// The weights of a hyper-connection, of the final collapse; see ds4::ops.
  void hyper_connection_weights(T* pre, T* post, T* comb, const T* u, const T* base, const T* scale,
                                std::size_t S, std::size_t N, std::size_t iters, double eps) {
    reference::hyper_connection_weights(pre, post, comb, u, base, scale, S, N, iters, T(eps));
  }
  void hyper_connection_weights_backward(T* du, T* dbase, T* dscale, const T* dpre, const T* dpost,
                                         const T* dcomb, const T* u, const T* base, const T* scale,
                                         std::size_t S, std::size_t N, std::size_t iters,
                                         double eps) {
    reference::hyper_connection_weights_backward(du, dbase, dscale, dpre, dpost, dcomb, u, base,
                                                 scale, S, N, iters, T(eps));
  }
  void hyper_head_weights(T* pre, const T* u, const T* base, const T* scale, std::size_t S,
                          std::size_t N, double eps) {
    reference::hyper_head_weights(pre, u, base, scale, S, N, T(eps));
  }
  void hyper_head_weights_backward(T* du, T* dbase, T* dscale, const T* dpre, const T* u,
                                   const T* base, const T* scale, std::size_t S, std::size_t N) {
    reference::hyper_head_weights_backward(du, dbase, dscale, dpre, u, base, scale, S, N);
  }
  ///@}

  ///@{
  /// c[s, :] = sum_n pre[s, n] X[s, n, :].
  void collapse_streams(T* c, const T* X, const T* pre, std::size_t S, std::size_t N,
                        std::size_t D) {
    reference::collapse_streams(c, X, pre, S, N, D);
  }
  void collapse_streams_backward(T* dX, T* dpre, const T* dc, const T* X, const T* pre,
                                 std::size_t S, std::size_t N, std::size_t D) {
    reference::collapse_streams_backward(dX, dpre, dc, X, pre, S, N, D);
  }
  ///@}

  ///@{
  /// X[s, n, :] <- post[n] y + sum_j comb[j, n] X[j, :], in place; `before` (null: not wanted) is
  /// given the old X.
  void mix_streams(T* X, T* before, const T* post, const T* comb, const T* y, std::size_t S,
                   std::size_t N, std::size_t D) {
    if (before != nullptr) std::copy_n(X, S * N * D, before);
    std::vector<T> old(N);
    reference::mix_streams(X, post, comb, y, old.data(), S, N, D);
  }
  /// X is the old one; dX is replaced by the old X's gradient.
  void mix_streams_backward(T* dX, T* dpost, T* dcomb, T* dy, const T* X, const T* post,
                            const T* comb, const T* y, std::size_t S, std::size_t N,
                            std::size_t D) {
    reference::mix_streams_backward(dX, dpost, dcomb, dy, X, post, comb, y, S, N, D);
  }
  ///@}

  ///@{
  /// X[s, n, :] += y[s, :].
  void add_to_streams(T* X, const T* y, std::size_t S, std::size_t N, std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(X + (s * N + n) * D, y + s * D, D);
    }
  }
  void add_to_streams_backward(T* dy, const T* dX, std::size_t S, std::size_t N, std::size_t D) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t n = 0; n < N; ++n) add(dy + s * D, dX + (s * N + n) * D, D);
    }
  }
  ///@}

  ///@{
  /// Entries [count, width] from projections [tokens, P] of a sequence and ape [ratio, P], P being
  /// width, or twice that where windows overlap; neither normed nor rotated.
  void pool_entries(T* entries, const T* kv, const T* gate, const T* ape, const PoolShape& shape) {
    std::vector<PoolSlot> slots;
    for (std::size_t w = 0; w < shape.count; ++w) {
      fill_slots(slots, w, kv, gate, ape, shape);
      reference::pool(entries + w * shape.width, slots, shape.width);
    }
  }
  void pool_entries_backward(T* dkv, T* dgate, T* dape, const T* dentries, const T* kv,
                             const T* gate, const T* ape, const PoolShape& shape) {
    std::vector<PoolSlot> slots;
    std::vector<reference::PoolSlotGradient<T>> gradients;
    for (std::size_t w = 0; w < shape.count; ++w) {
      fill_slots(slots, w, kv, gate, ape, shape);
      gradients.clear();
      for (const PoolSlot& slot : slots) {
        gradients.push_back(
            {dkv + (slot.kv - kv), dgate + (slot.gate - gate), dape + (slot.ape - ape)});
      }
      reference::pool_backward(gradients, dentries + w * shape.width, slots, shape.width);
    }
  }
  ///@}

  /// picks [S, top_k] for q [S, nI, dI], weights [S, nI] and keys [entries, dI]; -1 for none.
  void pick_entries(std::int32_t* picks, const T* q, const T* weights, const T* keys,
                    const IndexShape& shape) {
    std::vector<T> score;
    for (std::size_t t = 0; t < shape.S; ++t) {
      score.resize((t + 1) / shape.ratio);
      reference::index_scores(score.data(), q + t * shape.nI * shape.dI, weights + t * shape.nI,
                              score.size(), shape.nI, shape.dI,
                              [&](std::size_t w) { return keys + w * shape.dI; });
      reference::top_entries(picks + t * shape.top_k, score, shape.top_k);
    }
  }
  /// The indexer's own loss: over all queries with picks, the sum of the divergence
  /// KL(received / sum(received) || softmax of the scores) over the query's picks, where received
  /// [S, top_k] is the attention that they were given. Gradients are those of weight * the sum;
  /// received is a constant.
  double index_loss(T* dq, T* dweights, T* dkeys, const T* received, const std::int32_t* picks,
                    const T* q, const T* weights, const T* keys, const IndexShape& shape,
                    double weight) {
    double loss = 0.0;
    std::vector<T> score(shape.top_k);
    std::vector<T> dscore(shape.top_k);
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::int32_t* own = picks + t * shape.top_k;
      const std::size_t n = std::min((t + 1) / shape.ratio, shape.top_k);
      if (n == 0) continue;
      const T* query = q + t * shape.nI * shape.dI;
      const auto key = [&](std::size_t i) { return row(keys, own[i], shape.dI); };
      reference::index_scores(score.data(), query, weights + t * shape.nI, n, shape.nI, shape.dI,
                              key);
      loss += reference::divergence(dscore.data(), score.data(), received + t * shape.top_k, n,
                                    T(weight));
      reference::index_scores_backward(
          dq + t * shape.nI * shape.dI, dweights + t * shape.nI,
          [&](std::size_t i) { return row(dkeys, own[i], shape.dI); }, dscore.data(), query,
          weights + t * shape.nI, n, shape.nI, shape.dI, key);
    }
    return loss;
  }

  ///@{
  /// out, q [S, H, d]; sink [H]; window [S, d]; entries [keys, d] and picks [S, top_k] where the
  /// kind of layer has them. received [S, top_k] (null: not wanted) is given the attention of each
  /// pick, summed over the heads.
  void attend(T* out, T* received, const T* q, const T* sink, const T* window, const T* entries,
              const std::int32_t* picks, const AttentionShape& shape) {
    std::vector<const T*> keys;
    const std::size_t row_size = shape.H * shape.d;
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::size_t seen = find_keys(keys, t, window, entries, picks, shape);
      reference::attend(out + t * row_size, q + t * row_size, sink, keys, shape.H, shape.d);
      if (received == nullptr) continue;
      T* own = received + t * shape.top_k;
      std::fill_n(own, shape.top_k, T(0));
      std::vector<T> p(keys.size());
      for (std::size_t h = 0; h < shape.H; ++h) {
        const T sum =
            reference::sink_softmax(p, q + t * row_size + h * shape.d, sink[h], keys, shape.d).sum;
        for (std::size_t i = seen; i < keys.size(); ++i) own[i - seen] += p[i] / sum;
      }
    }
  }
  void attend_backward(T* dq, T* dsink, T* dwindow, T* dentries, const T* dout, const T* q,
                       const T* sink, const T* window, const T* entries, const std::int32_t* picks,
                       const AttentionShape& shape) {
    std::vector<const T*> keys;
    std::vector<T*> dkeys;
    const std::size_t row_size = shape.H * shape.d;
    for (std::size_t t = 0; t < shape.S; ++t) {
      const std::size_t seen = find_keys(keys, t, window, entries, picks, shape);
      dkeys.clear();
      for (std::size_t i = 0; i < keys.size(); ++i) {
        dkeys.push_back(i < seen ? dwindow + (keys[i] - window) : dentries + (keys[i] - entries));
      }
      reference::attend_backward(dq + t * row_size, dsink, dkeys, dout + t * row_size,
                                 q + t * row_size, sink, keys, shape.H, shape.d);
    }
  }
  ///@}

  ///@{
  /// experts [S, k] by the largest sqrt(softplus(logits)) + bias, or by a table [V, k]; weights
  /// [S, k].
  void route_by_score(std::int32_t* experts, T* weights, const T* logits, const T* bias,
                      std::size_t S, std::size_t E, std::size_t k, double scale) {
    std::vector<T> score(E);
    for (std::size_t s = 0; s < S; ++s) {
      std::transform(logits + s * E, logits + (s + 1) * E, score.begin(),
                     reference::sqrt_softplus<T>);
      reference::select_experts(experts + s * k, score.data(), bias, E, k);
      reference::expert_weights(weights + s * k, experts + s * k, score.data(), k, T(scale));
    }
  }
  void route_by_hash(std::int32_t* experts, T* weights, const T* logits, const std::int32_t* ids,
                     const std::int32_t* table, std::size_t S, std::size_t E, std::size_t k,
                     double scale) {
    std::vector<T> score(E);
    for (std::size_t s = 0; s < S; ++s) {
      std::transform(logits + s * E, logits + (s + 1) * E, score.begin(),
                     reference::sqrt_softplus<T>);
      std::copy_n(row(table, ids[s], k), k, experts + s * k);
      reference::expert_weights(weights + s * k, experts + s * k, score.data(), k, T(scale));
    }
  }
  void expert_weights_backward(T* dlogits, const T* dweights, const std::int32_t* experts,
                               const T* logits, std::size_t S, std::size_t E, std::size_t k,
                               double scale) {
    for (std::size_t s = 0; s < S; ++s) {
      reference::expert_weights_backward(dlogits + s * E, dweights + s * k, experts + s * k,
                                         logits + s * E, k, T(scale));
    }
  }
  /// load[e] += how often expert e is among n picks.
  void count_load(T* load, const std::int32_t* experts, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) load[experts[i]] += T(1);
  }
  /// The balance loss of one sequence, sum_e f_e P_e: f_e = E / (k S) times how often expert e was
  /// picked, a constant; P_e the mean of its share of a token's scores. Gradients of weight * loss
  /// go to dlogits. Source: model.md 15.3; arXiv 2412.19437, eqs. 17 to 20.
  double balance_loss(T* dlogits, const std::int32_t* experts, const T* logits, std::size_t S,
                      std::size_t E, std::size_t k, double weight) {
    return reference::balance_loss(dlogits, experts, logits, S, E, k, T(weight));
  }
  ///@}

  ///@{
  /// y [S, D] = sum_i weights[s, i] expert_{picks[s, i]}(x[s, :]); fills the record.
  void routed_experts(T* y, const ExpertRecord<T>& record, const T* x, const std::int32_t* picks,
                      const T* weights, std::span<const ExpertMatrices<const T>> experts,
                      const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    std::fill_n(y, S * D, T(0));
    std::size_t sorted = 0;
    for (std::size_t e = 0; e < E; ++e) {
      record.begin[e] = static_cast<std::int32_t>(sorted);
      for (std::size_t place = 0; place < S * k; ++place) {
        if (static_cast<std::size_t>(picks[place]) != e) continue;
        record.places[sorted++] = static_cast<std::int32_t>(place);
      }
    }
    record.begin[E] = static_cast<std::int32_t>(sorted);
    for_each_expert(record, E, [&](std::size_t e, std::size_t begin, std::size_t n) {
      const std::vector<T> in = gather(x, record.places + begin, n, k, D);
      T* gate = record.gate + begin * F;
      T* up = record.up + begin * F;
      std::vector<T> hidden(n * F);
      std::vector<T> out(n * D);
      linear(gate, F, in.data(), D, experts[e].w1, n, F, D);
      linear(up, F, in.data(), D, experts[e].w3, n, F, D);
      swiglu(hidden.data(), gate, up, n * F, limit);
      linear(out.data(), D, hidden.data(), F, experts[e].w2, n, D, F);
      for (std::size_t i = 0; i < n; ++i) {
        const auto place = static_cast<std::size_t>(record.places[begin + i]);
        for (std::size_t c = 0; c < D; ++c) y[place / k * D + c] += weights[place] * out[i * D + c];
      }
    });
  }
  void routed_experts_backward(T* dx, T* dweights, std::span<const ExpertMatrices<T>> gradients,
                               const T* dy, const ExpertRecord<const T>& record, const T* x,
                               const T* weights, std::span<const ExpertMatrices<const T>> experts,
                               const ExpertShape& shape, double limit) {
    const auto [S, k, E, D, F] = shape;
    for_each_expert(record, E, [&](std::size_t e, std::size_t begin, std::size_t n) {
      const std::int32_t* places = record.places + begin;
      const std::vector<T> in = gather(x, places, n, k, D);
      const std::vector<T> dout = gather(dy, places, n, k, D);  // of a weight of 1
      const T* gate = record.gate + begin * F;
      const T* up = record.up + begin * F;
      std::vector<T> hidden(n * F);
      std::vector<T> dhidden(n * F);
      std::vector<T> dgate(n * F);
      std::vector<T> dup(n * F);
      std::vector<T> din(n * D);
      swiglu(hidden.data(), gate, up, n * F, limit);
      linear_backward(dhidden.data(), false, nullptr, dout.data(), D, hidden.data(), F,
                      experts[e].w2, n, D, F);
      for (std::size_t i = 0; i < n; ++i) {
        const auto place = static_cast<std::size_t>(places[i]);
        for (std::size_t f = i * F; f < (i + 1) * F; ++f) {
          dweights[place] += dhidden[f] * hidden[f];
          hidden[f] *= weights[place];
          dhidden[f] *= weights[place];
        }
      }
      linear_backward(nullptr, false, gradients[e].w2, dout.data(), D, hidden.data(), F,
                      experts[e].w2, n, D, F);
      swiglu_backward(dgate.data(), dup.data(), dhidden.data(), gate, up, n * F, limit);
      linear_backward(din.data(), true, gradients[e].w1, dgate.data(), F, in.data(), D,
                      experts[e].w1, n, F, D);
      linear_backward(din.data(), true, gradients[e].w3, dup.data(), F, in.data(), D, experts[e].w3,
                      n, F, D);
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t token = static_cast<std::size_t>(places[i]) / k;
        add(dx + token * D, din.data() + i * D, D);
      }
    });
  }
  ///@}

  /// The sum of -log softmax(logits[s])[targets[s]] over the rows with a target >= 0; dlogits
  /// [S, V] = weight * its gradient, which may be written over the logits.
  double cross_entropy(T* dlogits, const T* logits, const std::int32_t* targets, std::size_t S,
                       std::size_t V, double weight) {
    double loss = 0.0;
    for (std::size_t s = 0; s < S; ++s, logits += V, dlogits += V) {
      if (targets[s] >= 0) {
        loss += reference::cross_entropy(dlogits, logits, targets[s], V, T(weight));
      } else {
        std::fill_n(dlogits, V, T(0));
      }
    }
    return loss;
  }

  ///@{
  /// For n values: y += x; y = x; y = 0; y *= factor.
  void add(T* y, const T* x, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] += x[i];
  }
  void copy(T* y, const T* x, std::size_t n) { std::copy_n(x, n, y); }
  void zero(T* y, std::size_t n) { std::fill_n(y, n, T(0)); }
  void scale(T* y, double factor, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] *= T(factor);
  }
  ///@}

  /// The sum of squares of n values, added up in double.
  double sum_of_squares(const T* x, std::size_t n) {
    double sum = 0.0;
    for (std::size_t i = 0; i < n; ++i)
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
  }

  ///@{
  /// Steps of the optimizers; see their headers.
  void adamw_step(std::span<T> weights, std::span<const T> gradient, std::span<T> mean,
                  std::span<T> mean_square, std::size_t step, const AdamWOptions& options) {
    ds4::adamw_step(weights, gradient, mean, mean_square, step, options);
  }
  void muon_steps(std::span<const MuonTarget<T>> targets, const MuonOptions& options) {
    for (const MuonTarget<T>& target : targets) muon_step(target, options);
  }
  ///@}

 private:
  using PoolSlot = reference::PoolSlot<T>;
  template <class U>
  using Matrix =
      Eigen::Matrix<std::remove_const_t<U>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  // [rows, cols], rows `stride` apart; 0: dense.
  template <class U>
  static auto map(U* data, std::size_t rows, std::size_t cols, std::size_t stride = 0) {
    using Plain = std::conditional_t<std::is_const_v<U>, const Matrix<U>, Matrix<U>>;
    return Eigen::Map<Plain, 0, Eigen::OuterStride<>>(
        data, static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(cols),
        Eigen::OuterStride<>(static_cast<Eigen::Index>(stride == 0 ? cols : stride)));
  }

  template <class U>
  static U* row(U* data, std::int32_t index, std::size_t width) {
    return data + static_cast<std::size_t>(index) * width;
  }

  static void fill_slots(std::vector<PoolSlot>& slots, std::size_t w, const T* kv, const T* gate,
                         const T* ape, const PoolShape& shape) {
    const std::size_t m = shape.ratio;
    const std::size_t width = shape.overlapping ? 2 * shape.width : shape.width;
    const auto slot = [&](std::size_t token, std::size_t j, std::size_t half) {
      const std::size_t at = token * width + half;
      slots.push_back({kv + at, gate + at, ape + j * width + half});
    };
    slots.clear();
    for (std::size_t j = 0; shape.overlapping && w > 0 && j < m; ++j) slot((w - 1) * m + j, j, 0);
    const std::size_t own = shape.overlapping ? shape.width : 0;
    for (std::size_t j = 0; j < m; ++j) slot(w * m + j, j, own);
  }

  // The keys of query t; how many of them are of the window, which come first.
  static std::size_t find_keys(std::vector<const T*>& keys, std::size_t t, const T* window,
                               const T* entries, const std::int32_t* picks,
                               const AttentionShape& shape) {
    keys.clear();
    for (std::size_t p = t + 1 - std::min(t + 1, shape.W); p <= t; ++p) {
      keys.push_back(window + p * shape.d);
    }
    const std::size_t seen = keys.size();
    if (shape.kind == AttentionKind::hca) {
      for (std::size_t w = 0; w < (t + 1) / shape.ratio; ++w) keys.push_back(entries + w * shape.d);
    } else if (shape.kind == AttentionKind::csa) {
      for (std::size_t i = 0; i < shape.top_k; ++i) {
        const std::int32_t w = picks[t * shape.top_k + i];
        if (w >= 0) keys.push_back(row(entries, w, shape.d));
      }
    }
    return seen;
  }

  template <class Record, class F>
  static void for_each_expert(const Record& record, std::size_t E, F&& f) {
    for (std::size_t e = 0; e < E; ++e) {
      const auto begin = static_cast<std::size_t>(record.begin[e]);
      const auto end = static_cast<std::size_t>(record.begin[e + 1]);
      if (end > begin) f(e, begin, end - begin);
    }
  }

  // The rows [n, D] of x that the places are for.
  static std::vector<T> gather(const T* x, const std::int32_t* places, std::size_t n, std::size_t k,
                               std::size_t D) {
    std::vector<T> rows(n * D);
    for (std::size_t i = 0; i < n; ++i) {
      std::copy_n(x + static_cast<std::size_t>(places[i]) / k * D, D, rows.data() + i * D);
    }
    return rows;
  }
};

}  // namespace ds4::inline v0_1
