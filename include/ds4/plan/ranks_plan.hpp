// What a model over several ranks takes of each, before anything is loaded: memory, what the ranks
// send each other, and how long a pass takes with that.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/config/config.hpp>
#include <ds4/kernels/division.hpp>
#include <ds4/plan/plan.hpp>

namespace ds4::inline v0_1 {

/// The ranks to plan for, alike, and the network between them.
struct RanksOptions {
  std::size_t ranks = 1;                  ///< how many
  std::size_t whole_bytes = kWholeBytes;  ///< see DistributedOptions
  double bytes_per_s = 0.0;               ///< of a rank's memory; 0: not known
  double flops_per_s = 0.0;               ///< of a rank; 0: not known
  double network_bytes_per_s = 1.25e9;    ///< of a rank, in one direction
  double latency_s = 50e-6;               ///< from one rank to another
};

/// What a pass takes of a rank. Seconds are 0 where the rate that they follow from is not known.
struct RanksPass {
  std::size_t gathers = 0;     ///< collective operations
  std::size_t sent_bytes = 0;  ///< by a rank to each of the others, in all of them
  ///@{
  /// Seconds.
  double reading = 0.0;
  double arithmetic = 0.0;
  double transfer = 0.0;
  double latency = 0.0;
  ///@}
  /// Of the pass: weights are read while they are multiplied, and nothing else overlaps.
  double seconds() const { return std::max(reading, arithmetic) + transfer + latency; }
};

/// Numbers of the ranks of a configuration.
struct RanksPlan {
  std::size_t weight_bytes = 0;     ///< in memory of the rank that has most
  std::size_t whole_bytes = 0;      ///< of these, that are on every rank
  std::size_t looked_up_bytes = 0;  ///< beside them, in the mapped files: rows of embeddings
  RanksPass decode;                 ///< of one token at the context
  RanksPass prefill;                ///< of a pass of `prefill_tokens` tokens
  std::size_t prefill_tokens = 0;   ///< see above
};

namespace detail {

/// The rows of a rank that has most of them.
constexpr std::size_t most_rows(const Division& division, std::size_t ranks) {
  std::size_t most = 0;
  for (std::size_t r = 0; r < ranks; ++r) most = std::max(most, division.part(r, ranks).size());
  return most;
}

/// What Distributed gathers in a pass of S tokens: each call of f(values) is a collective operation
/// with so many values in all. Follows the passes step by step.
template <class Config, class IsWhole, class F>
void for_each_gather(const Config& c, std::size_t S, std::size_t logits, IsWhole&& is_whole,
                     F&& f) {
  const std::size_t N = c.hc_mult;
  const std::size_t D = c.hidden_size;
  const std::size_t q = c.q_lora_rank;
  const std::size_t d = c.head_dim;
  const std::size_t o = c.o_groups * c.o_lora_rank;
  const auto gather = [&](std::size_t tokens, TensorRole role, std::size_t rows, std::size_t cols,
                          std::size_t more = 0) {
    const std::size_t own = is_whole(role, rows, cols) ? 0 : rows;
    if (own + more > 0) f(tokens * (own + more));
  };
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto ratio = static_cast<std::size_t>(c.compress_ratios[i]);
    const bool indexed = ratio != 0 && ratio == c.compress_rates.compressed_sparse_attention;
    for (int site = 0; site < 2; ++site) gather(S, TensorRole::vector, (2 + N) * N, N * D);
    gather(S, TensorRole::linear, q, D);
    gather(S, TensorRole::linear, d, D);
    const std::size_t projected = indexed ? 2 * d : d;
    if (ratio != 0 && !is_whole(TensorRole::matrix, projected, D)) f(S * 2 * projected);
    if (indexed) {
      std::size_t values = 0;
      const auto add = [&](TensorRole role, std::size_t rows, std::size_t cols) {
        if (!is_whole(role, rows, cols)) values += rows;
      };
      add(TensorRole::linear, c.index_n_heads * c.index_head_dim, q);
      add(TensorRole::matrix, c.index_n_heads, D);
      add(TensorRole::matrix, 2 * c.index_head_dim, D);
      add(TensorRole::matrix, 2 * c.index_head_dim, D);
      if (values > 0) f(S * values);
    }
    gather(S, TensorRole::linear, o, c.num_attention_heads * d / c.o_groups);
    gather(S, TensorRole::linear, D, o);
    gather(S, TensorRole::matrix, c.n_routed_experts, D);
    gather(S * c.num_experts_per_tok, TensorRole::expert, c.moe_intermediate_size, D);
    gather(S, TensorRole::linear, c.moe_intermediate_size, D);
    gather(S, TensorRole::linear, D, c.moe_intermediate_size);
  }
  gather(logits, TensorRole::vector, N, N * D);
  gather(logits, TensorRole::matrix, c.vocab_size, D);
}

}  // namespace detail

