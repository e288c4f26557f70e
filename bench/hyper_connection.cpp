// Manifold-constrained hyper-connections: the weights of a site (Sinkhorn rounds on a matrix as
// wide as there are streams), and reading and writing the streams. GB/s are of activations, read
// and written; those of one token stay in a cache.
#include <algorithm>
#include <cstddef>
#include <string>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t N = Config::hc_mult;
constexpr std::size_t D = Config::hidden_size;
constexpr std::size_t U = (2 + N) * N;

template <class B>
class Site {
 public:
  explicit Site(std::size_t tokens)
      : tokens_(tokens),
        backend_(make_backend<B>()),
        streams_(random_rows<N, D>(tokens)),
        y_(random_rows<D>(tokens)),
        u_(random_rows<U>(tokens)),
        pre_(random_rows<N>(tokens)),
        post_(random_rows<N>(tokens)),
        comb_(tokens) {
    fill(base_.flat());
    std::ranges::fill(scale_.flat(), 1.0f);
    // Sums below 1: streams that are mixed over and over stay finite.
    std::ranges::fill(comb_.flat(), 0.9f / static_cast<float>(N));
  }

 protected:
  std::size_t tokens_;
  B backend_;
  Rows<float, N, D> streams_;
  Rows<float, D> y_;
  Rows<float, U> u_;
  Rows<float, N> pre_;
  Rows<float, N> post_;
  Rows<float, N, N> comb_;
  typename B::template Parameter<U> base_;
  typename B::template Parameter<3> scale_;
};

template <class B>
class Weigh : Site<B> {
 public:
  using Site<B>::Site;
  void run(benchmark::State& state) {
    measure(state, this->backend_, small_batch(this->tokens_), [&](B& lane, std::size_t) {
      ops::hyper_connection_weights(lane, this->pre_.view(), this->post_.view(), this->comb_.view(),
                                    this->u_.view(), this->base_, this->scale_,
                                    Config::hc_sinkhorn_iters, Config::hc_eps);
    });
    // A round adds up rows and columns and divides by the sums.
    set_rates(state, 0.0, product(4, N, N, Config::hc_sinkhorn_iters, this->tokens_));
  }
};

template <class B>
class Collapse : Site<B> {
 public:
  using Site<B>::Site;
  void run(benchmark::State& state) {
    measure(state, this->backend_, small_batch(this->tokens_), [&](B& lane, std::size_t) {
      ops::collapse_streams(lane, this->y_.view(), this->streams_.view(), this->pre_.view());
    });
    set_rates(state, product(this->tokens_, N + 1, D, sizeof(float)),
              product(2, this->tokens_, N, D));
  }
};

template <class B>
class Mix : Site<B> {
 public:
  using Site<B>::Site;
  void run(benchmark::State& state) {
    measure(state, this->backend_, small_batch(this->tokens_), [&](B& lane, std::size_t) {
      ops::mix_streams(lane, this->streams_.view(), this->post_.view(), this->comb_.view(),
                       this->y_.view());
    });
    set_rates(state, product(this->tokens_, 2 * N + 1, D, sizeof(float)),
              product(2, this->tokens_, N, N + 1, D));
  }
};

}  // namespace

void add_hyper_connection() {
  add_for_tokens<Weigh>("hyper_connection_weights");
  add_for_tokens<Collapse>("collapse_streams");
  add_for_tokens<Mix>("mix_streams");
}

}  // namespace ds4::bench
