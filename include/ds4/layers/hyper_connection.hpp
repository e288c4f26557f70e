// Manifold-constrained hyper-connections (mHC): how a sublayer reads and writes the N streams.
#pragma once

#include <cstddef>
#include <string_view>

#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// One site's hyper-connection. Source: model.md 3; paper 2.2.
template <ModelConfig C, Backend B>
struct HyperConnection {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  using T = typename B::Element;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<(2 + N) * N, N * D> fn;
  typename B::template Parameter<(2 + N) * N> base;
  typename B::template Parameter<3> scale;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("fn", fn);
    visitor("base", base);
    visitor("scale", scale);
  }

  /// From the streams X [S, N, D]: c [S, D], the sublayer's input; post [S, N] and comb [S, N, N],
  /// by which `mix` writes its output back.
  void read(const Pass<C, B>& pass, RowsView<T, D> c, RowsView<T, N> post, RowsView<T, N, N> comb,
            RowsView<const T, N, D> X) const {
    const auto region = pass.region("hyper_connection");
    auto scratch = pass.backend.scratch();
    auto normed = scratch.template rows<N * D>(pass.rows());
    auto u = scratch.template rows<(2 + N) * N>(pass.rows());
    auto pre = scratch.template rows<N>(pass.rows());
    ops::rms_norm(pass.backend, normed, X.template as<N * D>(), C::rms_norm_eps);
    ops::linear(pass.backend, u, normed, fn);
    ops::hyper_connection_weights(pass.backend, pre, post, comb, u, base, scale,
                                  C::hc_sinkhorn_iters, C::hc_eps);
    ops::collapse_streams(pass.backend, c, X, pre);
  }

  /// X[n, :] <- post[n] * y + sum_j comb[j, n] * X[j, :], in place: comb is read transposed.
  void mix(const Pass<C, B>& pass, RowsView<T, N, D> X, RowsView<const T, N> post,
           RowsView<const T, N, N> comb, RowsView<const T, D> y) const {
    const auto region = pass.region("mix_streams");
    ops::mix_streams(pass.backend, X, post, comb, y);
  }
};

/// The collapse of the streams before the head: the `pre` part of a hyper-connection alone.
/// Source: model.md 3.4.
template <ModelConfig C, Backend B>
struct HyperHead {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  using T = typename B::Element;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<N, N * D> fn;
  typename B::template Parameter<N> base;
  typename B::template Parameter<1> scale;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("fn", fn);
    visitor("base", base);
    visitor("scale", scale);
  }

  /// c [S, D] = sum_n (sigmoid(u[n] * scale + base[n]) + hc_eps) * X[n, :].
  void read(B& backend, RowsView<T, D> c, RowsView<const T, N, D> X) const {
    auto scratch = backend.scratch();
    auto normed = scratch.template rows<N * D>(X.extent(0));
    auto u = scratch.template rows<N>(X.extent(0));
    auto pre = scratch.template rows<N>(X.extent(0));
    ops::rms_norm(backend, normed, X.template as<N * D>(), C::rms_norm_eps);
    ops::linear(backend, u, normed, fn);
    ops::hyper_head_weights(backend, pre, u, base, scale, C::hc_eps);
    ops::collapse_streams(backend, c, X, pre);
  }
};

/// What the head multiplies: y [S, D] = rms(hc_head(X); norm) of the streams X [S, N, D] behind the
/// last layer. Source: model.md 2.
template <ModelConfig C, Backend B>
void final_norm(const Pass<C, B>& pass, RowsView<typename B::Element, C::hidden_size> y,
                const HyperHead<C, B>& hc_head,
                const typename B::template Parameter<C::hidden_size>& norm,
                RowsView<const typename B::Element, C::hc_mult, C::hidden_size> X) {
  hc_head.read(pass.backend, y, X);
  pass.observe("hc_head", y);
  ops::rms_norm(pass.backend, y, y, norm, C::rms_norm_eps);
  pass.observe("final_norm", y);
}

}  // namespace ds4::inline v0_1
