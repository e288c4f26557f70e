// The backend that trains: it runs the layers as they are written and records every operation.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/training.hpp>
#include <ds4/train/tape.hpp>

namespace ds4::inline v0_1 {

/// A weight [Rows, Cols] = [out, in] in training: its values, and where its gradient is added up.
template <class T, std::size_t Rows, std::size_t Cols>
struct TrainedMatrix {
  ///@{
  /// [kRows, kCols]; the gradient may be null.
  static constexpr std::size_t kRows = Rows;
  static constexpr std::size_t kCols = Cols;
  T* value = nullptr;
  T* gradient = nullptr;
  ///@}
};

/// A small weight in training.
template <class T, std::size_t... E>
struct TrainedParameter {
  ///@{
  /// The extents; the gradient may be null. The bias of a router has no gradient: what is added up
  /// instead is how many tokens each expert was given.
  static constexpr std::array<std::size_t, sizeof...(E)> kShape{E...};
  static constexpr std::size_t kLead = kShape[0];
  T* value = nullptr;
  T* gradient = nullptr;
  ///@}
};

/// The rows that a sequence has appended to a log: where the pass has them. A pass starts at a
/// sequence's first token and appends once, so nothing is copied.
template <class T, std::size_t Width>
class TapeLog {
 public:
  /// Values of a row.
  static constexpr std::size_t kWidth = Width;
  ///@{
  /// As RowLog has it.
  std::size_t first() const { return 0; }
  std::size_t end() const { return rows_; }
  void append(RowsView<const T, Width> rows) {
    assert(rows_ == 0);
    data_ = rows.data();
    rows_ = rows.extent(0);
  }
  ///@}
  /// Row 0, or null if there is none.
  const T* data() const { return data_; }

 private:
  const T* data_ = nullptr;
  std::size_t rows_ = 0;
};

/// Sums of the losses that arise inside layers, before any weight.
struct LossSums {
  double balance = 0.0;  ///< over the sequences and the learned-routed layers
  double indexer = 0.0;  ///< over the queries and the CSA layers
};

/// Runs a pass with kernels K (ReferenceTraining, SimdTraining) on a tape. See Backend; here are
/// the operations of a pass that starts at the first token of each of its sequences, as ds4::ops
/// has them, and with them their ways back.
template <class K>
class TapeBackend {
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

  /// Weights of the losses that arise inside layers; 0 leaves one out.
  struct LossWeights {
    double balance = 0.0;  ///< of a sequence's balance loss
    double indexer = 0.0;  ///< of a query's divergence
  };

  /// Nothing is recorded yet.
  explicit TapeBackend(K kernels = K()) : kernels_(std::move(kernels)), tape_(K::kDry) {}
  TapeBackend(const TapeBackend&) = delete;
  TapeBackend& operator=(const TapeBackend&) = delete;

  ///@{
  /// What it is made of.
  K& kernels() { return kernels_; }
  Tape<T>& tape() { return tape_; }
  ///@}

  /// Before a pass: see set_segments.
  void begin_pass(std::span<const Segment> segments, const LossWeights& weights) {
    segments_ = segments;
    weights_ = weights;
    losses_ = {};
  }
  /// The sequences of the operations that follow; they have to live until these have gone back.
  void set_segments(std::span<const Segment> segments) { segments_ = segments; }
  /// The sums of these losses, which are made while going back.
  const LossSums& losses() const { return losses_; }

  /// Whether operations are recorded, until the next call.
  void set_recording(bool recording) { recording_ = recording; }

  /// Activations. Their memory stays until the tape releases it: the way back needs it.
  class Scratch {
   public:
    /// In the memory of the backend's tape.
    explicit Scratch(TapeBackend& backend) : backend_(&backend) {}
    ///@{
    /// As Reference::Scratch has it.
    template <std::size_t... E>
    RowsView<T, E...> rows(std::size_t S) {
      return {backend_->tape_.allocate(S * (E * ... * 1)), S};
    }
    template <std::size_t... E>
    RowsView<std::int32_t, E...> indices(std::size_t S) {
      return {backend_->tape_.allocate_indices(S * (E * ... * 1)), S};
    }
    template <class Item>
    std::span<Item> array(std::size_t count) {
      auto items = std::make_shared<std::vector<Item>>(count);
      arrays_.push_back(items);
      return *items;
    }
    ///@}

