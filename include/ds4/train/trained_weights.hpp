// The weights of a model in training as one list: names, shapes, values and gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/train/address_range.hpp>

namespace ds4::inline v0_1 {

/// How a weight changes in a step. Source: model.md 16.1; arXiv 2606.19348, the split between Muon
/// and AdamW.
enum class UpdateRule : std::uint8_t {
  muon,   ///< a matrix; each expert's are their own
  adamw,  ///< embedding, head, the Markov head, norms, sinks, position biases, and the mHC biases
          ///< and scales
  load,   ///< a router's bias: it follows how many tokens each expert is given
};

/// Which loss reaches a weight.
enum class LossKind : std::uint8_t {
  next_token,  ///< the cross-entropy of the next token
  mtp,         ///< only those of the drafter
  indexer,     ///< only the indexer's own
};

/// One weight, a view of the list's memory.
template <class T>
struct TrainedWeight {
  std::string name;                ///< the release's
  std::vector<std::size_t> shape;  ///< as in a checkpoint
  UpdateRule rule;                 ///< see above
  LossKind loss;                   ///< see above
  DType stored;                    ///< in a checkpoint of a trained model: BF16 or F32
  std::span<T> values;             ///< row by row
  std::span<T> gradient;  ///< for UpdateRule::load, how often each expert was picked; empty
                          ///< where the weight stays as it is
};

/// Memory for the weights of a ModelWeights whose backend is a TapeBackend, and its hash tables.
/// The model's weights point into it.
template <class T>
class TrainedWeights {
 public:
  /// None.
  TrainedWeights() = default;
  TrainedWeights(const TrainedWeights&) = delete;
  TrainedWeights& operator=(const TrainedWeights&) = delete;

  /// Gives every weight of the model a place: zeros. `tensors` are those of its configuration.
  /// Without memory (`dry`), addresses that nothing may read. What is `frozen` has no gradient.
  template <class Weights>
  void bind(Weights& weights, std::span<const TensorInfo> tensors, bool dry, bool frozen = false) {
    weights.visit(Collector{*this, {}});
    std::unordered_map<std::string_view, DType> stored;
    for (const TensorInfo& tensor : tensors) {
      stored[tensor.name] = storage_of(tensor.role, StorageFormat::bf16).dtype;
    }
    for (TrainedWeight<T>& weight : list_) weight.stored = stored.at(weight.name);
    std::size_t total = 0;
    for (const Place& place : places_) total += padded(place.count);
    const std::size_t reserved = frozen ? total : 2 * total;
    T* value = nullptr;
    if (dry) {
      addresses_.emplace(reserved * sizeof(T));
      value = reinterpret_cast<T*>(addresses_->begin());
    } else {
      memory_ = Tensor<T, kDynamic>(reserved);
      value = memory_.data();
    }
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      *place.value = value;
      list_[i].values = {value, place.count};
      if (!frozen) {
        *place.gradient = value + total;
        list_[i].gradient = {value + total, place.count};
      }
      value += padded(place.count);
    }
    places_.clear();
  }

  ///@{
  /// All weights, in the order of ModelWeights::visit.
  std::span<TrainedWeight<T>> list() { return list_; }
  std::span<const TrainedWeight<T>> list() const { return list_; }
  ///@}

  /// Sets all gradients to zero.
  template <class K>
  void zero_gradients(K& kernels) {
    for (TrainedWeight<T>& weight : list_) {
      kernels.zero(weight.gradient.data(), weight.gradient.size());
    }
  }

  /// A hash router's table.
  struct Table {
    std::string name;               ///< the release's
    std::size_t rows;               ///< V
    std::size_t experts;            ///< its entries are below this
    std::span<std::int32_t> picks;  ///< [rows, k]
  };
  ///@{
  /// All of them.
  std::span<Table> tables() { return tables_; }
  std::span<const Table> tables() const { return tables_; }
  ///@}

  /// Fills everything from a checkpoint, of which the reader keeps the problems.
  void read(TensorReader& reader) {
    for (TrainedWeight<T>& weight : list_) {
      const bool matrix = weight.shape.size() == 2 && weight.name.ends_with("weight");
      const auto stored = matrix ? reader.matrix(weight.name, weight.shape[0], weight.shape[1])
                                 : reader.vector(weight.name, weight.shape);
      for (std::size_t row = 0; stored && row < stored->rows; ++row) {
        stored->decode_row(row, weight.values.data() + row * stored->cols);
      }
    }
    for (Table& table : tables_) {
      const std::size_t k = table.picks.size() / table.rows;
      const auto stored = reader.table(table.name, table.rows, k, table.experts);
      for (std::size_t i = 0; stored && i < table.picks.size(); ++i) {
        table.picks[i] = static_cast<std::int32_t>(stored->at(i));
      }
    }
  }

 private:
  struct Place {
    T** value;
    T** gradient;
    std::size_t count;
  };
  static constexpr std::size_t padded(std::size_t count) { return (count + 15) / 16 * 16; }

  // Makes the list while it visits a model.
  struct Collector {
    TrainedWeights& all;
    std::string prefix;

    template <class W>
      requires requires { W::kRows; }
    void operator()(std::string_view name, W& w) {
      add(name, {W::kRows, W::kCols}, rule_of(name, true), w);
    }
    template <class W>
    void rows(std::string_view name, W& w) {
      add(name, {W::kRows, W::kCols}, UpdateRule::adamw, w);
    }
    template <class P>
      requires requires { P::kShape; }
    void operator()(std::string_view name, P& p) {
      add(name, {P::kShape.begin(), P::kShape.end()}, rule_of(name, false), p);
    }
    template <class P>
    void table(std::string_view name, P& table, std::size_t experts) {
      all.tables_.push_back({prefix + std::string(name), table.extent(0), experts, table.flat()});
    }
    template <class Part>
    void group(std::string_view more, Part& part) {
      part.visit(Collector{all, prefix + std::string(more)});
    }
    template <class Experts>
    void experts(std::string_view more, Experts& experts) {
      for (std::size_t e = 0; e < experts.size(); ++e) {
        group(std::string(more) + std::to_string(e) + ".", experts[e]);
      }
    }

    UpdateRule rule_of(std::string_view name, bool matrix) const {
      // What has a row for each token.
      if (prefix.empty() && name == "head.weight") return UpdateRule::adamw;
      if (name.ends_with("markov_w2.weight")) return UpdateRule::adamw;
      if (matrix) return UpdateRule::muon;
      return name == "bias" ? UpdateRule::load : UpdateRule::adamw;
    }
    static LossKind loss_of(std::string_view full_name) {
      if (full_name.starts_with("mtp.")) return LossKind::mtp;
      const bool indexer = full_name.find(".indexer.") != full_name.npos;
      return indexer ? LossKind::indexer : LossKind::next_token;
    }
    template <class W>
    void add(std::string_view name, std::vector<std::size_t> shape, UpdateRule rule, W& w) {
      std::size_t count = 1;
      for (const std::size_t extent : shape) count *= extent;
      std::string full = prefix + std::string(name);
      const LossKind loss = loss_of(full);
      all.list_.push_back({std::move(full), std::move(shape), rule, loss, {}, {}, {}});
      all.places_.push_back({&w.value, &w.gradient, count});
    }
  };

  Tensor<T, kDynamic> memory_;  // values, then gradients
  std::optional<detail::AddressRange> addresses_;
  std::vector<TrainedWeight<T>> list_;
  std::vector<Table> tables_;
  std::vector<Place> places_;  // while binding
};

}  // namespace ds4::inline v0_1
