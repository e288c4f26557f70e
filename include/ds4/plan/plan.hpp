// What a configuration takes before anything is loaded: parameters, bytes, operations. All of it is
// a constant expression for a configuration type, so a program can assert what it relies on.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/kernels/cost.hpp>
#include <ds4/plan/memory_plan.hpp>

namespace ds4::inline v0_1 {

/// Some tensors [rows, cols] of one kind, of the main model or of the drafter, mtp.*.
struct WeightGroup {
  TensorRole role;  ///< what the tensors are
  ///@{
  /// Each tensor's shape.
  std::size_t rows;
  std::size_t cols;
  ///@}
  std::size_t count;    ///< tensors
  std::size_t used;     ///< tensors that a token meets; of a table or the embedding it reads a row
  Component component;  ///< where their cost is counted
  bool mtp;             ///< of the drafter
};

namespace detail {

template <class Config, class F>
constexpr void for_each_layer_weight(const Config& c, std::size_t ratio, bool hash, bool mtp,
                                     F&& f) {
  const std::size_t D = c.hidden_size;
  const std::size_t N = c.hc_mult;
  const std::size_t H = c.num_attention_heads;
  const std::size_t d = c.head_dim;
  const std::size_t inner = c.moe_intermediate_size;
  const std::size_t E = c.n_routed_experts;
  const std::size_t k = c.num_experts_per_tok;
  const auto add = [&](TensorRole role, Component component, std::size_t rows, std::size_t cols,
                       std::size_t count = 1) {
    f(WeightGroup{role, rows, cols, count, count, component, mtp});
  };
  const auto compressor = [&](Component component, std::size_t width, std::size_t projected) {
    add(TensorRole::matrix, component, projected, D, 2);  // wkv, wgate
    add(TensorRole::vector, component, ratio, projected);
    add(TensorRole::norm, component, 1, width);
  };
  add(TensorRole::vector, Component::hyper_connections, (2 + N) * N, N * D, 2);
  add(TensorRole::vector, Component::hyper_connections, 1, (2 + N) * N, 2);
  add(TensorRole::vector, Component::hyper_connections, 1, 3, 2);
  add(TensorRole::norm, Component::rest, 1, D, 2);

  add(TensorRole::linear, Component::attention, c.q_lora_rank, D);
  add(TensorRole::norm, Component::attention, 1, c.q_lora_rank);
  add(TensorRole::linear, Component::attention, H * d, c.q_lora_rank);
  add(TensorRole::linear, Component::attention, d, D);
  add(TensorRole::norm, Component::attention, 1, d);
  add(TensorRole::vector, Component::attention, 1, H);
  add(TensorRole::linear, Component::attention, c.o_groups * c.o_lora_rank, H * d / c.o_groups);
  add(TensorRole::linear, Component::attention, D, c.o_groups * c.o_lora_rank);
  if (ratio != 0 && ratio == c.compress_rates.compressed_sparse_attention) {
    compressor(Component::attention, d, 2 * d);
    add(TensorRole::linear, Component::indexer, c.index_n_heads * c.index_head_dim, c.q_lora_rank);
    add(TensorRole::matrix, Component::indexer, c.index_n_heads, D);
    compressor(Component::indexer, c.index_head_dim, 2 * c.index_head_dim);
  } else if (ratio != 0) {
    compressor(Component::attention, d, d);
  }

  add(TensorRole::matrix, Component::experts, E, D);
  if (hash) {
    f(WeightGroup{TensorRole::table, c.vocab_size, k, 1, 1, Component::experts, mtp});
  } else {
    add(TensorRole::vector, Component::experts, 1, E);
  }
  f(WeightGroup{TensorRole::expert, inner, D, 2 * E, 2 * k, Component::experts, mtp});
  f(WeightGroup{TensorRole::expert, D, inner, E, k, Component::experts, mtp});
  add(TensorRole::linear, Component::experts, inner, D, 2);
  add(TensorRole::linear, Component::experts, D, inner);
}

}  // namespace detail

/// Calls f(WeightGroup) for all tensors of a configuration, an instance of its type or a
/// ConfigValues: the same tensors as list_tensors(), without their names, with the drafter that
/// drafter_of() says.
template <class Config, class F>
constexpr void for_each_weight(const Config& c, F&& f) {
  const std::size_t D = c.hidden_size;
  const std::size_t N = c.hc_mult;
  const auto hyper_head = [&](bool mtp) {
    const auto add = [&](TensorRole role, Component component, std::size_t rows, std::size_t cols) {
      f(WeightGroup{role, rows, cols, 1, 1, component, mtp});
    };
    add(TensorRole::vector, Component::hyper_connections, N, N * D);
    add(TensorRole::vector, Component::hyper_connections, 1, N);
    add(TensorRole::vector, Component::hyper_connections, 1, 1);
    add(TensorRole::norm, Component::head, 1, D);
  };
  f(WeightGroup{TensorRole::matrix, c.vocab_size, D, 1, 0, Component::rest, false});  // embed
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    detail::for_each_layer_weight(c, static_cast<std::size_t>(c.compress_ratios[i]),
                                  i < c.num_hash_layers, false, f);
  }
  hyper_head(false);
  f(WeightGroup{TensorRole::matrix, c.vocab_size, D, 1, 1, Component::head, false});
  const DrafterKind drafter = drafter_of(c);
  if (drafter == DrafterKind::mtp) {
    f(WeightGroup{TensorRole::linear, D, D, 2, 2, Component::rest, true});
    f(WeightGroup{TensorRole::norm, 1, D, 2, 2, Component::rest, true});
    detail::for_each_layer_weight(c, 0, false, true, f);
    hyper_head(true);
  }
  if (drafter == DrafterKind::dspark) {
    const std::size_t M = c.dspark_target_layer_ids.size();
    const std::size_t R = c.dspark_markov_rank;
    f(WeightGroup{TensorRole::linear, D, M * D, 1, 1, Component::rest, true});
    f(WeightGroup{TensorRole::norm, 1, D, 1, 1, Component::rest, true});
    for (std::size_t k = 0; k < c.dspark_stages; ++k) {
      detail::for_each_layer_weight(c, 0, false, true, f);
    }
    hyper_head(true);
    f(WeightGroup{TensorRole::matrix, c.vocab_size, R, 1, 0, Component::head, true});  // markov_w1
    f(WeightGroup{TensorRole::matrix, c.vocab_size, R, 1, 1, Component::head, true});
    f(WeightGroup{TensorRole::matrix, 1, D + R, 1, 1, Component::head, true});
  }
}

