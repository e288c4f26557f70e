// One step of all weights of a model, each by its rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/core/dtype.hpp>
#include <ds4/kernels/adamw.hpp>
#include <ds4/kernels/muon.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

/// How the matrices are stepped; all else follows AdamW, or its load.
enum class OptimizerKind : std::uint8_t { adamw, muon };

/// Settings of a step; the learning rates in `adamw` and `muon` are replaced by the step's.
struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::muon;  ///< of the matrices
  AdamWOptions adamw;                        ///< of what follows AdamW
  MuonOptions muon;                          ///< of what follows Muon
  double clip_norm = 1.0;      ///< gradients of a larger norm are scaled down to it; 0: never
  double bias_rate = 1e-3;     ///< what a router's bias moves by, towards an even load
  bool trains_mtp = true;      ///< whether weights that only this loss reaches are moved
  bool trains_indexer = true;  ///< likewise
  /// Whether the model computes on weights as a checkpoint stores them: BF16 matrices, of which the
  /// optimizer keeps and moves float32 masters. What training sees is then what is saved.
  bool bf16_weights = true;
};

/// The state of an optimizer for a model's weights, in their order: a plain value.
template <class T>
class Optimizer {
 public:
  /// Zeros for each of the weights. Masters are made of those that are there, which are rounded;
  /// from then on only steps change them.
  Optimizer(std::span<TrainedWeight<T>> weights, const OptimizerOptions& options)
      : options_(options) {
    for (const TrainedWeight<T>& weight : weights) {
      const std::size_t size = weight.rule == UpdateRule::load ? 0 : weight.values.size();
      State state{
          weight.name, {}, std::vector<T>(size), std::vector<T>(is_muon(weight) ? 0 : size)};
      if (options.bf16_weights && weight.stored == DType::bf16) {
        state.master.assign(weight.values.begin(), weight.values.end());
      }
      states_.push_back(std::move(state));
    }
    round_weights(weights);
  }

  /// What is kept of one weight.
  struct State {
    std::string name;       ///< the weight's
    std::vector<T> master;  ///< float32 values of a weight that the model has rounded; or empty
    std::vector<T> mean;    ///< AdamW's mean gradient, or Muon's momentum; empty if neither
    std::vector<T> mean_square;  ///< AdamW's; empty for Muon
  };
  ///@{
  /// All of it, and the number of steps made.
  std::span<State> states() { return states_; }
  std::span<const State> states() const { return states_; }
  std::size_t steps() const { return steps_; }
  void set_steps(std::size_t steps) { steps_ = steps; }
  ///@}

  /// What steps move of weight `i`: its master, or itself where it has none.
  std::span<T> moved(std::size_t i, const TrainedWeight<T>& weight) {
    return states_[i].master.empty() ? weight.values : std::span(states_[i].master);
  }
  /// Sets each weight that has a master to that, rounded.
  void round_weights(std::span<TrainedWeight<T>> weights) const {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const std::vector<T>& master = states_[i].master;
      std::ranges::transform(master, weights[i].values.begin(), [](T value) {
        return static_cast<T>(bf16_to_float(bf16_from_float(static_cast<float>(value))));
      });
    }
  }

  /// Makes a step against the gradients of `weights`, the same that the constructor was given, and
  /// returns the norm of all gradients before clipping. Where that is not finite nothing is moved.
  /// Source: model.md 16.
  template <class K>
  double step(K& kernels, std::span<TrainedWeight<T>> weights, double learning_rate);

 private:
  bool is_trained(const TrainedWeight<T>& weight) const {
    if (weight.loss == LossKind::mtp) return options_.trains_mtp;
    return weight.loss == LossKind::next_token || options_.trains_indexer;
  }
  bool is_muon(const TrainedWeight<T>& weight) const {
    return options_.kind == OptimizerKind::muon && weight.rule == UpdateRule::muon;
  }

  OptimizerOptions options_;
  std::vector<State> states_;
  std::size_t steps_ = 0;
};

template <class T>
template <class K>
double Optimizer<T>::step(K& kernels, std::span<TrainedWeight<T>> weights, double learning_rate) {
  double squares = 0.0;
  for (const TrainedWeight<T>& weight : weights) {
    if (weight.rule == UpdateRule::load || !is_trained(weight)) continue;
    squares += kernels.sum_of_squares(weight.gradient.data(), weight.gradient.size());
  }
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm)) return norm;
  ++steps_;
  const bool clips = options_.clip_norm > 0.0 && norm > options_.clip_norm;
  AdamWOptions adamw = options_.adamw;
  MuonOptions muon = options_.muon;
  adamw.learning_rate = muon.learning_rate = learning_rate;
  std::vector<MuonTarget<T>> matrices;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    TrainedWeight<T>& weight = weights[i];
    State& state = states_[i];
    if (!is_trained(weight)) continue;
    if (weight.rule == UpdateRule::load) {
      T mean = 0;
      for (const T load : weight.gradient) mean += load;
      mean /= static_cast<T>(weight.gradient.size());
      for (std::size_t e = 0; e < weight.values.size(); ++e) {
        const T short_of = mean - weight.gradient[e];
        const T sign = short_of > 0 ? T(1) : short_of < 0 ? T(-1) : T(0);
        weight.values[e] += static_cast<T>(options_.bias_rate) * sign;
      }
      continue;
    }
    if (clips) {
      kernels.scale(weight.gradient.data(), options_.clip_norm / norm, weight.gradient.size());
    }
    if (is_muon(weight)) {
      matrices.push_back(
          {moved(i, weight), weight.gradient, state.mean, weight.shape[0], weight.shape[1]});
    } else {
      kernels.adamw_step(moved(i, weight), std::span<const T>(weight.gradient),
                         std::span(state.mean), std::span(state.mean_square), steps_, adamw);
    }
  }
  kernels.muon_steps(std::span<const MuonTarget<T>>(matrices), muon);
  round_weights(weights);
  return norm;
}

}  // namespace ds4::inline v0_1
