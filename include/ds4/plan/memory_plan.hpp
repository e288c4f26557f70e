// The memory that a model takes beside its weights on the SIMD backend, before anything is loaded:
// the scratch memory of a pass, and what a state holds. Follows the passes step by step: where a
// layer asks for memory, so does its plan.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd/sizes.hpp>

namespace ds4::inline v0_1 {

/// A pass to plan the scratch memory of.
struct PassShape {
  std::size_t tokens = 1;                          ///< S, of all sequences
  std::size_t sequences = 1;                       ///< of equal length
  std::size_t context = 1;                         ///< tokens of each, those of the pass included
  std::size_t logits = 1;                          ///< rows of logits
  std::size_t threads = 1;                         ///< lanes, each with scratch memory of its own
  StorageFormat storage = StorageFormat::release;  ///< the weights'
  bool exact = false;     ///< activations in float32; they are as well without AVX-512's BF16
  bool targets = false;   ///< states keep DSpark's target hidden states
  std::size_t block = 0;  ///< tokens of a block, where the pass is DSpark's
};

namespace detail {

/// Memory that is given back in the reverse order, and the most of it at once: the lanes' together,
/// and each lane's own.
class ScratchMeter {
 public:
  constexpr explicit ScratchMeter(const PassShape& pass) : pass_(pass) {}

  constexpr void shared(std::size_t bytes) {
    shared_ += aligned(bytes);
    shared_peak_ = std::max(shared_peak_, shared_);
  }
  constexpr void own(std::size_t bytes) {
    own_ += aligned(bytes);
    own_peak_ = std::max(own_peak_, own_);
  }
  /// Float32 rows of the pass's tokens.
  constexpr void rows(std::size_t width) { shared(pass_.tokens * width * 4); }
  /// The pass goes on with other tokens.
  constexpr void set_tokens(std::size_t tokens) { pass_.tokens = tokens; }

  /// Calls f; what it takes is given back.
  template <class F>
  constexpr void scope(F&& f) {
    const std::size_t shared = shared_;
    const std::size_t own = own_;
    f();
    shared_ = shared;
    own_ = own;
  }

  /// Bytes of a token of K values, laid out for a weight of this role.
  constexpr std::size_t stride(TensorRole role, std::size_t K) const {
    return aligned(K * (is_reduced(role) ? 2 : 4));
  }
  /// A linear layer on `tokens` tokens of K values.
  constexpr void linear(TensorRole role, std::size_t tokens, std::size_t K) {
    scope([&] {
      lay_out(role, tokens, K);
      products();
    });
  }
  constexpr void linear(TensorRole role, std::size_t K) { linear(role, pass_.tokens, K); }
  constexpr void products() {
    constexpr std::size_t kWords = simd::kBlockWords * simd::kPanelRows * simd::kWord;
    constexpr std::size_t kScales = simd::kBlockWords / 16 * simd::kPanelRows * 4;
    own(kWords + kWords / 2 + 2 * simd::kPanelSlack + kScales +
        simd::kScaleWords * simd::kPanelRows * simd::kWord);
  }

  constexpr std::size_t peak() const { return shared_peak_ + pass_.threads * own_peak_; }

 private:
  static constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  constexpr bool is_reduced(TensorRole role) const {
    return !pass_.exact && storage_of(role, pass_.storage).dtype != DType::f32;
  }
  constexpr void lay_out(TensorRole role, std::size_t tokens, std::size_t K) {
    const bool fp4 = storage_of(role, pass_.storage).dtype == DType::i8;
    if (!is_reduced(role) && !fp4 && stride(role, K) == K * 4) return;  // laid out already
    const std::size_t bytes = tokens * stride(role, K);
    if (tokens * K <= simd::kPrivateLayout || pass_.threads == 1) {
      own(bytes);
    } else {
      shared(bytes);
    }
  }

