// Attention over the keys of a context, and the compressors that make its entries.
//
// Every head reads every key, so arithmetic is the limit and keys may well come from a cache. Keys
// are BF16 on the SIMD backend, float32 on the plain one.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <ds4/layers/attention.hpp>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t H = Config::num_attention_heads;
constexpr std::size_t d = Config::head_dim;
constexpr std::size_t W = Config::sliding_window;
constexpr std::size_t kTopK = Config::index_topk;

constexpr std::size_t ratio_of(AttentionKind kind) {
  return kind == AttentionKind::sliding ? 0
         : kind == AttentionKind::csa   ? Config::compress_rates.compressed_sparse_attention
                                        : Config::compress_rates.heavily_compressed_attention;
}

/// Appends rows until the log has `end`; forgets those before `first`, where it can.
template <class B, class Log>
void grow(B& backend, Log& log, std::size_t end, std::size_t first) {
  const auto rows = random_rows<Log::kWidth>(std::min<std::size_t>(end, 1024));
  backend.run([&](B& lane) {
    for (std::size_t done = 0; done < end; done += rows.extent(0)) {
      const std::size_t count = std::min(rows.extent(0), end - done);
      ops::append(lane, log, rows.view().rows(0, count));
      ops::forget_before(lane, log, std::min(first, done + count));
      lane.wait_for_all();
    }
  });
}

/// The last `tokens` queries of a context of `context` tokens.
template <class B, AttentionKind Kind>
class Attend {
 public:
  Attend(std::size_t context, std::size_t tokens)
      : backend_(make_backend<B>()),
        segment_{0, tokens, context - tokens},
        q_(random_rows<H, d>(tokens)),
        out_(tokens),
        picks_(Kind == AttentionKind::csa ? tokens : 0) {
    keep_keys_in_bf16(backend_);
    fill(sink_.flat());
    const std::size_t seen = context - std::min(context, tokens + W);
    grow(backend_, window_, context, seen);
    if constexpr (kRatio > 0) {
      grow(backend_, entries_, context / kRatio, 0);
      // Picks that all queries see, spread over the context.
      const std::size_t step = std::max<std::size_t>((context - tokens + 1) / kRatio / kTopK, 1);
      for (std::size_t i = 0; i < picks_.size(); ++i) {
        picks_.flat()[i] = static_cast<std::int32_t>(i % kTopK * step + i / kTopK % step);
      }
    }
  }

  void run(benchmark::State& state) {
    const KeySource<Log> source{&window_, kRatio > 0 ? &entries_ : nullptr};
    measure(state, backend_, 1, [&](B& lane, std::size_t) {
      ops::attend<Kind, kRatio, W>(lane, out_.view(), q_.view(), sink_, picks_.view(),
                                   std::span(&segment_, 1), std::span(&source, 1));
    });
    std::size_t keys = 0;
    for (std::size_t t = segment_.position; t < segment_.position + segment_.count; ++t) {
      keys += std::min(t + 1, W);
      if constexpr (Kind == AttentionKind::csa) keys += kTopK;
      if constexpr (Kind == AttentionKind::hca) keys += (t + 1) / kRatio;
    }
    set_rates(state, product(keys, d, kKeyBytes<B>), product(4, H, d, keys));
  }

 private:
  static constexpr std::size_t kRatio = ratio_of(Kind);
  using Log = typename B::template KeyLog<d>;

  B backend_;
  Segment segment_;
  Log window_;
  Log entries_;
  Rows<float, H, d> q_;
  Rows<float, H, d> out_;
  Rows<std::int32_t, kTopK> picks_;
  typename B::template Parameter<H> sink_;
};

/// Pools `count` entries, those of a prompt or the one that a decoded token completes.
template <class B, AttentionKind Kind>
class PoolEntries {
 public:
  explicit PoolEntries(std::size_t count) : backend_(make_backend<B>()), entries_(count) {
    const std::size_t tokens = (count + 1) * kRatio;
    grow(backend_, kv_, tokens, 0);
    grow(backend_, gate_, tokens, 0);
    fill(ape_.flat());
  }

  void run(benchmark::State& state) {
    const std::size_t count = entries_.extent(0);
    measure(state, backend_, 16, [&](B& lane, std::size_t) {
      ops::pool_entries<kRatio, kOverlapping>(lane, entries_.view(), 1, kv_, gate_, ape_);
    });
    constexpr std::size_t kSlots = kOverlapping ? 2 * kRatio : kRatio;
    set_rates(state, product(2 * count, kSlots, d, sizeof(float)), 0.0);
  }

 private:
  static constexpr std::size_t kRatio = ratio_of(Kind);
  static constexpr bool kOverlapping = Kind == AttentionKind::csa;
  static constexpr std::size_t kProjected = kOverlapping ? 2 * d : d;

  B backend_;
  typename B::template RowLog<kProjected> kv_;
  typename B::template RowLog<kProjected> gate_;
  typename B::template Parameter<kRatio, kProjected> ape_;
  Rows<float, d> entries_;
};

template <AttentionKind Kind>
void add_attend(std::size_t context) {
  const std::string kind(name_of(Kind));
  const std::string name = "attend/" + kind + "/context:" + std::to_string(context) + "/tokens:";
  add<Attend<Plain, Kind>>(name + std::to_string(kDecode) + backend_name<Plain>(), context,
                           kDecode);
  add<Attend<Simd, Kind>>(name + std::to_string(kDecode) + backend_name<Simd>(), context, kDecode);
  // The plain path takes half a minute for a prompt.
  add<Attend<Simd, Kind>>(name + std::to_string(kPrefill) + backend_name<Simd>(), context,
                          kPrefill);
}

template <AttentionKind Kind>
void add_pool() {
  for (const std::size_t tokens : {kDecode, kPrefill}) {
    const std::size_t count = std::max<std::size_t>(tokens / ratio_of(Kind), 1);
    const std::string full =
        "pool_entries/" + std::string(name_of(Kind)) + "/entries:" + std::to_string(count);
    add<PoolEntries<Plain, Kind>>(full + backend_name<Plain>(), count);
    add<PoolEntries<Simd, Kind>>(full + backend_name<Simd>(), count);
  }
}

}  // namespace

void add_attention() {
  constexpr std::size_t kShort = 4096;
  constexpr std::size_t kLong = 65536;
  add_attend<AttentionKind::sliding>(kShort);
  add_attend<AttentionKind::csa>(kLong);  // index_topk entries, however long the context
  for (const std::size_t context : {kShort, kLong, Config::max_position_embeddings}) {
    add_attend<AttentionKind::hca>(context);
  }
  add_pool<AttentionKind::csa>();
  add_pool<AttentionKind::hca>();
}

}  // namespace ds4::bench