/// The storage of a sequence's rows.
enum class StateFormat : std::uint8_t {
  f32,
  bf16,
  fp8,  ///< the release's: rows of E4M3 with the rotated part in BF16, the indexer's keys in FP4
};

/// What to plan for.
struct PlanOptions {
  StorageFormat storage = StorageFormat::release;  ///< the weights'
  StateFormat state = StateFormat::bf16;           ///< the states'
  std::size_t context = 4096;                      ///< tokens
  std::size_t batch = 1;                           ///< sequences
  std::size_t chunk = 0;    ///< tokens of a pass of prefill; 0: as Model::prefill takes them
  std::size_t threads = 1;  ///< of the SIMD backend
  bool exact = false;       ///< activations and state rows in float32
  std::size_t rollback = kDefaultRollbackLimit;  ///< the states' limit
};

/// Numbers of a configuration; see plan().
struct Plan {
  std::size_t parameters = 0;         ///< main model, hash tables apart
  std::size_t parameters_mtp = 0;     ///< of the drafter
  std::size_t parameters_active = 0;  ///< that a token meets, the embedding apart
  std::size_t hash_entries = 0;       ///< of all hash tables
  std::size_t tensors = 0;            ///< of a checkpoint, scales included
  std::size_t weight_bytes = 0;       ///< of all tensors, the drafter's included
  ///@{
  /// Of these, the tensors of a part that sees images, which are set aside, and their bytes.
  std::size_t tensors_set_aside = 0;
  std::size_t bytes_set_aside = 0;
  ///@}
  ///@{
  /// Of weight_bytes, scales included.
  std::size_t fp4_bytes = 0;
  std::size_t fp8_bytes = 0;
  std::size_t bf16_bytes = 0;
  std::size_t f32_bytes = 0;
  std::size_t table_bytes = 0;
  ///@}
  std::size_t weight_bytes_per_token = 0;  ///< read to decode one
  std::size_t state_bytes = 0;             ///< window and entries of all sequences at the context
  std::size_t tail_bytes = 0;              ///< beside them: projections that compressors still need
  std::size_t state_bytes_per_token = 0;   ///< by which a sequence grows, on average
  std::size_t state_memory = 0;   ///< what the SIMD backend's states hold, see state_memory()
  std::size_t scratch_bytes = 0;  ///< what its passes take, see scratch_memory()
  std::array<std::size_t, kComponents> decode_flops{};   ///< of a token at the context
  std::array<std::size_t, kComponents> prefill_flops{};  ///< of a token, mean up to the context

