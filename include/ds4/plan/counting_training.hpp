// Kernels for training that compute nothing: a pass with them tells what one costs.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/kernels/training.hpp>
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

/// The members of ReferenceTraining<float> without memory: they count operations and what the tape
/// holds meanwhile, apart for each layer.
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
    std::size_t first_bytes = 0;  ///< on the tape at its first product
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
  std::size_t begin_bytes() const { return begin_bytes_; }

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

  ///@{
  /// See ReferenceTraining.
  void linear(float*, std::size_t, const float*, std::size_t, const float* w, std::size_t S,
              std::size_t outs, std::size_t ins) {
    count(enter(w), 2 * S * outs * ins, 0);
  }
  void linear_backward(float* dx, bool, float* dw, const float*, std::size_t, const float*,
                       std::size_t, const float* w, std::size_t S, std::size_t outs,
                       std::size_t ins) {
    const std::size_t wanted = (dx != nullptr ? 1u : 0u) + (dw != nullptr ? 1u : 0u);
    count(enter(w), wanted * 2 * S * outs * ins, 0);
  }

  void rms_norm(float*, const float*, const float* weight, std::size_t rows, std::size_t n,
                double) {
    count((weight != nullptr ? 4 : 3) * rows * n);
  }
  void rms_norm_backward(float*, float*, const float*, const float*, const float*, std::size_t rows,
                         std::size_t n, double) {
    count(8 * rows * n);
  }

  void swiglu(float*, const float*, const float*, std::size_t n, double) { count(kSwiglu * n); }
  void swiglu_backward(float*, float*, const float*, const float*, const float*, std::size_t n,
                       double) {
    count(2 * kSwiglu * n);
  }

  void rotary_table(float*, float*, std::size_t, std::size_t, std::size_t S, const double*,
                    std::size_t pairs) {
    count(3 * S * pairs);
  }
  void rotate(float*, const float*, const float*, std::size_t S, std::size_t heads, std::size_t,
              std::size_t pairs, bool) {
    count(6 * S * heads * pairs);
  }

  void embed(float*, const std::int32_t*, const float*, std::size_t, std::size_t, std::size_t) {
    count(0);
    if (begin_bytes_ == 0 && tape_ != nullptr) begin_bytes_ = tape_->bytes();
  }
  void embed_backward(float*, const float*, const std::int32_t*, std::size_t S, std::size_t N,
                      std::size_t D) {
    count(S * N * D);
  }
  void take_rows(float*, const float*, const std::int32_t*, std::size_t, std::size_t) { count(0); }
  void take_rows_backward(float*, const float*, const std::int32_t*, std::size_t rows,
                          std::size_t width) {
    count(rows * width);
  }

  void hyper_connection_weights(float*, float*, float*, const float*, const float*, const float*,
                                std::size_t S, std::size_t N, std::size_t iters, double) {
    count(S * hyper_connection(N, iters));
  }
  void hyper_connection_weights_backward(float*, float*, float*, const float*, const float*,
                                         const float*, const float*, const float*, const float*,
                                         std::size_t S, std::size_t N, std::size_t iters, double) {
    count(3 * S * hyper_connection(N, iters));  // the rounds run again
  }
  void hyper_head_weights(float*, const float*, const float*, const float*, std::size_t S,
                          std::size_t N, double) {
    count(5 * S * N);
  }
  void hyper_head_weights_backward(float*, float*, float*, const float*, const float*, const float*,
                                   const float*, std::size_t S, std::size_t N) {
    count(10 * S * N);
  }
  void collapse_streams(float*, const float*, const float*, std::size_t S, std::size_t N,
                        std::size_t D) {
    count(2 * S * N * D);
  }
  void collapse_streams_backward(float*, float*, const float*, const float*, const float*,
                                 std::size_t S, std::size_t N, std::size_t D) {
    count(4 * S * N * D);
  }
  void mix_streams(float*, float*, const float*, const float*, const float*, std::size_t S,
                   std::size_t N, std::size_t D) {
    count(2 * S * (N + 1) * N * D);
  }
  void mix_streams_backward(float*, float*, float*, float*, const float*, const float*,
                            const float*, const float*, std::size_t S, std::size_t N,
                            std::size_t D) {
    count(4 * S * (N + 1) * N * D);
  }
  void add_to_streams(float*, const float*, std::size_t S, std::size_t N, std::size_t D) {
    count(S * N * D);
  }
  void add_to_streams_backward(float*, const float*, std::size_t S, std::size_t N, std::size_t D) {
    count(S * N * D);
  }

  void pool_entries(float*, const float*, const float*, const float*, const PoolShape& shape) {
    count(6 * pooled(shape));
  }
  void pool_entries_backward(float*, float*, float*, const float*, const float*, const float*,
                             const float*, const PoolShape& shape) {
    count(12 * pooled(shape));
  }

  void pick_entries(std::int32_t*, const float*, const float*, const float*,
                    const IndexShape& shape) {
    const std::size_t scores = shape.nI * detail::sum_of_entries(shape.S, shape.ratio, shape.S);
    count(Component::indexer, 2 * scores * shape.dI, 3 * scores);
  }
  /// The scores of the picks, again for their gradients, and the gradients of both sides.
  double index_loss(float*, float*, float*, const float*, const std::int32_t*, const float*,
                    const float*, const float*, const IndexShape& shape, double) {
    const std::size_t scores = shape.nI * detail::sum_of_entries(shape.S, shape.ratio, shape.top_k);
    count(Component::indexer, 8 * scores * shape.dI, 8 * scores);
    return 0.0;
  }

  void attend(float*, float* received, const float*, const float*, const float*, const float*,
              const std::int32_t*, const AttentionShape& shape) {
    const std::size_t scores = shape.H * keys(shape);
    count(Component::attention, 4 * scores * shape.d, (received != nullptr ? 6 : 5) * scores);
  }
  /// The scores again, the gradient of the weights, and those of query, key and value.
  void attend_backward(float*, float*, float*, float*, const float*, const float*, const float*,
                       const float*, const float*, const std::int32_t*,
                       const AttentionShape& shape) {
    const std::size_t scores = shape.H * keys(shape);
    count(Component::attention, 10 * scores * shape.d, 10 * scores);
  }

  void route_by_score(std::int32_t*, float*, const float*, const float*, std::size_t S,
                      std::size_t E, std::size_t k, double) {
    count(S * (5 * E + 3 * k));
  }
  void route_by_hash(std::int32_t*, float*, const float*, const std::int32_t*, const std::int32_t*,
                     std::size_t S, std::size_t E, std::size_t k, double) {
    count(S * (4 * E + 3 * k));
  }
  void expert_weights_backward(float*, const float*, const std::int32_t*, const float*,
                               std::size_t S, std::size_t, std::size_t k, double) {
    count(12 * S * k);
  }
  void count_load(float*, const std::int32_t*, std::size_t n) { count(n); }
  double balance_loss(float*, const std::int32_t*, const float*, std::size_t S, std::size_t E,
                      std::size_t, double) {
    count(12 * S * E);
    return 0.0;
  }

  /// However the tokens are routed: there are S * k places.
  void routed_experts(float*, const ExpertRecord<float>&, const float*, const std::int32_t*,
                      const float*, std::span<const ExpertMatrices<const float>>,
                      const ExpertShape& shape, double) {
    const std::size_t places = shape.S * shape.k;
    count(Component::experts, 6 * places * shape.F * shape.D,
          places * (kSwiglu * shape.F + 2 * shape.D));
  }
  void routed_experts_backward(float*, float*, std::span<const ExpertMatrices<float>>, const float*,
                               const ExpertRecord<const float>&, const float*, const float*,
                               std::span<const ExpertMatrices<const float>>,
                               const ExpertShape& shape, double) {
    const std::size_t places = shape.S * shape.k;
    count(Component::experts, 12 * places * shape.F * shape.D,
          places * ((3 * kSwiglu + 4) * shape.F + shape.D));
  }

  double cross_entropy(float*, const float*, const std::int32_t*, std::size_t S, std::size_t V,
                       double) {
    count(5 * S * V);
    return 0.0;
  }

  void add(float*, const float*, std::size_t n) { count(n); }
  void copy(float*, const float*, std::size_t) { count(0); }
  void zero(float*, std::size_t) { count(0); }
  ///@}

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
  static constexpr std::size_t kSwiglu = 8;  // operations of an activation

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

  static constexpr std::size_t hyper_connection(std::size_t N, std::size_t iters) {
    return 4 * (2 + N) * N + 4 * iters * N * N;
  }
  static constexpr std::size_t pooled(const PoolShape& shape) {
    return shape.count * shape.ratio * (shape.overlapping ? 2 : 1) * shape.width;
  }
  // Keys of all queries together.
  static constexpr std::size_t keys(const AttentionShape& shape) {
    const std::size_t window = detail::sum_of_entries(shape.S, 1, shape.W);
    if (shape.kind == AttentionKind::sliding) return window;
    const std::size_t most = shape.kind == AttentionKind::csa ? shape.top_k : shape.S;
    return window + detail::sum_of_entries(shape.S, shape.ratio, most);
  }

  // The pass is at a weight; what that is part of.
  Component enter(const float* w) {
    if (weights_.empty()) return Component::rest;
    const auto at = std::prev(std::ranges::upper_bound(weights_, w, {}, &Weight::begin));
    section_ = at->section;
    Section& section = sections_[section_];
    if (section.first_bytes == 0) section.first_bytes = tape_->bytes();
    return at->component;
  }
  void count(Component component, std::size_t products, std::size_t elementwise) {
    if (sections_.empty()) sections_.resize(1);
    Section& section = sections_[section_];
    section.flops.products[static_cast<std::size_t>(component)] += products;
    section.flops.elementwise += elementwise;
    if (tape_ != nullptr) section.most_bytes = std::max(section.most_bytes, tape_->bytes());
  }
  void count(std::size_t elementwise) { count(Component::rest, 0, elementwise); }

  const Tape<float>* tape_ = nullptr;
  std::vector<Weight> weights_;
  std::vector<Section> sections_;
  std::size_t section_ = 0;
  std::size_t begin_bytes_ = 0;
};

}  // namespace ds4::inline v0_1
