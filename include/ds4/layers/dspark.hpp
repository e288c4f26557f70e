// DSpark, mtp.*: a drafter that guesses a block of tokens at once, and what a sequence keeps for
// it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/pass.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// A parameter [E...] that the host reads: the backend's, or a tensor where those are not the
/// host's.
template <class B, std::size_t... E>
struct HostParameter {
  using Type = typename B::template Parameter<E...>;
};
template <class B, std::size_t... E>
  requires requires { typename B::template Parameter<E...>::Host; }
struct HostParameter<B, E...> {
  using Type = typename B::template Parameter<E...>::Host;
};

}  // namespace detail

/// The drafter of the releases since 0731: K stages, sliding and learned-routed decoder layers,
/// over a block of tokens that sees rows made from the model's own hidden states.
/// Source: model.md 19.
template <ModelConfig C, Backend B>
struct DsparkDrafter {
  ///@{
  /// Sizes by their symbols, model.md 0 and 19, and types.
  static constexpr std::size_t N = C::hc_mult;
  static constexpr std::size_t D = C::hidden_size;
  static constexpr std::size_t V = C::vocab_size;
  static constexpr std::size_t M = C::dspark_target_layer_ids.size();
  static constexpr std::size_t R = C::dspark_markov_rank;
  static constexpr std::size_t kBlock = C::dspark_block_size;
  using T = typename B::Element;
  using Stage = DecoderLayer<C, 0, RouterKind::learned, B>;
  ///@}

  ///@{
  /// The weights, named as in a checkpoint. The confidence head is the host's on every backend: its
  /// one product decides how a draft goes on.
  typename B::template Matrix<D, M * D> main_proj;
  typename B::template Parameter<D> main_norm;
  std::vector<Stage> stages;
  HyperHead<C, B> hc_head;
  typename B::template Parameter<D> norm;
  typename B::template Matrix<V, R> markov_w1;
  typename B::template Matrix<V, R> markov_w2;
  typename detail::HostParameter<B, 1, D + R>::Type confidence_head;
  ///@}

  /// Without weights, of this many stages.
  explicit DsparkDrafter(std::size_t count) : stages(count) {}

  /// The slot in the target hidden states that a main layer's mean goes to; M if it is no target.
  static constexpr std::size_t slot_of(std::size_t layer) {
    std::size_t slot = 0;
    while (slot < M && static_cast<std::size_t>(C::dspark_target_layer_ids[slot]) != layer) ++slot;
    return slot;
  }
  /// The first token that a block behind `position` tokens sees.
  static constexpr std::size_t first_needed(std::size_t position) {
    return position - std::min(position, C::sliding_window);
  }

  /// What a sequence keeps for the drafter. All of it follows from the tokens that are taken in: a
  /// draft that was wrong leaves nothing behind. Source: model.md 19.4.
  struct State {
    /// Target hidden states [M * D] of the last positions.
    typename B::template RowLog<M * D> targets;
    /// The window of each stage; rows that are missing are made from the targets when a draft needs
    /// them.
    std::vector<typename Stage::State> windows;

    /// Keeps what follows `position`.
    void begin(std::size_t position) {
      *this = State();
      targets.restart(position);
    }
    /// Whether the targets suffice for a block behind `position` tokens.
    bool reaches(std::size_t position) const {
      return position > 0 && targets.end() == position && targets.first() <= first_needed(position);
    }
    /// The first row that is to be made for a block of K stages behind `position` tokens.
    /// Where what the windows have does not reach back far enough, or not forth to the targets,
    /// they begin anew.
    std::size_t next_row(std::size_t position, std::size_t K) {
      const std::size_t first = first_needed(position);
      if (windows.size() != K || windows[0].window.first() > first ||
          windows[0].window.end() < std::max(first, targets.first())) {
        windows.assign(K, {});
        for (auto& stage : windows) stage.window.restart(first);
      }
      return windows[0].window.end();
    }
    /// Forgets what is not of the first `position` tokens.
    void truncate(std::size_t position) {
      if (targets.first() > position) {
        begin(position);
      } else if (targets.end() > position) {
        targets.truncate(position);
      }
      truncate_windows(position);
    }
    /// Forgets the windows, which can be made again.
    void forget_derived() { windows.clear(); }
    /// Forgets the windows' rows from `end` on.
    void truncate_windows(std::size_t end) {
      if (!windows.empty() && windows[0].window.first() > end) windows.clear();
      for (auto& stage : windows) {
        if (stage.window.end() > end) stage.window.truncate(end);
      }
    }
  };

  /// Calls the visitor with the name of every weight; see DecoderLayer::visit.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("mtp.0.main_proj.weight", main_proj);
    visitor("mtp.0.main_norm.weight", main_norm);
    for (std::size_t k = 0; k < stages.size(); ++k) {
      visitor.group("mtp." + std::to_string(k) + ".", stages[k]);
    }
    const std::string last = "mtp." + std::to_string(stages.size() - 1) + ".";
    visitor.group(last + "hc_head_", hc_head);
    visitor(last + "norm.weight", norm);
    visitor.rows(last + "markov_head.markov_w1.weight", markov_w1);
    visitor(last + "markov_head.markov_w2.weight", markov_w2);
    visitor(last + "confidence_head.proj.weight", confidence_head);
  }

  /// Adds the window rows of the tokens of a pass to every stage: x = rms(r main_proj^T;
  /// main_norm), then each stage's own rows of x. r [S, M * D], the target hidden states;
  /// windows[k] has one state per segment. Source: model.md 19.2.
  void append_windows(Pass<C, B> pass, RowsView<const T, M * D> r,
                      std::span<const std::span<typename Stage::State* const>> windows) const {
    B& backend = pass.backend;
    auto scratch = backend.scratch();
    auto x = scratch.template rows<D>(r.extent(0));
    pass.layer = C::num_hidden_layers;
    pass.observe("target_hidden", r);
    ops::linear(backend, x, r, main_proj);
    ops::rms_norm(backend, x, x, main_norm, C::rms_norm_eps);
    pass.observe("main_x", x);
    for (std::size_t k = 0; k < stages.size(); ++k) {
      pass.layer = C::num_hidden_layers + k;
      stages[k].attn.append_window(pass, x, windows[k]);
    }
  }

  /// Runs the stages on the streams X [S, N, D] of blocks, one per segment of the pass, in place.
  /// The blocks' rows stay in the windows: whoever calls this truncates them. Source:
  /// model.md 19.2.
  void run_stages(Pass<C, B> pass, RowsView<T, N, D> X,
                  std::span<const std::span<typename Stage::State* const>> windows) const {
    for (std::size_t k = 0; k < stages.size(); ++k) {
      pass.layer = C::num_hidden_layers + k;
      stages[k].forward(pass, X, windows[k]);
    }
  }

  /// How likely a draft is accepted if those before it were, as a logit: y [D], the collapsed
  /// streams of its row, and w1 [R], the Markov row of the token before it. Source: model.md 19.2.
  float confidence(std::span<const typename B::Scalar> y,
                   std::span<const typename B::Scalar> w1) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < D; ++i) {
      sum += static_cast<double>(confidence_head(0, i)) * static_cast<double>(y[i]);
    }
    for (std::size_t i = 0; i < R; ++i) {
      sum += static_cast<double>(confidence_head(0, D + i)) * static_cast<double>(w1[i]);
    }
    return static_cast<float>(sum);
  }
};

}  // namespace ds4::inline v0_1