  PassShape pass_;
  std::size_t shared_ = 0;
  std::size_t shared_peak_ = 0;
  std::size_t own_ = 0;
  std::size_t own_peak_ = 0;
};

/// Compressor::append.
template <class Config>
constexpr void meter_compressor(ScratchMeter& m, const Config& c, const PassShape& pass,
                                std::size_t width, std::size_t projected, std::size_t ratio) {
  m.scope([&] {
    m.rows(projected);
    m.rows(projected);
    m.linear(TensorRole::matrix, c.hidden_size);
    const std::size_t tokens = pass.tokens / pass.sequences;
    const std::size_t entries = pass.context / ratio - (pass.context - tokens) / ratio;
    for (std::size_t i = 0; i < pass.sequences && entries > 0; ++i) {
      m.shared(entries * width * 4);
      m.shared(entries * c.qk_rope_head_dim / 2 * 4);
      m.shared(entries * c.qk_rope_head_dim / 2 * 4);
    }
  });
}

/// Indexer::pick.
template <class Config>
constexpr void meter_indexer(ScratchMeter& m, const Config& c, const PassShape& pass,
                             std::size_t ratio) {
  const std::size_t nI = c.index_n_heads;
  const std::size_t dI = c.index_head_dim;
  m.scope([&] {
    m.rows(nI * dI);
    m.rows(nI);
    m.linear(TensorRole::linear, c.q_lora_rank);
    m.linear(TensorRole::matrix, c.hidden_size);
    meter_compressor(m, c, pass, dI, 2 * dI, ratio);
    m.own(pass.sequences * sizeof(void*));
    m.scope([&] {
      constexpr std::size_t kCandidate = 8;
      const std::size_t best = 2 * c.index_topk * kCandidate;
      const bool together = pass.tokens / pass.sequences < 4 * pass.threads;
      if (together && pass.context / ratio <= c.index_topk) return;
      if (together) {
        m.shared(pass.threads * sizeof(std::size_t));
        m.shared(pass.threads * best);
      }
      const std::size_t heads =
          (nI + simd::kQueryHeads - 1) / simd::kQueryHeads * simd::kQueryHeads;
      m.own(heads * dI * 4);
      m.own(heads * 4);
      m.own(best);
    });
  });
}

/// HyperConnection::read and HyperHead::read, where fn gives `weights` values a token.
template <class Config>
constexpr void meter_hyper_connection(ScratchMeter& m, const Config& c, std::size_t tokens,
                                      std::size_t weights) {
  const std::size_t streams = c.hc_mult * c.hidden_size;
  m.scope([&] {
    m.shared(tokens * streams * 4);
    m.shared(tokens * weights * 4);
    m.shared(tokens * c.hc_mult * 4);
    m.linear(TensorRole::vector, tokens, streams);
  });
}

/// Attention::append_window.
template <class Config>
constexpr void meter_window(ScratchMeter& m, const Config& c) {
  m.scope([&] {
    m.rows(c.head_dim);
    m.linear(TensorRole::linear, c.hidden_size);
  });
}

/// Attention::forward.
template <class Config>
constexpr void meter_attention(ScratchMeter& m, const Config& c, const PassShape& pass,
                               std::size_t ratio) {
  const std::size_t H = c.num_attention_heads;
  const std::size_t d = c.head_dim;
  const std::size_t S = pass.tokens;
  const bool indexed = ratio != 0 && ratio == c.compress_rates.compressed_sparse_attention;
  m.scope([&] {
    m.rows(c.q_lora_rank);
    m.linear(TensorRole::linear, c.hidden_size);
    m.rows(H * d);
    m.linear(TensorRole::linear, c.q_lora_rank);
    meter_window(m, c);
    if (ratio != 0) {
      m.own(pass.sequences * sizeof(void*));
      meter_compressor(m, c, pass, d, indexed ? 2 * d : d, ratio);
    }
    if (indexed) {
      m.rows(c.index_topk);
      m.own(pass.sequences * sizeof(void*));
      meter_indexer(m, c, pass, ratio);
    }
    m.own(pass.sequences * 2 * sizeof(void*));
    m.rows(H * d);
    m.scope([&] {
      const std::size_t lanes = 2 * simd::kMaxLanes;
      const std::size_t padded = (d + lanes - 1) / lanes * lanes;
      const std::size_t entries = ratio == 0 ? 0 : indexed ? c.index_topk : pass.context / ratio;
      m.own((c.sliding_window + pass.block + entries) * sizeof(void*));
      m.own(simd::kHeadGroup * simd::kKeyTile * 4);
      m.own(H * padded * 4);
      m.own(H * 4);
      m.own(H * 4);
      m.own(H * padded * 4);
    });
    m.rows(c.o_groups * c.o_lora_rank);
    m.linear(TensorRole::linear, S * c.o_groups, H * d / c.o_groups);
    m.linear(TensorRole::linear, c.o_groups * c.o_lora_rank);
  });
}

/// Moe::forward.
template <class Config>
constexpr void meter_moe(ScratchMeter& m, const Config& c, const PassShape& pass) {
  const std::size_t D = c.hidden_size;
  const std::size_t F = c.moe_intermediate_size;
  const std::size_t E = c.n_routed_experts;
  const std::size_t S = pass.tokens;
  const std::size_t places = S * c.num_experts_per_tok;
  const auto widest_part = [&](std::size_t rows) {  // of a lane: whole panels
    const std::size_t panel = std::min(simd::kPanelRows, (rows + pass.threads - 1) / pass.threads);
    const std::size_t panels = (rows + panel - 1) / panel;
    return std::min(rows, (panels + pass.threads - 1) / pass.threads * panel);
  };
  m.scope([&] {
    m.rows(E);
    m.rows(c.num_experts_per_tok);
    m.rows(c.num_experts_per_tok);
    m.linear(TensorRole::matrix, D);
    m.rows(D);
    m.scope([&] {
      m.own((E + 1) * sizeof(std::size_t));
      m.own(places * sizeof(std::size_t));
      m.own(E * sizeof(std::size_t));
      constexpr std::size_t kPicked = 184;  // what a picked expert's weights are
      m.own(std::min(E, places) * kPicked);
      m.shared(places * F * 4);
      m.shared(places * m.stride(TensorRole::expert, D));
      m.products();
      m.own(S * widest_part(F) * 4);
      m.shared(places * m.stride(TensorRole::expert, F));
      m.own(S * widest_part(D) * 4);
    });
    m.rows(F);
    m.rows(F);
    m.linear(TensorRole::linear, D);
    m.linear(TensorRole::linear, F);
  });
}

/// What DecoderLayer::forward and append_window begin with.
template <class Config>
constexpr void meter_reading(ScratchMeter& m, const Config& c, const PassShape& pass) {
  const std::size_t N = c.hc_mult;
  m.rows(c.hidden_size);
  m.rows(N);
  m.rows(N * N);
  meter_hyper_connection(m, c, pass.tokens, (2 + N) * N);
}

/// DecoderLayer::forward.
template <class Config>
constexpr void meter_layer(ScratchMeter& m, const Config& c, const PassShape& pass,
                           std::size_t ratio) {
  m.scope([&] {
    m.rows(c.hidden_size);
    meter_reading(m, c, pass);
    meter_attention(m, c, pass, ratio);
    meter_moe(m, c, pass);
    m.scope([&] { m.own(c.hc_mult * simd::kMaxLanes * 4); });
  });
}

/// The end of a pass: collapse, norm, head.
template <class Config>
constexpr void meter_head(ScratchMeter& m, const Config& c, std::size_t logits) {
  m.scope([&] {
    m.shared(logits * c.hidden_size * 4);
    meter_hyper_connection(m, c, logits, c.hc_mult);
    m.linear(TensorRole::matrix, logits, c.hidden_size);
  });
}

}  // namespace detail

/// Bytes of scratch memory that a pass takes: Model::scratch_bytes() after it. Weights of a kind
/// are taken to be stored as the format stores them.
template <class Config>
constexpr std::size_t scratch_memory(const Config& c, const PassShape& pass) {
  const std::size_t streams = c.hc_mult * c.hidden_size;
  detail::ScratchMeter m(pass);
  for (std::size_t i = 0; i < 4; ++i) m.rows(c.qk_rope_head_dim / 2);
  m.rows(streams);
  if (pass.targets) m.rows(c.dspark_target_layer_ids.size() * c.hidden_size);
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    m.scope([&] {
      m.own(pass.sequences * sizeof(void*));
      detail::meter_layer(m, c, pass, static_cast<std::size_t>(c.compress_ratios[i]));
    });
  }
  m.shared(pass.logits * streams * 4);
  detail::meter_head(m, c, pass.logits);
  return m.peak();
}

