// The lightning indexer: one query scores every entry of its context and keeps the best. What it
// takes grows with the context, and 64 heads to a key make arithmetic the limit. Keys are BF16 on
// the SIMD backend, float32 on the plain one.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t nI = Config::index_n_heads;
constexpr std::size_t dI = Config::index_head_dim;
constexpr std::size_t kRatio = Config::compress_rates.compressed_sparse_attention;

template <class B>
class PickEntries {
 public:
  explicit PickEntries(std::size_t entries)
      : backend_(make_backend<B>()),
        entries_(entries),
        q_(random_rows<nI, dI>(kDecode)),
        weights_(random_rows<nI>(kDecode)),
        picks_(kDecode) {
    keep_keys_in_bf16(backend_);
    const auto keys = random_rows<dI>(entries);
    backend_.run([&](B& lane) { ops::append(lane, keys_, keys.view()); });
  }

  void run(benchmark::State& state) {
    const Segment segment{0, kDecode, entries_ * kRatio - 1};
    const Log* const keys = &keys_;
    measure(state, backend_, 1, [&](B& lane, std::size_t) {
      ops::pick_entries<kRatio>(lane, picks_.view(), q_.view(), weights_.view(),
                                std::span(&segment, 1), std::span(&keys, 1));
    });
    set_rates(state, product(entries_, dI, kKeyBytes<B>), product(2, nI, dI, entries_));
  }

 private:
  using Log = typename B::template IndexLog<dI>;

  B backend_;
  std::size_t entries_;
  Log keys_;
  Rows<float, nI, dI> q_;
  Rows<float, nI> weights_;
  Rows<std::int32_t, Config::index_topk> picks_;
};

}  // namespace

void add_indexer() {
  constexpr std::size_t k1 = 1024;
  for (const std::size_t entries : {k1, 16 * k1, 64 * k1, 256 * k1}) {
    const std::string full = "pick_entries/entries:" + std::to_string(entries);
    if (entries <= 16 * k1) add<PickEntries<Plain>>(full + backend_name<Plain>(), entries);
    add<PickEntries<Simd>>(full + backend_name<Simd>(), entries);
  }
}

}  // namespace ds4::bench