   private:
    TapeBackend* backend_;
    std::vector<std::shared_ptr<void>> arrays_;
  };
  /// See Scratch.
  Scratch scratch() { return Scratch(*this); }
  /// Of the tape.
  std::size_t scratch_bytes() const { return tape_.held_bytes(); }

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
  /// The operations, as in ds4::ops.
  template <std::size_t N, std::size_t D, class W>
  void embed(RowsView<T, N, D> x, std::span<const std::int32_t> ids, const W& w) {
    kernels_.embed(x.data(), ids.data(), w.value, ids.size(), N, D);
    record_from(x, [=, this](const T* dx) {
      if (w.gradient == nullptr) return;
      kernels_.embed_backward(w.gradient, dx, ids.data(), ids.size(), N, D);
    });
  }

  template <std::size_t... E>
  void take_rows(RowsView<T, E...> y, RowsView<const T, E...> x,
                 std::span<const std::int32_t> rows) {
    constexpr std::size_t kWidth = (E * ... * 1);
    kernels_.take_rows(y.data(), x.data(), rows.data(), rows.size(), kWidth);
    record_from(y, [=, this](const T* dy) {
      kernels_.take_rows_backward(sum_at(x), dy, rows.data(), rows.size(), kWidth);
    });
  }

  template <std::size_t Width>
  void append(RowLog<Width>& log, RowsView<const T, Width> rows) {
    log.append(rows);
  }

  template <class Log>
  void forget_before(Log&, std::size_t) {}  // the way back needs all

  template <std::size_t... E>
  RowsView<const T, E...> detached(RowsView<const T, E...> x) {
    if (weights_.indexer == 0.0) return x;  // nothing will come back
    const RowsView<T, E...> copy(tape_.allocate(x.size(), false), x.extent(0));
    kernels_.copy(copy.data(), x.data(), x.size());
    return copy;
  }

  template <std::size_t N, std::size_t In, class W>
  void linear(RowsView<T, N> y, RowsView<const T, In> x, const W& w) {
    const std::size_t S = x.extent(0);
    kernels_.linear(y.data(), N, x.data(), In, w.value, S, N, In);
    record_from(y, [=, this](const T* dy) {
      const auto [dx, set] = target(x);
      kernels_.linear_backward(dx, !set, w.gradient, dy, N, x.data(), In, w.value, S, N, In);
    });
  }

  template <std::size_t G, std::size_t N, std::size_t In, class W>
  void grouped_linear(RowsView<T, G, N> y, RowsView<const T, G, In> x, const W& w) {
    const std::size_t S = x.extent(0);
    for (std::size_t g = 0; g < G; ++g) {
      kernels_.linear(y.data() + g * N, G * N, x.data() + g * In, G * In, w.value + g * N * In, S,
                      N, In);
    }
    record_from(y, [=, this](const T* dy) {
      const auto [dx, set] = target(x);
      for (std::size_t g = 0; g < G; ++g) {
        const std::size_t block = g * N * In;
        kernels_.linear_backward(dx == nullptr ? nullptr : dx + g * In, !set,
                                 w.gradient == nullptr ? nullptr : w.gradient + block, dy + g * N,
                                 G * N, x.data() + g * In, G * In, w.value + block, S, N, In);
      }
    });
  }

  template <std::size_t Width>
  void rms_norm(RowsView<T, Width> y, RowsView<const T, Width> x, const Parameter<Width>& weight,
                double eps) {
    norm_rows<Width>(y, x, weight.value, weight.gradient, eps);
  }
  template <std::size_t... E>
  void rms_norm(RowsView<T, E...> y, RowsView<const T, E...> x, double eps) {
    constexpr std::size_t kWidth = std::array<std::size_t, sizeof...(E)>{E...}.back();
    norm_rows<kWidth>(y, x, static_cast<const T*>(nullptr), static_cast<T*>(nullptr), eps);
  }

