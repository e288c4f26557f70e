// Mixture of experts: routers, routed experts, the shared expert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// One expert: w2 (silu(min(w1 x, limit)) * clamp(w3 x, -limit, limit)). Source: model.md 6.2.
template <ModelConfig C, Backend B>
struct Expert {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t F = C::moe_intermediate_size;
  ///@}
  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<F, D> w1;
  typename B::template Matrix<D, F> w2;
  typename B::template Matrix<F, D> w3;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("w1.weight", w1);
    visitor("w2.weight", w2);
    visitor("w3.weight", w3);
  }
};

/// The router: sqrt(softplus(x gate^T)) scores; the experts come from a table by token id (hash) or
/// are the top k of score + bias (learned). Source: model.md 6.1; paper 2.1.
template <ModelConfig C, RouterKind Router, Backend B>
struct Gate {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t E = C::n_routed_experts;
  static constexpr std::size_t k = C::num_experts_per_tok;
  ///@}
  struct NoBias {};
  struct NoTable {};

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<E, C::hidden_size> weight;
  [[no_unique_address]] std::conditional_t<Router == RouterKind::learned,
                                           typename B::template Parameter<E>, NoBias> bias;
  [[no_unique_address]] std::conditional_t<Router == RouterKind::hash,
                                           typename B::template HashTable<C::vocab_size, k>,
                                           NoTable> tid2eid;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("weight", weight);
    if constexpr (Router == RouterKind::learned) visitor("bias", bias);
    if constexpr (Router == RouterKind::hash) visitor.table("tid2eid", tid2eid, E);
  }
};

/// The feed-forward sublayer. Source: model.md 6.
template <ModelConfig C, RouterKind Router, Backend B>
struct Moe {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t F = C::moe_intermediate_size;
  static constexpr std::size_t E = C::n_routed_experts;
  static constexpr std::size_t k = C::num_experts_per_tok;
  using T = typename B::Element;
  using Experts = typename B::template Experts<Expert<C, B>>;
  ///@}

  ///@{
  /// The parts, named as in a checkpoint.
  Gate<C, Router, B> gate;
  Experts experts = Experts(E);
  Expert<C, B> shared_experts;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor.group("gate.", gate);
    visitor.experts("experts.", experts);
    visitor.group("shared_experts.", shared_experts);
  }

  /// y [S, D] = sum of the routed experts, weighted, plus the shared expert, for the normed input
  /// x [S, D].
  void forward(const Pass<C, B>& pass, RowsView<T, D> y, RowsView<const T, D> x) const;
};

template <ModelConfig C, RouterKind Router, Backend B>
void Moe<C, Router, B>::forward(const Pass<C, B>& pass, RowsView<T, D> y,
                                RowsView<const T, D> x) const {
  const std::size_t S = pass.rows();
  B& backend = pass.backend;
  const auto region = pass.region("moe");
  auto scratch = backend.scratch();

  auto logits = scratch.template rows<E>(S);
  auto picks = scratch.template indices<k>(S);
  auto weights = scratch.template rows<k>(S);
  {
    const auto part = pass.region("router");
    ops::linear(backend, logits, x, gate.weight);
    pass.observe("mlp.router_logits", logits);
    if constexpr (Router == RouterKind::hash) {
      ops::route_by_hash(backend, picks, weights, logits, pass.ids, gate.tid2eid,
                         C::routed_scaling_factor);
    } else {
      ops::route_by_score(backend, picks, weights, logits, gate.bias, C::routed_scaling_factor);
    }
    pass.observe("mlp.router_indices", picks);
    pass.observe("mlp.router_weights", weights);
  }

  auto routed = scratch.template rows<D>(S);
  {
    const auto part = pass.region("experts");
    ops::routed_experts(backend, routed, x, picks, weights, experts, C::swiglu_limit);
    pass.observe("mlp.routed", routed);
  }

  const auto part = pass.region("shared_expert");
  auto up = scratch.template rows<F>(S);
  auto hidden = scratch.template rows<F>(S);
  ops::linear(backend, hidden, x, shared_experts.w1);
  ops::linear(backend, up, x, shared_experts.w3);
  ops::swiglu(backend, hidden, up, C::swiglu_limit);
  ops::linear(backend, y, hidden, shared_experts.w2);
  pass.observe("mlp.shared", y);
  ops::add(backend, y, routed);
}

}  // namespace ds4::inline v0_1
