// The reference backend: plain loops and Eigen, written to be read beside the paper. It is the
// oracle that every other backend is checked against, and is never tuned.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/greatest.hpp>
#include <ds4/core/row_log.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference/attention.hpp>
#include <ds4/kernels/reference/compressor.hpp>
#include <ds4/kernels/reference/hyper_connection.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/linear.hpp>
#include <ds4/kernels/reference/norm.hpp>
#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/reference/router.hpp>
#include <ds4/kernels/reference/swiglu.hpp>

namespace ds4::inline v0_1 {

/// The reference path in T (float or double) on one thread. Members take shapes from their
/// arguments' types and hand sizes to the kernels in kernels/reference/.
template <class T = float>
class Reference {
 public:
  ///@{
  /// See Backend.
  using Scalar = T;
  using Element = T;
  using Index = std::int32_t;
  template <std::size_t Rows, std::size_t Cols>
  using Matrix = ds4::Matrix<Rows, Cols>;
  template <std::size_t... E>
  using Parameter = Tensor<T, E...>;
  template <std::size_t V, std::size_t K>
  using HashTable = Tensor<std::int32_t, V, K>;
  template <std::size_t Width>
  using RowLog = ds4::RowLog<T, Width>;
  template <std::size_t Width>
  using KeyLog = RowLog<Width>;
  template <std::size_t Width>
  using IndexLog = RowLog<Width>;
  template <class Expert>
  using Experts = std::vector<Expert>;
  ///@}

  /// Tokens of a pass that can be stopped: its parts are to take less than a second.
  static constexpr std::size_t kStoppablePass = 32;

  /// Activations that live as long as this object.
  class Scratch {
   public:
    ///@{
    /// Activations [S, E...], and indices of this shape.
    template <std::size_t... E>
    RowsView<T, E...> rows(std::size_t S) {
      return {values_.emplace_back(S * (E * ... * 1)).data(), S};
    }
    template <std::size_t... E>
    RowsView<std::int32_t, E...> indices(std::size_t S) {
      return {indices_.emplace_back(S * (E * ... * 1)).data(), S};
    }
    ///@}

    /// An array of anything, e.g. of pointers to states.
    template <class Item>
    std::span<Item> array(std::size_t count) {
      auto items = std::make_shared<std::vector<Item>>(count);
      arrays_.push_back(items);
      return *items;
    }

    /// The host's indices where the backend can read them.
    std::span<const std::int32_t> upload(std::span<const std::int32_t> host) { return host; }
    /// Rows for a result that `deliver` brings to the host's memory.
    template <std::size_t... E>
    RowsView<T, E...> result(RowsView<T, E...> host) {
      return host;
    }

   private:
    std::vector<Tensor<T, kDynamic>> values_;
    std::vector<Tensor<std::int32_t, kDynamic>> indices_;
    std::vector<std::shared_ptr<void>> arrays_;
  };
  /// Memory for a part of the pass.
  Scratch scratch() { return {}; }
  ///@{
  /// Memory kept from pass to pass: none.
  std::size_t scratch_bytes() const { return 0; }
  void release_scratch() {}
  ///@}

  /// One lane, the calling thread.
  template <class F>
  void run(F&& f) {
    f(*this);
  }
  ///@{
  /// There is no other lane.
  bool is_leader() const { return true; }
  void wait_for_all() {}
  ///@}

  /// Brings a result to the host's memory: one from `result` is there already.
  template <class Item>
  void deliver(std::span<Item> host, std::span<const Item> values) {
    if (host.data() != values.data()) std::ranges::copy(values, host.begin());
  }
  /// Calls f on one lane with the values where the host can read them.
  template <class Item, class F>
  void show(std::span<const Item> values, F&& f) {
    f(values);
  }
  /// Marks a part of the pass, named by all arguments, for as long as what it returns lives.
  template <class... Parts>
  int region(const Parts&...) {
    return 0;
  }