/// The plan of a configuration over ranks, an instance of its type or a ConfigValues.
template <class Config>
RanksPlan plan_ranks(const Config& c, const PlanOptions& options, const RanksOptions& of) {
  const std::size_t R = std::max<std::size_t>(1, of.ranks);
  RanksPlan result;
  const RowGroups groups = row_groups(c, R);
  const std::size_t heads = c.num_attention_heads * c.head_dim;
  const auto is_whole = [&](TensorRole role, std::size_t rows, std::size_t cols) {
    const Storage storage = storage_of(role, options.storage);
    return R == 1 || rows * stored_row_bytes(storage.dtype, cols) <= of.whole_bytes;
  };
  double read_bytes = 0.0;  // of a token, of the rank that has most
  for_each_weight(c, [&](const WeightGroup& g) {
    const Storage storage = storage_of(g.role, options.storage);
    const std::size_t each = stored_bytes(storage, g.rows, g.cols);
    if (g.used == 0) {  // rows are looked up in the mapped file
      result.looked_up_bytes += each * g.count;
      return;
    }
    const bool table = g.role == TensorRole::table;
    const bool matrix =
        !table && g.rows > 1 && g.role != TensorRole::norm &&
        (g.role != TensorRole::vector || g.component == Component::hyper_connections);
    if (!matrix || is_whole(g.role, g.rows, g.cols)) {
      // Parameters are float32 in memory, tables int32.
      const std::size_t bytes = matrix ? each : g.rows * g.cols * 4;
      result.weight_bytes += bytes * g.count;
      result.whole_bytes += bytes * g.count;
      if (!g.mtp && !table) read_bytes += static_cast<double>(bytes * g.used);
      return;
    }
    std::size_t group = 0;
    if (g.cols == c.q_lora_rank && g.rows == c.index_n_heads * c.index_head_dim) {
      group = groups.indexer;
    }
    if (g.rows == c.o_groups * c.o_lora_rank && g.cols == heads / c.o_groups) group = groups.output;
    if (g.rows == heads && g.cols == c.q_lora_rank) group = groups.query;
    const std::size_t most =
        detail::most_rows(division_of(g.rows, storage.scale_rows, group, R), R);
    const std::size_t bytes = stored_bytes(storage, most, g.cols);
    result.weight_bytes += bytes * g.count;
    if (!g.mtp) read_bytes += static_cast<double>(bytes * g.used);
  });

  std::size_t steps = 0;  // from rank to rank until all have all
  for (std::size_t reached = 1; reached < R; reached *= 2) ++steps;
  const Plan whole = plan(c, options);
  const auto pass = [&](std::size_t S, std::size_t flops) {
    RanksPass p;
    std::size_t received = 0;
    if (R > 1) {
      detail::for_each_gather(c, S, 1, is_whole, [&](std::size_t values) {
        ++p.gathers;
        p.sent_bytes += values * 4 / R;
        received += values * 4 - values * 4 / R;
      });
    }
    if (of.bytes_per_s > 0.0) p.reading = read_bytes / of.bytes_per_s;
    if (of.flops_per_s > 0.0) {
      p.arithmetic = static_cast<double>(flops) / static_cast<double>(R) / of.flops_per_s;
    }
    p.transfer = static_cast<double>(received) / of.network_bytes_per_s;
    p.latency = static_cast<double>(p.gathers * steps) * of.latency_s;
    return p;
  };
  result.decode = pass(1, Plan::total(whole.decode_flops));
  result.prefill_tokens =
      std::min(options.context, options.chunk > 0 ? options.chunk : prefill_chunk(c));
  result.prefill =
      pass(result.prefill_tokens, Plan::total(whole.prefill_flops) * result.prefill_tokens);
  return result;
}

}  // namespace ds4::inline v0_1
