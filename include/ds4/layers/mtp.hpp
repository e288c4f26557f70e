// The multi-token-prediction layer, mtp.0.*: what it is given, and what a sequence keeps for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

/// The extra layer that predicts the token after next: a sliding, learned-routed decoder layer
/// between its own input projections and its own collapse. Its row t reads the residual streams of
/// position t and the embedding of token t + 1. Source: model.md 9.1.
template <ModelConfig C, Backend B>
struct MtpLayer {
  ///@{
  /// Sizes by their symbols, model.md 0, and types.
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  using T = typename B::Element;
  using Layer = DecoderLayer<C, 0, RouterKind::learned, B>;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint.
  typename B::template Matrix<D, D> e_proj;
  typename B::template Matrix<D, D> h_proj;
  typename B::template Parameter<D> enorm;
  typename B::template Parameter<D> hnorm;
  Layer layer;
  HyperHead<C, B> hc_head;
  typename B::template Parameter<D> norm;
  ///@}

  /// What a sequence keeps for this layer. All of it follows from the tokens that are taken in: a
  /// draft that was wrong leaves nothing behind.
  struct State {
    ///@{
    /// Of the last positions, the residual streams before the collapse, and the tokens.
    typename B::template RowLog<N * D> streams;
    std::vector<std::int32_t> ids;
    ///@}
    /// The window. Row t is there only if token t + 1 is taken in; rows that are missing are made
    /// from the streams when a draft needs them.
    typename Layer::State layer;

    /// Keeps what follows `position`.
    void begin(std::size_t position) {
      *this = State();
      streams.restart(position);
    }
    /// The tokens of the rows that a pass has added to the streams.
    void take_in(std::span<const std::int32_t> tokens) {
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      const std::size_t rows = streams.end() - streams.first();
      ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(std::min(ids.size(), rows)));
    }
    /// Whether the streams suffice for a draft behind `position` tokens.
    bool reaches(std::size_t position) const {
      return position > 0 && streams.end() == position && streams.first() <= first_needed(position);
    }
    /// The first row that is to be made for a draft behind `position` tokens. Where what the window
    /// has does not reach back far enough, or not forth to the streams, it begins with these.
    std::size_t next_row(std::size_t position) {
      auto& window = layer.window;
      if (window.first() > first_needed(position) || window.end() < streams.first()) {
        window.restart(streams.first());
      }
      return window.end();
    }
    /// The tokens that follow those of the rows from `row` on, as far as they are taken in.
    std::vector<std::int32_t> next_ids(std::size_t row) const {
      return {ids.begin() + static_cast<std::ptrdiff_t>(row + 1 - streams.first()), ids.end()};
    }
    /// Forgets what is not of the first `position` tokens.
    void truncate(std::size_t position) {
      if (streams.first() > position) {
        begin(position);
      } else if (streams.end() > position) {
        streams.truncate(position);
        ids.resize(std::min(ids.size(), position - streams.first()));
      }
      truncate_window(position - std::min<std::size_t>(position, 1));
    }
    /// Forgets the window, which can be made again.
    void forget_derived() { layer = {}; }
    /// Forgets the window's rows from `end` on.
    void truncate_window(std::size_t end) {
      auto& window = layer.window;
      if (window.first() > end) {
        window.restart(end);
      } else if (window.end() > end) {
        window.truncate(end);
      }
    }
  };

  /// The first row that the row of the last of `position` tokens sees.
  static constexpr std::size_t first_needed(std::size_t position) {
    return position - std::min(position, C::sliding_window);
  }

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

  /// The layer's input X' [S, N, D] from the streams X [S, N, D], which become scratch, and the
  /// next tokens [S]: e_proj(rms(embed[next]; enorm)) added to every stream of h_proj(rms(X;
  /// hnorm)).
  template <class Embed>
  void project(B& backend, RowsView<T, N, D> input, RowsView<T, N, D> X,
               std::span<const typename B::Index> next, const Embed& embed) const {
    const std::size_t S = next.size();
    auto scratch = backend.scratch();
    auto x = scratch.template rows<1, D>(S);
    auto e = scratch.template rows<D>(S);
    ops::embed(backend, x, next, embed);
    ops::rms_norm(backend, x.template as<D>(), x.template as<D>(), enorm, C::rms_norm_eps);
    ops::linear(backend, e, x.template as<D>(), e_proj);
    const RowsView<T, D> streams(X.data(), S * N);
    ops::rms_norm(backend, streams, streams, hnorm, C::rms_norm_eps);
    ops::linear(backend, RowsView<T, D>(input.data(), S * N), streams, h_proj);
    ops::add_to_streams(backend, input, e);
  }
};

}  // namespace ds4::inline v0_1
