// The multi-token-prediction layer, mtp.0.*: its weights.
#pragma once

#include <ds4/decoder_layer.hpp>
#include <ds4/hyper_connection.hpp>

namespace ds4::inline v0_1 {

/// The extra layer that predicts the token after next: a sliding, learned-routed decoder layer
/// between its own input projections and its own collapse. Source: model.md 9.
template <ModelConfig C, Backend B>
struct MtpLayer {
  /// hidden_size.
  static constexpr std::size_t D = C::hidden_size;

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<D, D> e_proj;
  typename B::template Matrix<D, D> h_proj;
  typename B::template Parameter<D> enorm;
  typename B::template Parameter<D> hnorm;
  DecoderLayer<C, 0, RouterKind::learned, B> layer;
  HyperHead<C, B> hc_head;
  typename B::template Parameter<D> norm;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("e_proj.weight", e_proj);
    visitor("h_proj.weight", h_proj);
    visitor("enorm.weight", enorm);
    visitor("hnorm.weight", hnorm);
    layer.visit(visitor);
    visitor.group("hc_head_", hc_head);
    visitor("norm.weight", norm);
  }
};

}  // namespace ds4::inline v0_1
