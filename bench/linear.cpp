// Linear layers: y = x w^T for one token, where the weights' way from memory is the limit, and for
// a prompt, where arithmetic is. A model reads every weight once per pass, so a benchmark cycles
// over copies of its weight that together exceed the caches (see working_set).
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "support.hpp"

namespace ds4::bench {
namespace {

template <class B, std::size_t N, std::size_t K>
class Weights {
 public:
  explicit Weights(DType dtype) : backend(make_backend<B>()) {
    do {
      stored_.emplace_back(N, K, dtype);
      matrices_.push_back(backend.template bind<N, K>(stored_.back().stored()));
    } while (product(stored_.size(), bytes()) < product(working_set()));
  }

  std::size_t bytes() const { return stored_.front().bytes(); }
  const auto& operator[](std::size_t i) const { return matrices_[i % matrices_.size()]; }

  B backend;

 private:
  std::vector<Weight> stored_;
  std::vector<typename B::template Matrix<N, K>> matrices_;
};

template <class B, std::size_t N, std::size_t K>
class Linear {
 public:
  Linear(DType dtype, std::size_t tokens)
      : weights_(dtype), x_(random_rows<K>(tokens)), y_(tokens) {}

  void run(benchmark::State& state) {
    measure(state, weights_.backend, 1,
            [&](B& lane, std::size_t i) { ops::linear(lane, y_.view(), x_.view(), weights_[i]); });
    set_rates(state, product(weights_.bytes()), product(2, N, K, x_.extent(0)));
  }

 private:
  Weights<B, N, K> weights_;
  Rows<float, K> x_;
  Rows<float, N> y_;
};

template <class B, std::size_t G, std::size_t N, std::size_t K>
class GroupedLinear {
 public:
  GroupedLinear(DType dtype, std::size_t tokens)
      : weights_(dtype), x_(random_rows<G, K>(tokens)), y_(tokens) {}

  void run(benchmark::State& state) {
    measure(state, weights_.backend, 1, [&](B& lane, std::size_t i) {
      ops::grouped_linear(lane, y_.view(), x_.view(), weights_[i]);
    });
    set_rates(state, product(weights_.bytes()), product(2, G, N, K, x_.extent(0)));
  }

 private:
  Weights<B, G * N, K> weights_;
  Rows<float, G, K> x_;
  Rows<float, G, N> y_;
};

std::string full_name(const std::string& name, DType dtype, std::size_t tokens) {
  return name + "/" + storage_name(dtype) + "/tokens:" + std::to_string(tokens);
}

/// A [N, K] weight in these storages, with one token and with many.
template <std::size_t N, std::size_t K>
void add_shape(const std::string& name, const std::vector<DType>& storages) {
  for (const DType dtype : storages) {
    for (const std::size_t tokens : {kDecode, kPrefill}) {
      const std::string full = full_name("linear/" + name, dtype, tokens);
      // The plain path would take a minute for a prompt against the head.
      if (tokens == kDecode || N < Config::vocab_size) {
        add<Linear<Plain, N, K>>(full + backend_name<Plain>(), dtype, tokens);
      }
      add<Linear<Simd, N, K>>(full + backend_name<Simd>(), dtype, tokens);
    }
  }
}

}  // namespace

void add_linear() {
  using C = Config;
  constexpr std::size_t kQueries = C::num_attention_heads * C::head_dim;
  const std::vector<DType> storages{DType::bf16, DType::f32};
  add_shape<C::q_lora_rank, C::hidden_size>("wq_a", storages);
  // In the release's own storage as well.
  add_shape<kQueries, C::q_lora_rank>("wq_b", {DType::bf16, DType::f32, DType::f8_e4m3});
  add_shape<C::hidden_size, C::o_groups * C::o_lora_rank>("wo_b", storages);
  add_shape<C::moe_intermediate_size, C::hidden_size>("shared_w1", storages);
  add_shape<C::vocab_size, C::hidden_size>("head", storages);

  for (const DType dtype : storages) {
    for (const std::size_t tokens : {kDecode, kPrefill}) {
      const std::string full = full_name("grouped_linear/wo_a", dtype, tokens);
      const auto add_on = [&]<class B>(std::type_identity<B>) {
        add<GroupedLinear<B, C::o_groups, C::o_lora_rank, kQueries / C::o_groups>>(
            full + backend_name<B>(), dtype, tokens);
      };
      add_on(std::type_identity<Plain>());
      add_on(std::type_identity<Simd>());
    }
  }
}

}  // namespace ds4::bench
