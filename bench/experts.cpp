// The mixture of experts: routing and the routed experts.
//
// A layer of Flash has 256 experts, 13 GB in BF16; the benchmark has kExperts, of which each token
// picks as many as in Flash. One token after the other picks the next ones, so that decoding reads
// its experts from memory as it would among 256. A prompt's tokens share fewer experts here than
// there: an expert has more tokens at once, which is faster than in Flash.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ds4/layers/moe.hpp>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t kExperts = 16;
constexpr std::size_t k = Config::num_experts_per_tok;
constexpr std::size_t D = Config::hidden_size;
constexpr std::size_t F = Config::moe_intermediate_size;
constexpr std::size_t E = Config::n_routed_experts;

template <class B>
class RoutedExperts {
 public:
  RoutedExperts(DType dtype, std::size_t tokens)
      : backend_(make_backend<B>()),
        x_(random_rows<D>(tokens)),
        y_(tokens),
        weights_(random_rows<k>(tokens)) {
    const auto bind = [&]<std::size_t R, std::size_t C>(auto& matrix, std::index_sequence<R, C>) {
      stored_.emplace_back(R, C, dtype);
      matrix = backend_.template bind<R, C>(stored_.back().stored());
      bytes_ = stored_.back().bytes();
    };
    for (auto& expert : experts_) {
      bind(expert.w1, std::index_sequence<F, D>());
      bind(expert.w2, std::index_sequence<D, F>());
      bind(expert.w3, std::index_sequence<F, D>());
    }
    for (std::size_t first = 0; first < kExperts; ++first) {
      Rows<std::int32_t, k>& picks = picks_.emplace_back(tokens);
      for (std::size_t i = 0; i < picks.size(); ++i) {
        picks.flat()[i] = static_cast<std::int32_t>((first * k + i) % kExperts);
      }
    }
  }

  void run(benchmark::State& state) {
    const std::size_t tokens = x_.extent(0);
    measure(state, backend_, 1, [&](B& lane, std::size_t i) {
      ops::routed_experts(lane, y_.view(), x_.view(), picks_[i % picks_.size()].view(),
                          weights_.view(), experts_, Config::swiglu_limit);
    });
    const std::size_t used = std::min(tokens * k, kExperts);
    set_rates(state, product(used, 3, bytes_), product(2 * 3, tokens * k, D, F));
  }

 private:
  B backend_;
  std::vector<Weight> stored_;
  std::vector<Expert<Config, B>> experts_ = std::vector<Expert<Config, B>>(kExperts);
  std::size_t bytes_ = 0;  // of one matrix
  std::vector<Rows<std::int32_t, k>> picks_;
  Rows<float, D> x_;
  Rows<float, D> y_;
  Rows<float, k> weights_;
};

template <class B>
class RouteByScore {
 public:
  explicit RouteByScore(std::size_t tokens)
      : backend_(make_backend<B>()),
        logits_(random_rows<E>(tokens, 3.0f)),
        picks_(tokens),
        weights_(tokens) {
    fill(bias_.flat(), 0.1f);
  }

  void run(benchmark::State& state) {
    const std::size_t tokens = logits_.extent(0);
    measure(state, backend_, small_batch(tokens), [&](B& lane, std::size_t) {
      ops::route_by_score(lane, picks_.view(), weights_.view(), logits_.view(), bias_,
                          Config::routed_scaling_factor);
    });
    set_rates(state, product(tokens, E, sizeof(float)), 0.0);
  }

 private:
  B backend_;
  Rows<float, E> logits_;
  Tensor<float, E> bias_;
  Rows<std::int32_t, k> picks_;
  Rows<float, k> weights_;
};

}  // namespace

void add_experts() {
  add_for_tokens<RouteByScore>("route_by_score");
  for (const DType dtype : {DType::bf16, DType::i8}) {  // the release has them in FP4
    for (const std::size_t tokens : {kDecode, kPrefill}) {
      const std::string full =
          "routed_experts/" + storage_name(dtype) + "/tokens:" + std::to_string(tokens);
      add<RoutedExperts<Plain>>(full + backend_name<Plain>(), dtype, tokens);
      add<RoutedExperts<Simd>>(full + backend_name<Simd>(), dtype, tokens);
    }
  }
}

}  // namespace ds4::bench
