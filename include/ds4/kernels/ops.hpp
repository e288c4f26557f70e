// The operations that a backend provides, with their shapes: every product and norm of the model
// goes through here, so a mismatched extent does not compile, whatever the backend.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ds4/config/config.hpp>
#include <ds4/core/tensor.hpp>

namespace ds4::inline v0_1 {

/// A run of tokens of one sequence within a pass: rows first .. first + count - 1 of every
/// activation, at positions position .. position + count - 1 of the sequence.
struct Segment {
  ///@{
  /// See above.
  std::size_t first;
  std::size_t count;
  std::size_t position;
  ///@}
  std::size_t rollback = 0;  ///< how many of the sequence's last tokens may be taken back later
  /// The tokens are a block of DSpark: each of them sees all of them, and the W tokens before the
  /// first. Source: model.md 19.2.
  bool block = false;

  /// The earliest position that the sequence may be at for its next pass.
  std::size_t earliest() const {
    const std::size_t end = position + count;
    return end - std::min(end, rollback);
  }

  /// A run of window rows: those of the tokens begin .. end - 1.
  struct Window {
    ///@{
    /// See above.
    std::size_t begin;
    std::size_t end;
    ///@}
  };
  /// What row `row` of the pass, one of this segment's, sees of a window of W tokens.
  Window window(std::size_t row, std::size_t W) const {
    const std::size_t t = position + (row - first);
    if (block) return {position - std::min(position, W), position + count};
    return {t + 1 - std::min(t + 1, W), t + 1};
  }
};

/// Cosines and sines of one rotary table for the rows of a pass, [S, r/2] each.
template <class T, std::size_t Pairs>
struct RotaryTable {
  ///@{
  /// [S, Pairs].
  RowsView<T, Pairs> cos;
  RowsView<T, Pairs> sin;
  ///@}
};

/// A backend is a value that owns scratch memory and threads, if any, and runs the operations below
/// on tensors in its own memory. Scalar is what a number is for the host; tensors are made of
/// Element and Index, which are Scalar and int32 where the backend's memory is the host's, and
/// otherwise types that the host cannot read. Weights are Matrix, Parameter and HashTable, state
/// rows are RowLog; see kernels/reference.hpp for the plainest one.
///
/// backend.run(f) calls f(lane) once on each of the backend's threads, with a backend that stands
/// for that thread; everything below `run` is written once and executed by all lanes together. All
/// lanes call the same operations in the same order with the same arguments (scratch memory is the
/// same for all), an operation divides its work among them, and its result is complete for all
/// lanes when it returns. What a lane throws ends the run on all lanes, which do not wait for it
/// any more, and comes out of `run`.
template <class B>
concept Backend = requires(B backend, void (*lane)(B&)) {
  typename B::Scalar;
  typename B::Element;
  typename B::Index;
  typename B::template Matrix<2, 3>;
  typename B::template Parameter<2>;
  typename B::template HashTable<2, 3>;
  typename B::template RowLog<2>;    // float rows that a compressor still needs
  typename B::template KeyLog<2>;    // rows that queries attend to: window and compressed entries
  typename B::template IndexLog<2>;  // rows that the indexer scores
  backend.scratch();
  backend.run(lane);  // no lambda here: nvcc does not accept one in a concept
  { backend.is_leader() } -> std::same_as<bool>;  // true on exactly one lane
  backend.wait_for_all();
  { backend.scratch_bytes() } -> std::same_as<std::size_t>;  // kept from pass to pass
  backend.release_scratch();                                 // gives that back, between passes
};

}  // namespace ds4::inline v0_1

