// What a sequence keeps between passes.
#pragma once

#include <cstddef>

#include <ds4/decoder_layer.hpp>
#include <ds4/layer_sequence.hpp>

namespace ds4 {

/// The decoding state of one sequence: a plain value. A copy continues independently of the
/// original. Source: model.md 5.3.
template <ModelConfig C, Backend B>
class State {
  struct LayerStates {
    template <std::size_t Ratio, RouterKind Router>
    using element = typename DecoderLayer<C, Ratio, Router, B>::State;
  };

 public:
  using Layers = LayerSequence<C, LayerStates>;

  std::size_t position = 0;  ///< tokens taken in so far
  Layers layers;
};

}  // namespace ds4