  /// A weight of the model from a checkpoint's: stays where it is.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind(const StoredMatrix& stored) {
    return {stored};
  }
  /// One of a routed expert.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_expert(const StoredMatrix& stored) {
    return {stored};
  }
  /// All experts of a layer are bound.
  template <class Expert>
  void bind_experts(Experts<Expert>&) {}
  /// One whose rows are looked up, not multiplied.
  template <std::size_t Rows, std::size_t Cols>
  Matrix<Rows, Cols> bind_rows(const StoredMatrix& stored) {
    return {stored};
  }
  /// Before weights are bound: how many bytes they are in all, and whether the system tells which
  /// of them are in memory.
  void expect_weights(std::size_t, bool) {}
  /// These bytes of mapped files are wanted soon.
  void read_ahead(std::span<const std::span<const std::byte>>) {}

  ///@{
  /// The operations, as in ds4::ops.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<T, N, D> x, std::span<const std::int32_t> ids, const W& embed) {
    for (std::size_t s = 0; s < ids.size(); ++s) {
      for (std::size_t n = 0; n < N; ++n) {
        embed.stored.decode_row(static_cast<std::size_t>(ids[s]), x[s][n].data());
      }
    }
  }

  template <std::size_t... E>
  void take_rows(RowsView<T, E...> y, RowsView<const T, E...> x,
                 std::span<const std::int32_t> rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::ranges::copy(x.rows(static_cast<std::size_t>(rows[i]), 1).flat(), y.rows(i, 1).data());
    }
  }

  template <std::size_t Width>
  void append(RowLog<Width>& log, RowsView<const T, Width> rows) {
    log.append(rows);
  }

  template <std::size_t Width>
  void read_rows(RowsView<T, Width> rows, const RowLog<Width>& log, std::size_t first) {
    for (std::size_t i = 0; i < rows.extent(0); ++i) {
      std::copy_n(log.row(first + i), Width, rows[i].data());
    }
  }

  template <std::size_t Width>
  void forget_before(RowLog<Width>& log, std::size_t row) {
    log.forget_before(row);
  }

  template <std::size_t N, std::size_t K, class W>
  void linear(RowsView<T, N> y, RowsView<const T, K> x, const W& w) {
    reference::linear(y.data(), N, x.data(), K, x.extent(0), w.stored, 0, N);
  }

  template <std::size_t G, std::size_t N, std::size_t K, class W>
  void grouped_linear(RowsView<T, G, N> y, RowsView<const T, G, K> x, const W& w) {
    reference::grouped_linear(y.data(), x.data(), x.extent(0), w.stored, G);
  }

  template <std::size_t K>
  void rms_norm(RowsView<T, K> y, RowsView<const T, K> x, const Parameter<K>& weight, double eps) {
    reference::rms_norm(y.data(), x.data(), weight.data(), x.extent(0), K, T(eps));
  }

  template <std::size_t... E>
  void rms_norm(RowsView<T, E...> y, RowsView<const T, E...> x, double eps) {
    constexpr std::size_t K = std::array<std::size_t, sizeof...(E)>{E...}.back();
    reference::rms_norm<T>(y.data(), x.data(), nullptr, x.size() / K, K, T(eps));
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<T, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    reference::rotary_table(table.cos.data(), table.sin.data(), first, step, table.cos.extent(0),
                            inv_freq.data(), Pairs);
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<T, H, d> x, const RotaryTable<T, Pairs>& table, bool inverse) {
    reference::rotate(x.data(), table.cos.data(), table.sin.data(), x.extent(0), H, d, Pairs,
                      inverse);
  }

  template <std::size_t N>
  void hyper_connection_weights(RowsView<T, N> pre, RowsView<T, N> post, RowsView<T, N, N> comb,
                                RowsView<const T, (2 + N) * N> u,
                                const Parameter<(2 + N) * N>& base, const Parameter<3>& scale,
                                std::size_t iters, double eps) {
    reference::hyper_connection_weights(pre.data(), post.data(), comb.data(), u.data(), base.data(),
                                        scale.data(), u.extent(0), N, iters, T(eps));
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<T, N> pre, RowsView<const T, N> u, const Parameter<N>& base,
                          const Parameter<1>& scale, double eps) {
    reference::hyper_head_weights(pre.data(), u.data(), base.data(), scale.data(), u.extent(0), N,
                                  T(eps));
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<T, D> c, RowsView<const T, N, D> X, RowsView<const T, N> pre) {
    reference::collapse_streams(c.data(), X.data(), pre.data(), X.extent(0), N, D);
  }

  template <std::size_t M, std::size_t N, std::size_t D>
  void mean_streams(RowsView<T, M, D> y, std::size_t slot, RowsView<const T, N, D> X) {
    reference::mean_streams(y.data() + slot * D, X.data(), X.extent(0), M, N, D);
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<T, N, D> X, RowsView<const T, N> post, RowsView<const T, N, N> comb,
                   RowsView<const T, D> y) {
    std::array<T, N> old;
    reference::mix_streams(X.data(), post.data(), comb.data(), y.data(), old.data(), X.extent(0), N,
                           D);
  }

  /// The entries first, first + 1, ... of a compressor, pooled but neither normed nor rotated.
  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<T, Width> entries, std::size_t first, const RowLog<Projected>& kv,
                    const RowLog<Projected>& gate, const Parameter<Ratio, Projected>& ape) {
    static_assert(Projected == (Overlapping ? 2 * Width : Width));
    const auto kv_row = [&](std::size_t t) { return kv.row(t); };
    const auto gate_row = [&](std::size_t t) { return gate.row(t); };
    for (std::size_t j = 0; j < entries.extent(0); ++j) {
      T* out = entries[j].data();
      if constexpr (Overlapping) {
        reference::pool_overlapping(out, first + j, Ratio, Width, ape.data(), kv_row, gate_row);
      } else {
        reference::pool_window(out, first + j, Ratio, Width, ape.data(), kv_row, gate_row);
      }
    }
  }

  /// The indexer's choice for every query: picks [S, index_topk], -1 for none.
  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const T, nI, dI> q,
                    RowsView<const T, nI> weights, std::span<const Segment> segments,
                    std::span<const RowLog<dI>* const> keys) {
    std::vector<T> score;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      for (std::size_t j = 0; j < segments[i].count; ++j) {
        const std::size_t s = segments[i].first + j;
        score.resize((segments[i].position + j + 1) / Ratio);
        reference::index_scores(score.data(), q[s].data(), weights[s].data(), score.size(), nI, dI,
                                [&](std::size_t w) { return keys[i]->row(w); });
        reference::top_entries(picks[s].data(), score, TopK);
      }
    }
  }

  /// Attention of every query over the keys that its kind of layer shows it. q, out [S, H, d].
  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<T, H, d> out, RowsView<const T, H, d> q, const Parameter<H>& sink,
              RowsView<const std::int32_t, TopK> picks, std::span<const Segment> segments,
              std::span<const Source> sources) {
    std::vector<const T*> keys;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      for (std::size_t j = 0; j < segments[i].count; ++j) {
        const std::size_t s = segments[i].first + j;
        [[maybe_unused]] const std::size_t t = segments[i].position + j;
        keys.clear();
        const Segment::Window seen = segments[i].window(s, W);
        for (std::size_t p = seen.begin; p < seen.end; ++p) {
          keys.push_back(sources[i].window->row(p));
        }
        if constexpr (Kind == AttentionKind::hca) {
          for (std::size_t w = 0; w < (t + 1) / Ratio; ++w) {
            keys.push_back(sources[i].entries->row(w));
          }
        } else if constexpr (Kind == AttentionKind::csa) {
          for (const std::int32_t w : picks[s].flat()) {
            if (w >= 0) keys.push_back(sources[i].entries->row(static_cast<std::size_t>(w)));
          }
        }
        reference::attend(out[s].data(), q[s].data(), sink.data(), keys, H, d);
      }
    }
  }

  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                     RowsView<const T, E> logits, std::span<const std::int32_t> ids,
                     const HashTable<V, k>& tid2eid, double scale) {
    for (std::size_t s = 0; s < ids.size(); ++s) {
      std::ranges::copy(tid2eid[static_cast<std::size_t>(ids[s])].flat(), experts[s].data());
      weigh_experts(experts[s], weights[s], logits[s], scale);
    }
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, const Parameter<E>& bias, double scale) {
    for (std::size_t s = 0; s < logits.extent(0); ++s) {
      std::array<T, E> score;
      std::ranges::transform(logits[s].flat(), score.begin(), reference::sqrt_softplus<T>);
      reference::select_experts(experts[s].data(), score.data(), bias.data(), E, k);
      weigh_experts(experts[s], weights[s], logits[s], scale);
    }
  }

  /// y [S, D] = sum over a token's experts of weight * expert(x).
  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<T, D> y, RowsView<const T, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const T, k> weights,
                      const Experts<Expert>& experts, double limit) {
    constexpr std::size_t F = Expert::F;
    std::ranges::fill(y.flat(), T(0));
    for (std::size_t e = 0; e < experts.size(); ++e) {
      std::vector<std::size_t> places;  // token * k + choice
      for (std::size_t i = 0; i < picks.size(); ++i) {
        if (static_cast<std::size_t>(picks.flat()[i]) == e) places.push_back(i);
      }
      if (places.empty()) continue;
      Scratch scratch;
      auto in = scratch.template rows<D>(places.size());
      auto hidden = scratch.template rows<F>(places.size());
      auto up = scratch.template rows<F>(places.size());
      for (std::size_t i = 0; i < places.size(); ++i) {
        std::ranges::copy(x[places[i] / k].flat(), in[i].data());
      }
      ops::linear(*this, hidden, in, experts[e].w1);
      ops::linear(*this, up, in, experts[e].w3);
      ops::swiglu(*this, hidden, up, limit);
      ops::linear(*this, in, hidden, experts[e].w2);
      for (std::size_t i = 0; i < places.size(); ++i) {
        for (std::size_t c = 0; c < D; ++c) {
          y(places[i] / k, c) += weights.flat()[places[i]] * in(i, c);
        }
      }
    }
  }

  template <std::size_t F>
  void swiglu(RowsView<T, F> gate, RowsView<const T, F> up, double limit) {
    reference::swiglu(gate.data(), up.data(), gate.size(), T(limit));
  }

  /// y += x.
  template <std::size_t D>
  void add(RowsView<T, D> y, RowsView<const T, D> x) {
    for (std::size_t i = 0; i < y.size(); ++i) y.flat()[i] += x.flat()[i];
  }

  /// X[s, n, :] += y[s, :].
  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<T, N, D> X, RowsView<const T, D> y) {
    for (std::size_t s = 0; s < y.extent(0); ++s) {
      for (std::size_t n = 0; n < N; ++n) {
        for (std::size_t i = 0; i < D; ++i) X(s, n, i) += y(s, i);
      }
    }
  }

  template <std::size_t V>
  void argmax(RowsView<std::int32_t, 1> ids, RowsView<const T, V> logits) {
    for (std::size_t s = 0; s < logits.extent(0); ++s) {
      ids(s, 0) = index_of_greatest(logits[s].flat());
    }
  }
  ///@}

 private:
  template <std::size_t E, std::size_t k>
  void weigh_experts(TensorView<std::int32_t, k> experts, TensorView<T, k> weights,
                     TensorView<const T, E> logits, double scale) {
    std::array<T, E> score;
    std::ranges::transform(logits.flat(), score.begin(), reference::sqrt_softplus<T>);
    reference::expert_weights(weights.data(), experts.data(), score.data(), k, T(scale));
  }
};

}  // namespace ds4::inline v0_1