  /// The sum over all components.
  static constexpr std::size_t total(const std::array<std::size_t, kComponents>& flops) {
    std::size_t sum = 0;
    for (const std::size_t f : flops) sum += f;
    return sum;
  }
  /// Member by member.
  friend constexpr bool operator==(const Plan&, const Plan&) = default;
};

/// Operations of attention and of the indexer's scores, two to a product and sum.
struct AttentionFlops {
  ///@{
  /// Operations.
  std::size_t attention = 0;
  std::size_t indexer = 0;
  ///@}
};

/// What attention in one layer of this compress ratio costs the tokens at the positions 0 .. n - 1
/// together.
template <class Config>
constexpr AttentionFlops layer_attention_flops_before(const Config& c, std::size_t ratio,
                                                      std::size_t n) {
  AttentionFlops flops;
  std::size_t keys = detail::sum_of_entries(n, 1, c.sliding_window);
  if (ratio == c.compress_rates.compressed_sparse_attention) {
    keys += detail::sum_of_entries(n, ratio, c.index_topk);
    flops.indexer = 2 * c.index_n_heads * c.index_head_dim * detail::sum_of_entries(n, ratio, n);
  } else if (ratio != 0) {
    keys += detail::sum_of_entries(n, ratio, n);
  }
  flops.attention = 4 * c.num_attention_heads * c.head_dim * keys;
  return flops;
}

/// The same in all layers.
template <class Config>
constexpr AttentionFlops attention_flops_before(const Config& c, std::size_t n) {
  AttentionFlops flops;
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto ratio = static_cast<std::size_t>(c.compress_ratios[i]);
    const AttentionFlops layer = layer_attention_flops_before(c, ratio, n);
    flops.attention += layer.attention;
    flops.indexer += layer.indexer;
  }
  return flops;
}

/// What attention costs the token at position t.
template <class Config>
constexpr AttentionFlops attention_flops(const Config& c, std::size_t t) {
  const AttentionFlops before = attention_flops_before(c, t);
  const AttentionFlops through = attention_flops_before(c, t + 1);
  return {through.attention - before.attention, through.indexer - before.indexer};
}