/// The operations of a model.
namespace ds4::inline v0_1::ops {

// Each operation settles its shapes here and hands the typed views on: Y and X stand for the
// backend's Scalar, with or without const. Inputs reach the backend as const views.

/// x[s, n, :] = embed[ids[s], :] for every stream n. embed [V, D]; x [S, N, D]. ids are below V.
/// Source: model.md 2.
template <class B, class T, std::size_t N, std::size_t D, class W>
void embed(B& backend, RowsView<T, N, D> x, std::span<const typename B::Index> ids,
           const W& embed) {
  static_assert(W::kCols == D, "ds4::embed: x is [S, N, D] and embed is [V, D]; both D must agree");
  assert(ids.size() == x.extent(0));
  backend.embed(x, ids, embed);
}

/// y[i, :] = x[rows[i], :].
template <class B, class Y, class X, std::size_t... E>
void take_rows(B& backend, RowsView<Y, E...> y, RowsView<X, E...> x,
               std::span<const typename B::Index> rows) {
  assert(y.extent(0) == rows.size());
  backend.take_rows(y, x.as_const(), rows);
}

/// x, to be read by what has no part in its gradient: x itself unless the backend trains.
template <class B, class X, std::size_t... E>
auto detached([[maybe_unused]] B& backend, RowsView<X, E...> x) {
  if constexpr (requires { backend.detached(x.as_const()); }) {
    return backend.detached(x.as_const());
  } else {
    return x.as_const();
  }
}

/// Adds rows to a sequence's log.
template <class B, class Log, class X, std::size_t Width>
void append(B& backend, Log& log, RowsView<X, Width> rows) {
  static_assert(Log::kWidth == Width, "ds4::append: rows are [Width] wide, as those of the log");
  backend.append(log, rows.as_const());
}

/// rows = those of a RowLog from number `first` on.
template <class B, class Log, class T, std::size_t Width>
void read_rows(B& backend, RowsView<T, Width> rows, const Log& log, std::size_t first) {
  static_assert(Log::kWidth == Width, "ds4::read_rows: rows are [Width] wide, as those of the log");
  assert(first >= log.first() && first + rows.extent(0) <= log.end());
  backend.read_rows(rows, log, first);
}

/// Forgets the rows before `row`; nothing reads the log before it is appended to again.
template <class B, class Log>
void forget_before(B& backend, Log& log, std::size_t row) {
  backend.forget_before(log, row);
}

/// y = x w^T. x [S, K]; w [N, K]; y [S, N]. y may not overlap x.
template <class B, class Y, class X, std::size_t N, std::size_t K, class W>
void linear(B& backend, RowsView<Y, N> y, RowsView<X, K> x, const W& w) {
  static_assert(W::kCols == K,
                "ds4::linear: x is [S, K] and w is [N, K]; K of w must equal K of x");
  static_assert(W::kRows == N,
                "ds4::linear: y is [S, N] and w is [N, K]; N of w must equal N of y");
  assert(y.extent(0) == x.extent(0));
  backend.linear(y, x.as_const(), w);
}

/// Block-diagonal product: y[s, g, :] = w[g * N + (0 .. N-1), :] x[s, g, :]. x [S, G, K];
/// w [G * N, K]; y [S, G, N]. Source: model.md 5.
template <class B, class Y, class X, std::size_t G, std::size_t N, std::size_t GX, std::size_t K,
          class W>
void grouped_linear(B& backend, RowsView<Y, G, N> y, RowsView<X, GX, K> x, const W& w) {
  static_assert(GX == G, "ds4::grouped_linear: x is [S, G, K] and y is [S, G, N]; G must agree");
  static_assert(W::kCols == K, "ds4::grouped_linear: w is [G * N, K]; K of w must equal K of x");
  static_assert(W::kRows == G * N, "ds4::grouped_linear: w is [G * N, K]; its rows must be G * N");
  assert(y.extent(0) == x.extent(0));
  backend.grouped_linear(y, x.as_const(), w);
}

/// y = weight * x / sqrt(mean(x^2) + eps) over the last axis. x, y [S, K]; weight [K]. y may be x.
/// Source: model.md 2.1.
template <class B, class Y, class X, std::size_t K, std::size_t KX, class P>
void rms_norm(B& backend, RowsView<Y, K> y, RowsView<X, KX> x, const P& weight, double eps) {
  static_assert(KX == K, "ds4::rms_norm: x is [S, K] and y is [S, K]; K must agree");
  static_assert(P::kLead == K, "ds4::rms_norm: weight is [K]; its length must equal K of x");
  assert(y.extent(0) == x.extent(0));
  backend.rms_norm(y, x.as_const(), weight, eps);
}

/// The unweighted norm over the last axis of [S, ..., K]. y may be x. Source: model.md 2.1.
template <class B, class Y, class X, std::size_t... E>
void rms_norm(B& backend, RowsView<Y, E...> y, RowsView<X, E...> x, double eps) {
  assert(y.extent(0) == x.extent(0));
  backend.rms_norm(y, x.as_const(), eps);
}

/// Fills a rotary table whose row i is for position first + i * step: angles position * inv_freq.
/// Source: model.md 4.1.
template <class B, class T, std::size_t Pairs>
void rotary_table(B& backend, const RotaryTable<T, Pairs>& table, std::size_t first,
                  std::size_t step, const std::array<double, Pairs>& inv_freq) {
  assert(table.cos.extent(0) == table.sin.extent(0));
  backend.rotary_table(table, first, step, inv_freq);
}

/// Forward, or back again.
enum class Rotation : std::uint8_t { forward, inverse };

/// Rotates the last 2 * Pairs values of each head in place. x [S, H, d]; table [S, Pairs].
/// Source: model.md 4.1.
template <class B, class T, std::size_t H, std::size_t d, std::size_t Pairs>
void rotate(B& backend, RowsView<T, H, d> x, const RotaryTable<T, Pairs>& table,
            Rotation direction = Rotation::forward) {
  static_assert(2 * Pairs <= d, "ds4::rotate: the rotary width 2 * Pairs must not exceed d");
  assert(table.cos.extent(0) == x.extent(0));
  backend.rotate(x, table, direction == Rotation::inverse);
}

/// From u [S, (2+N)N]: the input weights pre [S, N] of the streams, and post [S, N] and comb
/// [S, N, N] after `iters` Sinkhorn rounds. base [(2+N)N]; scale [3]. Source: model.md 3.1 and 3.2.
template <class B, class T, class X, std::size_t N, std::size_t U, class Base, class Scale>
void hyper_connection_weights(B& backend, RowsView<T, N> pre, RowsView<T, N> post,
                              RowsView<T, N, N> comb, RowsView<X, U> u, const Base& base,
                              const Scale& scale, std::size_t iters, double eps) {
  static_assert(U == (2 + N) * N, "ds4::hyper_connection_weights: u is [S, (2+N)N], pre is [S, N]");
  static_assert(Base::kLead == U, "ds4::hyper_connection_weights: base has one value per u");
  static_assert(Scale::kLead == 3, "ds4::hyper_connection_weights: scale is [3]");
  backend.hyper_connection_weights(pre, post, comb, u.as_const(), base, scale, iters, eps);
}

/// From u [S, N]: the input weights pre [S, N] of the final collapse. base [N]; scale [1].
/// Source: model.md 3.4.
template <class B, class T, class X, std::size_t N, class Base, class Scale>
void hyper_head_weights(B& backend, RowsView<T, N> pre, RowsView<X, N> u, const Base& base,
                        const Scale& scale, double eps) {
  static_assert(Base::kLead == N, "ds4::hyper_head_weights: base has one value per stream");
  static_assert(Scale::kLead == 1, "ds4::hyper_head_weights: scale is [1]");
  backend.hyper_head_weights(pre, u.as_const(), base, scale, eps);
}

/// c[s, :] = sum_n pre[s, n] * X[s, n, :]. X [S, N, D]; pre [S, N]; c [S, D]. Source: model.md 3.1.
template <class B, class T, class X, class P, std::size_t N, std::size_t D>
void collapse_streams(B& backend, RowsView<T, D> c, RowsView<X, N, D> streams, RowsView<P, N> pre) {
  backend.collapse_streams(c, streams.as_const(), pre.as_const());
}

/// y[s, slot, :] = mean_n X[s, n, :]. X [S, N, D]; y [S, M, D]; slot < M. Source: model.md 19.1.
template <class B, class T, class X, std::size_t M, std::size_t N, std::size_t D>
void mean_streams(B& backend, RowsView<T, M, D> y, std::size_t slot, RowsView<X, N, D> streams) {
  assert(slot < M && y.extent(0) == streams.extent(0));
  backend.mean_streams(y, slot, streams.as_const());
}

/// X[n, :] <- post[n] * y + sum_j comb[j, n] * X[j, :] for every token, in place: comb is read
/// transposed. X [S, N, D]; post [S, N]; comb [S, N, N]; y [S, D]. Source: model.md 3.3.
template <class B, class T, class P, class M, class Y, std::size_t N, std::size_t D>
void mix_streams(B& backend, RowsView<T, N, D> streams, RowsView<P, N> post, RowsView<M, N, N> comb,
                 RowsView<Y, D> y) {
  backend.mix_streams(streams, post.as_const(), comb.as_const(), y.as_const());
}

/// The compressed entries first, first + 1, ... of a compressor, pooled from its projections of
/// the tokens, neither normed nor rotated. entries [n, Width]; kv, gate logs of rows
/// [Projected]; ape [Ratio, Projected]; Projected is 2 * Width where windows overlap.
/// Source: model.md 5.1 and 5.2.
template <std::size_t Ratio, bool Overlapping, class B, class T, std::size_t Width, class Log,
          class P>
void pool_entries(B& backend, RowsView<T, Width> entries, std::size_t first, const Log& kv,
                  const Log& gate, const P& ape) {
  static_assert(Log::kWidth == (Overlapping ? 2 * Width : Width),
                "ds4::pool_entries: kv rows are Width wide, 2 * Width where windows overlap");
  static_assert(P::kLead == Ratio, "ds4::pool_entries: ape has one row per token of a window");
  backend.template pool_entries<Ratio, Overlapping>(entries, first, kv, gate, ape);
}

/// The lightning indexer's choice for each query among the entries w < (t + 1) / Ratio: picks
/// [S, index_topk], -1 for none. q [S, nI, dI]; weights [S, nI]; one log of keys [dI] per segment.
/// Source: model.md 5.2.
template <std::size_t Ratio, class B, class I, class X, class Z, std::size_t TopK, std::size_t nI,
          std::size_t dI, class Log>
void pick_entries(B& backend, RowsView<I, TopK> picks, RowsView<X, nI, dI> q,
                  RowsView<Z, nI> weights, std::span<const Segment> segments,
                  std::span<const Log* const> keys) {
  static_assert(Log::kWidth == dI, "ds4::pick_entries: q is [S, nI, dI] and keys are [dI]");
  assert(keys.size() == segments.size());
  backend.template pick_entries<Ratio>(picks, q.as_const(), weights.as_const(), segments, keys);
}

/// Attention of each query over its window rows (see Segment::window) and the entries that its kind
/// of layer shows it: none, its picks, or all w < (t + 1) / Ratio. q, out [S, H, d]; sink [H];
/// picks [S, TopK], no rows unless Kind is csa; one source per segment. Source: model.md 5.
template <AttentionKind Kind, std::size_t Ratio, std::size_t W, class B, class T, class X, class I,
          std::size_t H, std::size_t d, std::size_t TopK, class P, class Source>
void attend(B& backend, RowsView<T, H, d> out, RowsView<X, H, d> q, const P& sink,
            RowsView<I, TopK> picks, std::span<const Segment> segments,
            std::span<const Source> sources) {
  static_assert(P::kLead == H, "ds4::attend: sink is [H] and q is [S, H, d]; H must agree");
  static_assert(Source::kWidth == d, "ds4::attend: keys are [d] and q is [S, H, d]; d must agree");
  assert(sources.size() == segments.size());
  backend.template attend<Kind, Ratio, W>(out, q.as_const(), sink, picks.as_const(), segments,
                                          sources);
}

/// Experts by table: experts[s, :] = tid2eid[ids[s], :], weights from the scores. logits [S, E].
/// Source: model.md 6.1.
template <class B, class I, class T, class X, std::size_t E, std::size_t k, class Table>
void route_by_hash(B& backend, RowsView<I, k> experts, RowsView<T, k> weights,
                   RowsView<X, E> logits, std::span<const typename B::Index> ids,
                   const Table& tid2eid, double scale) {
  assert(ids.size() == logits.extent(0));
  backend.route_by_hash(experts, weights, logits.as_const(), ids, tid2eid, scale);
}

/// Experts by score: the k of the largest sqrt(softplus(logit)) + bias; the bias only selects.
/// Source: model.md 6.1.
template <class B, class I, class T, class X, std::size_t E, std::size_t k, class P>
void route_by_score(B& backend, RowsView<I, k> experts, RowsView<T, k> weights,
                    RowsView<X, E> logits, const P& bias, double scale) {
  static_assert(P::kLead == E, "ds4::route_by_score: bias is [E] and logits are [S, E]");
  backend.route_by_score(experts, weights, logits.as_const(), bias, scale);
}

/// y[s, :] = sum_i weights[s, i] * expert_{picks[s, i]}(x[s, :]). x, y [S, D]. Source: model.md 6.
template <class B, class Y, class X, class I, class P, std::size_t D, std::size_t k, class Experts>
void routed_experts(B& backend, RowsView<Y, D> y, RowsView<X, D> x, RowsView<I, k> picks,
                    RowsView<P, k> weights, const Experts& experts, double limit) {
  static_assert(Experts::value_type::D == D,
                "ds4::routed_experts: x is [S, D]; D of the experts must agree");
  backend.routed_experts(y, x.as_const(), picks.as_const(), weights.as_const(), experts, limit);
}

/// gate <- silu(min(gate, limit)) * clamp(up, -limit, limit). gate, up [S, F].
/// Source: model.md 6.2.
template <class B, class T, class X, std::size_t F>
void swiglu(B& backend, RowsView<T, F> gate, RowsView<X, F> up, double limit) {
  assert(gate.extent(0) == up.extent(0));
  backend.swiglu(gate, up.as_const(), limit);
}

/// y += x. x, y [S, D].
template <class B, class T, class X, std::size_t D>
void add(B& backend, RowsView<T, D> y, RowsView<X, D> x) {
  assert(y.extent(0) == x.extent(0));
  backend.add(y, x.as_const());
}

/// X[s, n, :] += y[s, :] for every stream n. X [S, N, D]; y [S, D]. Source: model.md 9.1.
template <class B, class T, class Y, std::size_t N, std::size_t D>
void add_to_streams(B& backend, RowsView<T, N, D> streams, RowsView<Y, D> y) {
  assert(streams.extent(0) == y.extent(0));
  backend.add_to_streams(streams, y.as_const());
}

/// ids[s] = the index of the largest of logits[s, :], a tie to the lower one; -1 if the row has a
/// NaN or +infinity, or no finite value. logits [S, V]; ids [S, 1].
template <class B, class I, class X, std::size_t V>
void argmax(B& backend, RowsView<I, 1> ids, RowsView<X, V> logits) {
  assert(ids.extent(0) == logits.extent(0));
  backend.argmax(ids, logits.as_const());
}

}  // namespace ds4::inline v0_1::ops
