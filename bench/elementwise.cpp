// Norms, rotary embedding, the experts' activation. GB/s are of activations, read and written;
// those of one token stay in a cache.
#include <algorithm>
#include <cstddef>
#include <string>

#include <ds4/layers/rotary.hpp>

#include "support.hpp"

namespace ds4::bench {
namespace {

constexpr std::size_t D = Config::hidden_size;
constexpr std::size_t H = Config::num_attention_heads;
constexpr std::size_t d = Config::head_dim;
constexpr std::size_t F = Config::moe_intermediate_size;
constexpr std::size_t kPairs = Config::qk_rope_head_dim / 2;

/// The norm before a sublayer.
template <class B>
class RmsNorm {
 public:
  explicit RmsNorm(std::size_t tokens)
      : backend_(make_backend<B>()), x_(random_rows<D>(tokens)), y_(tokens) {
    fill(weight_.flat());
  }

  void run(benchmark::State& state) {
    const std::size_t tokens = x_.extent(0);
    measure(state, backend_, small_batch(tokens), [&](B& lane, std::size_t) {
      ops::rms_norm(lane, y_.view(), x_.view(), weight_, Config::rms_norm_eps);
    });
    set_rates(state, product(2, tokens, D, sizeof(float)), product(4, tokens, D));
  }

 private:
  B backend_;
  Rows<float, D> x_;
  Rows<float, D> y_;
  typename B::template Parameter<D> weight_;
};

/// The norm of each head's query, in place.
template <class B>
class RmsNormHeads {
 public:
  explicit RmsNormHeads(std::size_t tokens)
      : backend_(make_backend<B>()), q_(random_rows<H, d>(tokens)) {}

  void run(benchmark::State& state) {
    const std::size_t tokens = q_.extent(0);
    measure(state, backend_, small_batch(tokens), [&](B& lane, std::size_t) {
      ops::rms_norm(lane, q_.view(), q_.view(), Config::rms_norm_eps);
    });
    set_rates(state, product(2, tokens, H, d, sizeof(float)), product(3, tokens, H, d));
  }

 private:
  B backend_;
  Rows<float, H, d> q_;
};

/// The rotary part of every head's query.
template <class B>
class Rotate {
 public:
  explicit Rotate(std::size_t tokens)
      : backend_(make_backend<B>()), q_(random_rows<H, d>(tokens)), cos_(tokens), sin_(tokens) {
    backend_.run([&](B& lane) {
      ops::rotary_table(lane, table(), 1000, 1, rotary_frequencies<Config>(AttentionKind::csa));
    });
  }

  void run(benchmark::State& state) {
    const std::size_t tokens = q_.extent(0);
    measure(state, backend_, small_batch(tokens),
            [&](B& lane, std::size_t) { ops::rotate(lane, q_.view(), table()); });
    set_rates(state, product(2, tokens, H, 2 * kPairs, sizeof(float)),
              product(6, tokens, H, kPairs));
  }

 private:
  RotaryTable<float, kPairs> table() { return {cos_.view(), sin_.view()}; }

  B backend_;
  Rows<float, H, d> q_;
  Rows<float, kPairs> cos_;
  Rows<float, kPairs> sin_;
};

/// The shared expert's activation, in place.
template <class B>
class Swiglu {
 public:
  explicit Swiglu(std::size_t tokens)
      : backend_(make_backend<B>()), gate_(random_rows<F>(tokens)), up_(tokens) {
    // Applied over and over, the gate then goes to the limit, not to denormals, which are slow.
    std::ranges::fill(up_.flat(), 2.0f);
  }

  void run(benchmark::State& state) {
    const std::size_t tokens = gate_.extent(0);
    measure(state, backend_, small_batch(tokens), [&](B& lane, std::size_t) {
      ops::swiglu(lane, gate_.view(), up_.view(), Config::swiglu_limit);
    });
    set_rates(state, product(3, tokens, F, sizeof(float)), 0.0);
  }

 private:
  B backend_;
  Rows<float, F> gate_;
  Rows<float, F> up_;
};

}  // namespace

void add_elementwise() {
  add_for_tokens<RmsNorm>("rms_norm/hidden");
  add_for_tokens<RmsNormHeads>("rms_norm/heads");
  add_for_tokens<Rotate>("rotate/q");
  add_for_tokens<Swiglu>("swiglu");
}

}  // namespace ds4::bench