/// The plan of a configuration, an instance of its type or a ConfigValues: plan(Flash{}) is a
/// constant expression. Rows of tokens that a rollback could take back are not counted.
/// Source: model.md 11.
template <class Config>
constexpr Plan plan(const Config& c, const PlanOptions& options = {}) {
  Plan plan;
  const auto count = [&plan](const Storage& storage, std::size_t tensors, std::size_t bytes) {
    plan.tensors += tensors * (storage.scale_rows > 0 ? 2 : 1);
    plan.weight_bytes += bytes;
    (storage.dtype == DType::i64       ? plan.table_bytes
     : storage.dtype == DType::i8      ? plan.fp4_bytes
     : storage.dtype == DType::f8_e4m3 ? plan.fp8_bytes
     : storage.dtype == DType::bf16    ? plan.bf16_bytes
                                       : plan.f32_bytes) += bytes;
  };
  if constexpr (std::is_same_v<Config, ConfigValues>) {
    for (const TensorInfo& tensor : list_vision_tensors(c, drafter_of(c))) {
      const Storage storage = storage_of(tensor.role, options.storage);
      const bool matrix = tensor.shape.size() == 2;
      const std::size_t bytes =
          stored_bytes(storage, matrix ? tensor.shape[0] : 1, tensor.shape.back());
      count(storage, 1, bytes);
      plan.tensors_set_aside += 1;
      plan.bytes_set_aside += bytes;
    }
  }
  for_each_weight(c, [&](const WeightGroup& g) {
    const std::size_t elements = g.rows * g.cols;
    const Storage storage = storage_of(g.role, options.storage);
    const std::size_t each = stored_bytes(storage, g.rows, g.cols);
    count(storage, g.count, each * g.count);
    if (g.role == TensorRole::table) {
      plan.hash_entries += elements;
      if (!g.mtp) plan.weight_bytes_per_token += 8 * g.cols;
      return;
    }
    (g.mtp ? plan.parameters_mtp : plan.parameters) += elements * g.count;
    if (g.mtp) return;
    plan.parameters_active += elements * g.used;
    plan.weight_bytes_per_token += g.used > 0 ? each * g.used : each / g.rows;
    if (g.rows > 1) {
      const auto component = static_cast<std::size_t>(g.component);
      plan.decode_flops[component] += 2 * elements * g.used;
      plan.prefill_flops[component] += 2 * elements * g.used;
    }
  });

  const std::size_t d = c.head_dim;
  const std::size_t r = c.qk_rope_head_dim;
  const std::size_t n = options.context;
  const bool fp8 = options.state == StateFormat::fp8;
  const std::size_t size = options.state == StateFormat::f32 ? 4 : 2;
  const std::size_t row = fp8 ? (d - r) + (d - r + 63) / 64 + 1 + 2 * r : d * size;
  const std::size_t key =
      fp8 ? c.index_head_dim / 2 + (c.index_head_dim + 31) / 32 : c.index_head_dim * size;
  const std::size_t csa = c.compress_rates.compressed_sparse_attention;
  std::size_t state = 0;
  std::size_t tails = 0;
  std::size_t growth = 0;  // of 1024 tokens
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto ratio = static_cast<std::size_t>(c.compress_ratios[i]);
    state += std::min(n, c.sliding_window - 1) * row;
    if (ratio == 0) continue;
    const std::size_t entries = n / ratio;
    state += entries * row;
    growth += row * 1024 / ratio;
    const bool indexed = ratio == csa;
    // What an unfinished window, and before it an overlapping one, keeps: float32 kv and gate.
    const std::size_t tail = std::min(n, n % ratio + (indexed ? ratio : 0));
    tails += tail * (indexed ? 2 : 1) * d * 8;
    if (!indexed) continue;
    state += entries * key;
    tails += tail * 2 * c.index_head_dim * 8;
    growth += key * 1024 / ratio;
  }
  const auto add_flops = [](std::array<std::size_t, kComponents>& to, const AttentionFlops& flops,
                            std::size_t tokens) {
    to[static_cast<std::size_t>(Component::attention)] += flops.attention / tokens;
    to[static_cast<std::size_t>(Component::indexer)] += flops.indexer / tokens;
  };
  add_flops(plan.decode_flops, attention_flops(c, n), 1);
  add_flops(plan.prefill_flops, attention_flops_before(c, n), std::max<std::size_t>(n, 1));
  plan.state_bytes = state * options.batch;
  plan.tail_bytes = tails * options.batch;
  plan.state_bytes_per_token = growth / 1024;

  const bool f32_rows = options.exact || options.storage == StorageFormat::f32;
  plan.state_memory = options.batch * state_memory(c, n, f32_rows ? 4 : 2, options.rollback);
  const std::size_t chunk = options.chunk > 0 ? options.chunk : prefill_chunk(c);
  PassShape pass{.tokens = std::min(chunk, n),
                 .context = n,
                 .threads = options.threads,
                 .storage = options.storage,
                 .exact = options.exact};
  plan.scratch_bytes = scratch_memory(c, pass);
  pass.tokens = pass.sequences = pass.logits = options.batch;
  plan.scratch_bytes = std::max(plan.scratch_bytes, scratch_memory(c, pass));
  return plan;
}

}  // namespace ds4::inline v0_1
