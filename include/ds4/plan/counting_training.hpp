// Kernels for training that compute nothing: a pass with them tells what one costs.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <iterator>
#include <span>
#include <string_view>
#include <vector>

#include <ds4/kernels/cost.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/train/tape.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

/// Operations of a pass or a step, two to a product and sum.
struct TrainingFlops {
  /// Of the products with weights, and of attention and of the indexer with keys, by what they are
  /// part of: as in Plan, so `rest` holds the projections of the multi-token-prediction layer.
  std::array<std::size_t, kComponents> products{};
  /// Of all else: norms, softmax, activations, rotations, streams, losses. To within a few
  /// operations a value, where a root or an exponential is one.
  std::size_t elementwise = 0;

  /// The sum of all.
  std::size_t total() const { return Plan::total(products) + elementwise; }
  ///@{
  /// Number by number.
  TrainingFlops& operator+=(const TrainingFlops& other) {
    for (std::size_t i = 0; i < kComponents; ++i) products[i] += other.products[i];
    elementwise += other.elementwise;
    return *this;
  }
  friend TrainingFlops operator-(TrainingFlops a, const TrainingFlops& b) {
    for (std::size_t i = 0; i < kComponents; ++i) a.products[i] -= b.products[i];
    a.elementwise -= b.elementwise;
    return a;
  }
  friend TrainingFlops operator*(TrainingFlops a, std::size_t times) {
    for (std::size_t& number : a.products) number *= times;
    a.elementwise *= times;
    return a;
  }
  friend bool operator==(const TrainingFlops&, const TrainingFlops&) = default;
  ///@}
};

/// Kernels that have no operations: a tape backend tells them what each would cost. They count that
/// and what the tape holds meanwhile, apart for each layer.
class CountingTraining {
 public:
  /// Of values and gradients, none of which exists.
  using Scalar = float;
  /// Nothing may be read or written.
  static constexpr bool kDry = true;

  /// What a pass does from the first product with a weight of a section on until one with a weight
  /// of another. Section 0 is the embedding, 1 + i is layer i, the last one all that follows.
  struct Section {
    TrainingFlops flops;          ///< all directions together
    std::size_t first_bytes = 0;  ///< on the tape when a weight of it is first used
    std::size_t most_bytes = 0;   ///< on the tape, at most
  };

  /// From now on counts by the sections of these weights, which are in the order of
  /// ModelWeights::visit, of a model whose passes are on this tape.
  void watch(const Tape<float>& tape, std::span<const TrainedWeight<float>> weights) {
    tape_ = &tape;
    weights_.clear();
    std::size_t layers = 0;
    for (const auto& weight : weights) {
      const std::size_t section = section_of(weight.name);
      if (section != kBehindLayers) layers = std::max(layers, section);
      weights_.push_back({weight.values.data(), section, component_of(weight.name)});
    }
    for (Weight& weight : weights_) weight.section = std::min(weight.section, layers + 1);
    sections_.assign(layers + 2, Section());
    section_ = 0;
  }

  /// See Section.
  std::span<const Section> sections() const { return sections_; }
  /// All sections' operations together.
  TrainingFlops flops() const {
    TrainingFlops sum;
    for (const Section& section : sections_) sum += section.flops;
    return sum;
  }
  /// Bytes on the tape when the embedding was looked up: the streams and what all layers share.
  std::size_t begin_bytes() const { return sections_.front().first_bytes; }

  /// The section that a weight of this name is in; kBehindLayers for those behind the layers.
  static std::size_t section_of(std::string_view name) {
    if (name.starts_with("embed.")) return 0;
    constexpr std::string_view kLayers = "layers.";
    if (!name.starts_with(kLayers)) return kBehindLayers;
    name.remove_prefix(kLayers.size());
    std::size_t layer = 0;
    std::from_chars(name.data(), name.data() + name.size(), layer);
    return 1 + layer;
  }
  /// See section_of.
  static constexpr std::size_t kBehindLayers = static_cast<std::size_t>(-1);

  /// An operation that would run now.
  void count(const OperationCost& cost) {
    if (sections_.empty()) sections_.resize(1);
    const Component component = cost.weight != nullptr ? enter(cost) : cost.component;
    Section& section = sections_[section_];
    section.flops.products[static_cast<std::size_t>(component)] += cost.products;
    section.flops.elementwise += cost.elementwise;
    if (tape_ != nullptr) section.most_bytes = std::max(section.most_bytes, tape_->bytes());
  }

  ///@{
  /// Operations of one step of an optimizer on `n` weights, or on a matrix. Muon's are ten rounds
  /// of X <- a X + (b A + c A^2) X with A = X X^T.
  static constexpr TrainingFlops adamw_flops(std::size_t n) { return {{}, 13 * n}; }
  static constexpr TrainingFlops muon_flops(std::size_t rows, std::size_t cols) {
    const std::size_t n = std::min(rows, cols);
    const std::size_t m = std::max(rows, cols);
    TrainingFlops flops{{}, 12 * n * m + 10 * (2 * n * n + 2 * n * m)};
    flops.products[static_cast<std::size_t>(Component::rest)] =
        10 * (4 * n * n * m + 2 * n * n * n);
    return flops;
  }
  ///@}

 private:
  struct Weight {
    const float* begin;
    std::size_t section;
    Component component;
  };

  static Component component_of(std::string_view name) {
    const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
    if (has("hc_")) return Component::hyper_connections;
    if (has(".indexer.")) return Component::indexer;
    if (has(".attn.")) return Component::attention;
    if (has(".ffn.")) return Component::experts;
    return name == "head.weight" ? Component::head : Component::rest;
  }

  // The pass is at a weight; what that is part of. Products begin a section.
  Component enter(const OperationCost& cost) {
    if (weights_.empty()) return Component::rest;
    const auto* const values = static_cast<const float*>(cost.weight);
    const auto at = std::prev(std::ranges::upper_bound(weights_, values, {}, &Weight::begin));
    if (cost.products > 0) section_ = at->section;
    Section& section = sections_[at->section];
    if (section.first_bytes == 0) section.first_bytes = tape_->bytes();
    return at->component;
  }

  const Tape<float>* tape_ = nullptr;
  std::vector<Weight> weights_;
  std::vector<Section> sections_;
  std::size_t section_ = 0;
};

}  // namespace ds4::inline v0_1