  template <std::size_t Pairs>
  void rotary_table(RotaryTable<T, Pairs> table, std::size_t first, std::size_t step,
                    const std::array<double, Pairs>& inv_freq) {
    kernels_.rotary_table(table.cos.data(), table.sin.data(), first, step, table.cos.extent(0),
                          inv_freq.data(), Pairs);
  }

  template <std::size_t H, std::size_t d, std::size_t Pairs>
  void rotate(RowsView<T, H, d> x, const RotaryTable<T, Pairs>& table, bool inverse) {
    const auto turn = [=, this](T* values, bool back) {
      kernels_.rotate(values, table.cos.data(), table.sin.data(), x.extent(0), H, d, Pairs, back);
    };
    turn(x.data(), inverse);
    record([=, this] {
      if (T* dx = tape_.gradient(x.data())) turn(dx, !inverse);
    });
  }

  template <std::size_t N>
  void hyper_connection_weights(RowsView<T, N> pre, RowsView<T, N> post, RowsView<T, N, N> comb,
                                RowsView<const T, (2 + N) * N> u,
                                const Parameter<(2 + N) * N>& base, const Parameter<3>& scale,
                                std::size_t iters, double eps) {
    const std::size_t S = u.extent(0);
    kernels_.hyper_connection_weights(pre.data(), post.data(), comb.data(), u.data(), base.value,
                                      scale.value, S, N, iters, eps);
    record([=, this] {
      const auto dpre = tape_.take_gradient(pre.data());
      const auto dpost = tape_.take_gradient(post.data());
      const auto dcomb = tape_.take_gradient(comb.data());
      if (dpre.get() == nullptr) return;
      kernels_.hyper_connection_weights_backward(sum_at(u), base.gradient, scale.gradient,
                                                 dpre.get(), dpost.get(), dcomb.get(), u.data(),
                                                 base.value, scale.value, S, N, iters, eps);
    });
  }

  template <std::size_t N>
  void hyper_head_weights(RowsView<T, N> pre, RowsView<const T, N> u, const Parameter<N>& base,
                          const Parameter<1>& scale, double eps) {
    const std::size_t S = u.extent(0);
    kernels_.hyper_head_weights(pre.data(), u.data(), base.value, scale.value, S, N, eps);
    record_from(pre, [=, this](const T* dpre) {
      kernels_.hyper_head_weights_backward(sum_at(u), base.gradient, scale.gradient, dpre, u.data(),
                                           base.value, scale.value, S, N);
    });
  }

  template <std::size_t N, std::size_t D>
  void collapse_streams(RowsView<T, D> c, RowsView<const T, N, D> X, RowsView<const T, N> pre) {
    const std::size_t S = X.extent(0);
    kernels_.collapse_streams(c.data(), X.data(), pre.data(), S, N, D);
    record_from(c, [=, this](const T* dc) {
      kernels_.collapse_streams_backward(sum_at(X), sum_at(pre), dc, X.data(), pre.data(), S, N, D);
    });
  }

  template <std::size_t N, std::size_t D>
  void mix_streams(RowsView<T, N, D> X, RowsView<const T, N> post, RowsView<const T, N, N> comb,
                   RowsView<const T, D> y) {
    const std::size_t S = X.extent(0);
    T* before = recording_ ? tape_.allocate(X.size(), false) : nullptr;
    kernels_.mix_streams(X.data(), before, post.data(), comb.data(), y.data(), S, N, D);
    record([=, this] {
      if (T* dX = tape_.gradient(X.data())) {
        kernels_.mix_streams_backward(dX, sum_at(post), sum_at(comb), sum_at(y), before,
                                      post.data(), comb.data(), y.data(), S, N, D);
      }
      kernels_.copy(X.data(), before, X.size());  // what the layer's earlier operations read
    });
  }

