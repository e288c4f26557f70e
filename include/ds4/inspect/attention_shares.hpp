// What a query attends to, computed again from the stages of a pass. Source: model.md 5.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1::detail {

/// The sink logits [L][H] of a checkpoint that a model was loaded from.
inline std::vector<std::vector<float>> attention_sinks(const ConfigValues& config,
                                                       const Checkpoint& checkpoint) {
  std::vector<std::vector<float>> sinks(config.num_hidden_layers);
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    const StoredTensor* sink = checkpoint.find("layers." + std::to_string(i) + ".attn.attn_sink");
    assert(sink != nullptr && "a checkpoint that a model was loaded from");
    StoredMatrix row;
    row.values = sink->data.data();
    row.rows = 1;
    row.cols = config.num_attention_heads;
    row.dtype = sink->dtype;
    sinks[i].resize(row.cols);
    row.decode_row(0, sinks[i].data());
  }
  return sinks;
}

/// The shares of keys [d] in a head's attention, and behind them the sink's: they add up to 1.
template <class T>
std::vector<double> attention_shares(std::span<const T> query, std::span<const T* const> keys,
                                     float sink) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(query.size()));
  std::vector<double> shares;
  shares.reserve(keys.size() + 1);
  for (const T* key : keys) {
    double product = 0.0;
    for (std::size_t i = 0; i < query.size(); ++i) {
      product += static_cast<double>(query[i]) * static_cast<double>(key[i]);
    }
    shares.push_back(product * scale);
  }
  shares.push_back(sink);
  const double largest = *std::ranges::max_element(shares);
  double sum = 0.0;
  for (double& share : shares) sum += share = std::exp(share - largest);
  for (double& share : shares) share /= sum;
  return shares;
}

}  // namespace ds4::inline v0_1::detail