namespace detail {

/// Model::draft with DSpark where pass.tokens window rows are to be made.
template <class Config>
constexpr std::size_t dspark_memory(const Config& c, PassShape pass) {
  const std::size_t D = c.hidden_size;
  ScratchMeter rows(pass);
  for (std::size_t i = 0; i < 2; ++i) rows.rows(c.qk_rope_head_dim / 2);
  rows.rows(c.dspark_target_layer_ids.size() * D);
  rows.rows(D);
  rows.linear(TensorRole::linear, c.dspark_target_layer_ids.size() * D);
  meter_window(rows, c);

  pass.tokens = pass.block = c.dspark_block_size;
  ScratchMeter block(pass);
  for (std::size_t i = 0; i < 2; ++i) block.rows(c.qk_rope_head_dim / 2);
  block.rows(c.hc_mult * D);
  meter_layer(block, c, pass, 0);
  meter_head(block, c, pass.tokens);

  pass.tokens = 1;
  ScratchMeter markov(pass);
  markov.rows(c.dspark_markov_rank);
  markov.linear(TensorRole::matrix, c.dspark_markov_rank);
  return std::max({rows.peak(), block.peak(), markov.peak()});
}

}  // namespace detail

/// The same for Model::draft where the drafter has pass.tokens rows to make: of a
/// multi-token-prediction layer the token's, and of either those of the tokens before it that have
/// come since the last draft, at first of the whole window.
template <class Config>
constexpr std::size_t draft_memory(const Config& c, PassShape pass) {
  if (drafter_of(c) == DrafterKind::dspark) return detail::dspark_memory(c, pass);
  const std::size_t rows = pass.tokens;
  const std::size_t streams = c.hc_mult * c.hidden_size;
  detail::ScratchMeter m(pass);
  for (std::size_t i = 0; i < 2; ++i) m.rows(c.qk_rope_head_dim / 2);
  m.rows(streams);
  m.scope([&] {
    m.rows(streams);
    m.rows(c.hidden_size);  // MtpLayer::project
    m.rows(c.hidden_size);
    m.linear(TensorRole::linear, c.hidden_size);
    m.linear(TensorRole::linear, rows * c.hc_mult, c.hidden_size);
  });
  if (rows > 1) {
    pass.tokens = rows - 1;
    m.set_tokens(pass.tokens);
    m.scope([&] {
      detail::meter_reading(m, c, pass);
      detail::meter_window(m, c);
    });
  }
  pass.tokens = 1;
  m.set_tokens(1);
  detail::meter_layer(m, c, pass, 0);
  detail::meter_head(m, c, 1);
  return m.peak();
}

