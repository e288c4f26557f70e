// A decoder layer: attention and mixture of experts, each behind its hyper-connection.
#pragma once

#include <cstddef>
#include <span>

#include <ds4/layers/attention.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/moe.hpp>
#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// One layer's weights and its forward pass. Layers of one (Ratio, Router) share one type, so their
/// code exists once. Source: model.md 2.2.
template <ModelConfig C, std::size_t Ratio, RouterKind Router, Backend B>
struct DecoderLayer {
  static_assert(checked_config<C>());
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t kCompressRatio = Ratio;
  static constexpr RouterKind kRouter = Router;
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  using T = typename B::Element;
  using State = typename Attention<C, Ratio, B>::State;
  ///@}

  ///@{
  /// The parts, named as in a checkpoint.
  HyperConnection<C, B> hc_attn;
  typename B::template Parameter<D> attn_norm;
  Attention<C, Ratio, B> attn;
  HyperConnection<C, B> hc_ffn;
  typename B::template Parameter<D> ffn_norm;
  Moe<C, Router, B> ffn;
  ///@}

  /// Calls the visitor with the name (as in a checkpoint, after "layers.N.") of every weight.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor.group("hc_attn_", hc_attn);
    visitor("attn_norm.weight", attn_norm);
    visitor.group("attn.", attn);
    visitor.group("hc_ffn_", hc_ffn);
    visitor("ffn_norm.weight", ffn_norm);
    visitor.group("ffn.", ffn);
  }

  /// Advances the streams X [S, N, D] by this layer, in place; one state per segment of the pass.
  void forward(const Pass<C, B>& pass, RowsView<T, N, D> X, std::span<State* const> states) const;

  /// The part of `forward` that later tokens see of these: fills the states, X stays. For layers
  /// that keep a window alone.
  void append_window(const Pass<C, B>& pass, RowsView<const T, N, D> X,
                     std::span<State* const> states) const
    requires(Ratio == 0);
};

template <ModelConfig C, std::size_t Ratio, RouterKind Router, Backend B>
void DecoderLayer<C, Ratio, Router, B>::append_window(const Pass<C, B>& pass,
                                                      RowsView<const T, N, D> X,
                                                      std::span<State* const> states) const
  requires(Ratio == 0)
{
  const std::size_t S = pass.rows();
  const auto region = pass.region(LayerInfo{pass.layer, Ratio, attention_kind<C>(Ratio), Router});
  auto scratch = pass.backend.scratch();
  auto c = scratch.template rows<D>(S);
  auto post = scratch.template rows<N>(S);
  auto comb = scratch.template rows<N, N>(S);
  hc_attn.read(pass, c, post, comb, X);
  ops::rms_norm(pass.backend, c, c, attn_norm, C::rms_norm_eps);
  attn.append_window(pass, c, states);
  attn.forget_window(pass, states);
}

template <ModelConfig C, std::size_t Ratio, RouterKind Router, Backend B>
void DecoderLayer<C, Ratio, Router, B>::forward(const Pass<C, B>& pass, RowsView<T, N, D> X,
                                                std::span<State* const> states) const {
  const std::size_t S = pass.rows();
  B& backend = pass.backend;
  const auto region = pass.region(LayerInfo{pass.layer, Ratio, attention_kind<C>(Ratio), Router});
  {
    auto scratch = backend.scratch();
    auto c = scratch.template rows<D>(S);
    auto y = scratch.template rows<D>(S);
    auto post = scratch.template rows<N>(S);
    auto comb = scratch.template rows<N, N>(S);
    hc_attn.read(pass, c, post, comb, X);
    pass.observe("attn_hc.collapsed", c);
    pass.observe("attn_hc.post", post);
    pass.observe("attn_hc.comb", comb);
    ops::rms_norm(backend, c, c, attn_norm, C::rms_norm_eps);
    pass.observe("attn.input", c);
    attn.forward(pass, y, c, states);
    pass.observe("attn.output", y);
    hc_attn.mix(pass, X, post, comb, y);
  }
  auto scratch = backend.scratch();
  auto c = scratch.template rows<D>(S);
  auto y = scratch.template rows<D>(S);
  auto post = scratch.template rows<N>(S);
  auto comb = scratch.template rows<N, N>(S);
  hc_ffn.read(pass, c, post, comb, X);
  pass.observe("ffn_hc.collapsed", c);
  pass.observe("ffn_hc.post", post);
  pass.observe("ffn_hc.comb", comb);
  ops::rms_norm(backend, c, c, ffn_norm, C::rms_norm_eps);
  pass.observe("mlp.input", c);
  ffn.forward(pass, y, c);
  pass.observe("mlp.output", y);
  hc_ffn.mix(pass, X, post, comb, y);
  pass.observe("output", X);
}

}  // namespace ds4::inline v0_1
