// The weights of a whole model, named as in a checkpoint.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <type_traits>

#include <ds4/config/config.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/layers/attention.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/layers/dspark.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/mtp.hpp>

namespace ds4::inline v0_1 {

/// Embedding, layers, final collapse and norm, head, and the drafter if there is one. Source:
/// model.md 2 and 7.1.
template <ModelConfig C, Backend B>
class ModelWeights {
  struct Layer {
    template <std::size_t Ratio, RouterKind Router>
    using element = DecoderLayer<C, Ratio, Router, B>;
  };

 public:
  ///@{
  /// Sizes by their symbols, model.md 0.
  static constexpr std::size_t V = C::vocab_size;
  static constexpr std::size_t D = C::hidden_size;
  ///@}
  /// DSpark where it is compiled.
  using Dspark = std::conditional_t<(C::dspark_stages > 0), DsparkDrafter<C, B>, Absent>;

  ///@{
  /// The parts, named as in a checkpoint.
  typename B::template Matrix<V, D> embed;
  LayerSequence<C, Layer> layers;
  HyperHead<C, B> hc_head;
  typename B::template Parameter<D> norm;
  typename B::template Matrix<V, D> head;
  std::optional<MtpLayer<C, B>> mtp;
  std::optional<Dspark> dspark;
  ///@}

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor.rows("embed.weight", embed);
    layers.for_each([&](std::size_t i, auto& layer) {
      visitor.group("layers." + std::to_string(i) + ".", layer);
    });
    visitor.group("hc_head_", hc_head);
    visitor("norm.weight", norm);
    visitor("head.weight", head);
    if (mtp) visitor.group("mtp.0.", *mtp);
    if constexpr (C::dspark_stages > 0) {
      if (dspark) dspark->visit(visitor);
    }
  }
};

}  // namespace ds4::inline v0_1
