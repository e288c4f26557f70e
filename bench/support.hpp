// What all benchmarks share: backends, inputs, the loop that is timed, the rates that it reports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <benchmark/benchmark.h>

#include <ds4/config/config.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>

namespace ds4::bench {

using Config = Flash;
using Plain = Reference<float>;

/// Tokens of a pass: one that decodes, and one that takes in a prompt.
inline constexpr std::size_t kDecode = 1;
inline constexpr std::size_t kPrefill = 256;

/// Threads of the SIMD backend; 0: usable_processors().
inline std::size_t threads = 0;

template <class B>
inline constexpr bool kIsSimd = std::is_same_v<B, Simd>;

/// The last part of a benchmark's name.
template <class B>
std::string backend_name() {
  return kIsSimd<B> ? "/simd" : "/reference";
}

template <class B>
B make_backend() {
  if constexpr (kIsSimd<B>) {
    // Weights are kept in the order that streams best, as they are for models that fit.
    return Simd({.threads = threads, .memory_budget = std::numeric_limits<std::size_t>::max()});
  } else {
    return B();
  }
}

/// Values in [-scale, scale), the same in every run.
void fill(std::span<float> values, float scale = 1.0f);

template <std::size_t... E>
Rows<float, E...> random_rows(std::size_t count, float scale = 1.0f) {
  Rows<float, E...> rows(count);
  fill(rows.flat(), scale);
  return rows;
}

/// A matrix as a checkpoint stores it, with its memory. It has far fewer different values than
/// places: they do not change the time, and making them all would take longer than measuring.
class Weight {
 public:
  Weight(std::size_t rows, std::size_t cols, DType dtype);

  const StoredMatrix& stored() const { return stored_; }
  /// What a product reads, scales included.
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_ = 0;
  std::unique_ptr<std::byte[]> values_;
  std::unique_ptr<std::byte[]> scales_;
  StoredMatrix stored_;
};

/// In the name of a benchmark: "bf16", "f32", "fp8", "fp4".
std::string storage_name(DType dtype);

/// Bytes that one benchmark should read before it reads the same again, to measure the memory and
/// not the caches: several times what the machine's caches hold together.
std::size_t working_set();

/// From here on the backend keeps keys in BF16, as it does for every model whose weights are.
template <class B>
void keep_keys_in_bf16(B& backend) {
  const Weight weight(1, 1, DType::bf16);
  backend.template bind<1, 1>(weight.stored());
}
/// Bytes of a value in a key row after that.
template <class B>
inline constexpr std::size_t kKeyBytes = kIsSimd<B> ? 2 : 4;

/// Times f(lane, i) for i = 0, 1, 2, ..., `batch` of them to a run of the backend: a model's pass
/// is one run with a thousand operations, so starting a run must not count for a small operation.
template <class B, class F>
void measure(benchmark::State& state, B& backend, std::size_t batch, F&& f) {
  if constexpr (kIsSimd<B>) {  // until scratch memory is at its final size
    for (int i = 0; i < 2; ++i) backend.run([&](B& lane) { f(lane, std::size_t{0}); });
  }
  std::size_t first = 0;
  while (state.KeepRunningBatch(static_cast<benchmark::IterationCount>(batch))) {
    backend.run([&](B& lane) {
      for (std::size_t i = first; i < first + batch; ++i) f(lane, i);
    });
    first += batch;
  }
}

/// The batch of an operation that takes microseconds for one token.
constexpr std::size_t small_batch(std::size_t tokens) { return tokens == kDecode ? 256 : 4; }

/// What one iteration reads (weights, keys, or activations, where there is nothing else) and
/// computes; 0 where that says nothing. Both rates are always there: the CSV format insists.
inline void set_rates(benchmark::State& state, double bytes, double flops) {
  constexpr auto kRate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["GB/s"] = benchmark::Counter(bytes / 1e9, kRate);
  state.counters["GFLOP/s"] = benchmark::Counter(flops / 1e9, kRate);
}

/// Products are counted in double: they pass 2^32 easily and lose nothing that matters.
template <class... N>
constexpr double product(N... factors) {
  return (static_cast<double>(factors) * ...);
}

/// Holds the inputs of the benchmark that is running. The library calls a benchmark several times
/// to find how often to repeat it, so inputs are made once; and only one benchmark's exist at a
/// time, as they take up to gigabytes.
class Inputs {
 public:
  template <class Case, class... A>
  static Case& of(const std::string& name, const A&... arguments) {
    if (name != name_) {
      case_.reset();
      case_ = std::make_shared<Case>(arguments...);
      name_ = name;
    }
    return *static_cast<Case*>(case_.get());
  }

 private:
  static inline std::string name_;
  static inline std::shared_ptr<void> case_;
};

/// Adds the benchmark `name`: Case(arguments...).run(state), its inputs made when it is its turn.
template <class Case, class... A>
benchmark::internal::Benchmark* add(const std::string& name, A... arguments) {
  return benchmark::RegisterBenchmark(
             name.c_str(),
             [=](benchmark::State& state) { Inputs::of<Case>(name, arguments...).run(state); })
      ->UseRealTime();
}

/// Adds Case<B>(tokens) for both backends, for one token and for many.
template <template <class> class Case>
void add_for_tokens(const std::string& name) {
  for (const std::size_t tokens : {kDecode, kPrefill}) {
    const std::string full = name + "/tokens:" + std::to_string(tokens);
    add<Case<Plain>>(full + backend_name<Plain>(), tokens);
    add<Case<Simd>>(full + backend_name<Simd>(), tokens);
  }
}

// One per file.
void add_limits();
void add_linear();
void add_experts();
void add_attention();
void add_indexer();
void add_hyper_connection();
void add_elementwise();
void add_checkpoint();

}  // namespace ds4::bench