  template <std::size_t Ratio, bool Overlapping, std::size_t Width, std::size_t Projected>
  void pool_entries(RowsView<T, Width> entries, [[maybe_unused]] std::size_t first,
                    const RowLog<Projected>& kv, const RowLog<Projected>& gate,
                    const Parameter<Ratio, Projected>& ape) {
    static_assert(Projected == (Overlapping ? 2 * Width : Width));
    assert(first == 0);
    const PoolShape shape{entries.extent(0), Ratio, Width, Overlapping};
    const RowsView<const T, Projected> kv_rows(kv.data(), kv.end());
    const RowsView<const T, Projected> gate_rows(gate.data(), gate.end());
    kernels_.pool_entries(entries.data(), kv.data(), gate.data(), ape.value, shape);
    record_from(entries, [=, this](const T* dentries) {
      kernels_.pool_entries_backward(sum_at(kv_rows), sum_at(gate_rows), ape.gradient, dentries,
                                     kv_rows.data(), gate_rows.data(), ape.value, shape);
    });
  }

  template <std::size_t Ratio, std::size_t TopK, std::size_t nI, std::size_t dI>
  void pick_entries(RowsView<std::int32_t, TopK> picks, RowsView<const T, nI, dI> q,
                    RowsView<const T, nI> weights, std::span<const Segment> segments,
                    std::span<const RowLog<dI>* const> keys) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::size_t first = segments[i].first;
      const std::size_t count = segments[i].count;
      const IndexShape shape{count, nI, dI, Ratio, TopK};
      const RowsView<const T, dI> rows(keys[i]->data(), keys[i]->end());
      const auto q_rows = q.rows(first, count);
      const auto w_rows = weights.rows(first, count);
      std::int32_t* own = picks.rows(first, count).data();
      kernels_.pick_entries(own, q_rows.data(), w_rows.data(), rows.data(), shape);
      if (!recording_ || weights_.indexer == 0.0 || rows.extent(0) == 0) continue;
      T* received = tape_.allocate(count * TopK, false);
      received_.emplace_back(own, received);
      record([=, this] {
        losses_.indexer +=
            kernels_.index_loss(sum_at(q_rows), sum_at(w_rows), sum_at(rows), received, own,
                                q_rows.data(), w_rows.data(), rows.data(), shape, weights_.indexer);
      });
    }
  }

  template <AttentionKind Kind, std::size_t Ratio, std::size_t W, std::size_t H, std::size_t d,
            std::size_t TopK, class Source>
  void attend(RowsView<T, H, d> out, RowsView<const T, H, d> q, const Parameter<H>& sink,
              RowsView<const std::int32_t, TopK> picks, std::span<const Segment> segments,
              std::span<const Source> sources) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::size_t first = segments[i].first;
      const std::size_t count = segments[i].count;
      const RowsView<const T, d> window(sources[i].window->data(), count);
      RowsView<const T, d> entries(nullptr, 0);
      if constexpr (Kind != AttentionKind::sliding) {
        entries = {sources[i].entries->data(), sources[i].entries->end()};
      }
      const std::int32_t* own = nullptr;
      if constexpr (Kind == AttentionKind::csa) own = picks.rows(first, count).data();
      const AttentionShape shape{Kind, count, H, d, W, Ratio, TopK, entries.extent(0)};
      const auto q_rows = q.rows(first, count);
      const auto out_rows = out.rows(first, count);
      kernels_.attend(out_rows.data(), received_by(own), q_rows.data(), sink.value, window.data(),
                      entries.data(), own, shape);
      record([=, this] {
        const T* dout = tape_.gradient(out_rows.data());
        if (dout == nullptr) return;
        kernels_.attend_backward(sum_at(q_rows), sink.gradient, sum_at(window),
                                 entries.extent(0) > 0 ? sum_at(entries) : nullptr, dout,
                                 q_rows.data(), sink.value, window.data(), entries.data(), own,
                                 shape);
      });
    }
  }

  template <std::size_t E, std::size_t k, std::size_t V>
  void route_by_hash(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                     RowsView<const T, E> logits, std::span<const std::int32_t> ids,
                     const HashTable<V, k>& tid2eid, double scale) {
    kernels_.route_by_hash(experts.data(), weights.data(), logits.data(), ids.data(),
                           tid2eid.data(), ids.size(), E, k, scale);
    record_weights(experts, weights, logits, scale);
  }

  template <std::size_t E, std::size_t k>
  void route_by_score(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, const Parameter<E>& bias, double scale) {
    kernels_.route_by_score(experts.data(), weights.data(), logits.data(), bias.value,
                            logits.extent(0), E, k, scale);
    record([=, this, segments = segments_] {
      if (bias.gradient != nullptr) {
        kernels_.count_load(bias.gradient, experts.data(), experts.size());
      }
      if (weights_.balance == 0.0) return;
      for (const Segment& segment : segments) {
        const auto own = logits.rows(segment.first, segment.count);
        losses_.balance +=
            kernels_.balance_loss(sum_at(own), experts.rows(segment.first, segment.count).data(),
                                  own.data(), segment.count, E, k, weights_.balance);
      }
    });
    record_weights(experts, weights, logits, scale);
  }

  template <std::size_t D, std::size_t k, class Expert>
  void routed_experts(RowsView<T, D> y, RowsView<const T, D> x,
                      RowsView<const std::int32_t, k> picks, RowsView<const T, k> weights,
                      const Experts<Expert>& experts, double limit) {
    constexpr std::size_t F = Expert::F;
    const ExpertShape shape{x.extent(0), k, experts.size(), D, F};
    const std::size_t places = shape.S * k;
    const ExpertRecord<T> kept{tape_.allocate_indices(places), tape_.allocate_indices(shape.E + 1),
                               tape_.allocate(places * F), tape_.allocate(places * F)};
    struct All {
      std::vector<ExpertMatrices<const T>> values;
      std::vector<ExpertMatrices<T>> gradients;
    };
    auto all = std::make_shared<All>();
    for (const Expert& e : experts) {
      all->values.push_back({e.w1.value, e.w2.value, e.w3.value});
      all->gradients.push_back({e.w1.gradient, e.w2.gradient, e.w3.gradient});
    }
    kernels_.routed_experts(y.data(), kept, x.data(), picks.data(), weights.data(), all->values,
                            shape, limit);
    record_from(y, [=, this](const T* dy) {
      const ExpertRecord<const T> made{kept.places, kept.begin, kept.gate, kept.up};
      kernels_.routed_experts_backward(sum_at(x), sum_at(weights), all->gradients, dy, made,
                                       x.data(), weights.data(), all->values, shape, limit);
    });
  }

  template <std::size_t F>
  void swiglu(RowsView<T, F> gate, RowsView<const T, F> up, double limit) {
    const T* before = kept_copy(gate);
    kernels_.swiglu(gate.data(), before, up.data(), gate.size(), limit);
    record_from(gate, [=, this](const T* dy) {
      kernels_.swiglu_backward(sum_at(gate), sum_at(up), dy, before, up.data(), gate.size(), limit);
    });
  }

  template <std::size_t D>
  void add(RowsView<T, D> y, RowsView<const T, D> x) {
    kernels_.add(y.data(), x.data(), y.size());
    record([=, this] {
      const T* dy = tape_.gradient(y.data());
      if (dy == nullptr) return;
      const auto [dx, set] = target(x);
      if (set) {
        kernels_.copy(dx, dy, x.size());
      } else if (dx != nullptr) {
        kernels_.add(dx, dy, x.size());
      }
    });
  }

  template <std::size_t N, std::size_t D>
  void add_to_streams(RowsView<T, N, D> X, RowsView<const T, D> y) {
    kernels_.add_to_streams(X.data(), y.data(), y.extent(0), N, D);
    record([=, this] {
      if (const T* dX = tape_.gradient(X.data())) {
        kernels_.add_to_streams_backward(sum_at(y), dX, y.extent(0), N, D);
      }
    });
  }
  ///@}

  /// The sum of the cross-entropy of the targets [S], -1 for none, of the logits y w^T. Recording,
  /// makes the gradients of weight * that at once, so that the logits of few rows are in memory at
  /// a time. y [S, D]; w [V, D].
  template <std::size_t D, class W>
  double cross_entropy(RowsView<const T, D> y, const W& w, std::span<const std::int32_t> targets,
                       double weight) {
    constexpr std::size_t V = W::kRows;
    constexpr std::size_t kRows = std::max<std::size_t>(64, (std::size_t{1} << 20) / V);
    double loss = 0.0;
    const std::size_t mark = tape_.mark();
    const std::size_t S = y.extent(0);
    T* dy = nullptr;
    if (recording_) dy = target(y).at;
    T* logits = tape_.allocate(std::min(S, kRows) * V, false);
    for (std::size_t s = 0; s < S; s += kRows) {
      const std::size_t rows = std::min(kRows, S - s);
      const T* in = y.data() + s * D;
      kernels_.linear(logits, V, in, D, w.value, rows, V, D);
      loss += kernels_.cross_entropy(logits, logits, targets.data() + s, rows, V, weight);
      if (dy == nullptr) continue;
      kernels_.linear_backward(dy + s * D, false, w.gradient, logits, V, in, D, w.value, rows, V,
                               D);
    }
    tape_.release(mark);
    return loss;
  }

  /// Appends a way back if operations are recorded.
  template <class F>
  void record(F&& back) {
    if (recording_) tape_.record(std::forward<F>(back));
  }

 private:
  // Where the gradient of x goes, for kernels that can set it; zeros otherwise.
  template <std::size_t... E>
  typename Tape<T>::Target target(RowsView<const T, E...> x) {
    return tape_.target(x.data(), x.size(), [&](T* p, std::size_t n) { kernels_.zero(p, n); });
  }
  template <std::size_t... E>
  T* sum_at(RowsView<const T, E...> x) {
    const auto [at, set] = target(x);
    if (set) kernels_.zero(at, x.size());
    return at;
  }
  template <std::size_t... E>
  T* sum_at(RowsView<T, E...> x) {
    return sum_at(x.as_const());
  }

  // The way back of an operation that wrote all of y: back(dy), if anything has reached y. If it
  // read y as well, y's gradient starts anew.
  template <std::size_t... E, class F>
  void record_from(RowsView<T, E...> y, F back) {
    record([=, this] {
      const auto dy = tape_.take_gradient(y.data());
      if (dy.get() != nullptr) back(static_cast<const T*>(dy.get()));
    });
  }
  template <std::size_t... E>
  const T* kept_copy(RowsView<T, E...> x) {
    if (!recording_) return x.data();
    T* copy = tape_.allocate(x.size(), false);
    kernels_.copy(copy, x.data(), x.size());
    return copy;
  }

  template <std::size_t Width, std::size_t... E>
  void norm_rows(RowsView<T, E...> y, RowsView<const T, E...> x, const T* weight, T* gradient,
                 double eps) {
    const std::size_t rows = x.size() / Width;
    const T* from = x.data();
    if (y.data() == from) from = kept_copy(y);
    kernels_.rms_norm(y.data(), from, weight, rows, Width, eps);
    record_from(y, [=, this](const T* dy) {
      kernels_.rms_norm_backward(sum_at(x), gradient, dy, from, weight, rows, Width, eps);
    });
  }

  template <std::size_t E, std::size_t k>
  void record_weights(RowsView<std::int32_t, k> experts, RowsView<T, k> weights,
                      RowsView<const T, E> logits, double scale) {
    record_from(weights, [=, this](const T* dweights) {
      kernels_.expert_weights_backward(sum_at(logits), dweights, experts.data(), logits.data(),
                                       logits.extent(0), E, k, scale);
    });
  }

  // Where the attention that these picks receive is wanted, or null.
  T* received_by(const std::int32_t* picks) {
    if (!recording_) return nullptr;
    for (auto at = received_.begin(); at != received_.end(); ++at) {
      if (at->first != picks) continue;
      T* received = at->second;
      received_.erase(at);
      return received;
    }
    return nullptr;
  }

  K kernels_;
  Tape<T> tape_;
  bool recording_ = true;
  std::span<const Segment> segments_;
  LossWeights weights_;
  LossSums losses_;
  std::vector<std::pair<const std::int32_t*, T*>> received_;  // of picks whose attention is to come
};

}  // namespace ds4::inline v0_1