/// Bytes that the state of one sequence of n tokens holds: whole blocks of rows, and those that a
/// rollback of up to `rollback` tokens may need. `size` is that of a value of window and entries;
/// `drafts`: the state keeps drafts, and has just made one.
template <class Config>
constexpr std::size_t state_memory(const Config& c, std::size_t n, std::size_t size,
                                   std::size_t rollback, bool drafts = false) {
  const auto log = [](std::size_t first, std::size_t end, std::size_t rows, std::size_t row_bytes) {
    return ((end + rows - 1) / rows - first / rows) * rows * row_bytes;
  };
  const std::size_t earliest = n - std::min(n, rollback);
  const std::size_t d = c.head_dim;
  std::size_t bytes = 0;
  if (drafts && n > 0 && drafter_of(c) == DrafterKind::dspark) {
    const std::size_t first = earliest - std::min(earliest, c.sliding_window);
    bytes +=
        log(first, n, simd::kTailLogRows, c.dspark_target_layer_ids.size() * c.hidden_size * 4);
    bytes +=
        c.dspark_stages * log(n - std::min(n, c.sliding_window), n, simd::kKeyLogRows, d * size);
  } else if (drafts && n > 0) {
    const std::size_t first = earliest - std::min(earliest, c.sliding_window);
    bytes += log(first, n, simd::kTailLogRows, c.hc_mult * c.hidden_size * 4);
    bytes += log(first, n - 1, simd::kKeyLogRows, d * size);
  }
  for (std::size_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto ratio = static_cast<std::size_t>(c.compress_ratios[i]);
    bytes +=
        log(earliest - std::min(earliest, c.sliding_window - 1), n, simd::kKeyLogRows, d * size);
    if (ratio == 0) continue;
    const bool indexed = ratio == c.compress_rates.compressed_sparse_attention;
    const std::size_t windows = earliest / ratio;
    const std::size_t first = (indexed && windows > 0 ? windows - 1 : windows) * ratio;
    bytes += 2 * log(first, n, simd::kTailLogRows, (indexed ? 2 * d : d) * 4);
    bytes += log(0, n / ratio, simd::kKeyLogRows, d * size);
    if (!indexed) continue;
    const std::size_t dI = c.index_head_dim;
    bytes += 2 * log(first, n, simd::kTailLogRows, 2 * dI * 4);
    const std::size_t key = size == 2 ? (dI + 1) / 2 * 4 : dI * 4;
    bytes += log(0, n / ratio, simd::kIndexLogBlocks * simd::kKeyBlock, key);
  }
  return bytes;
}

}  // namespace ds4::inline v0_1
