// SimdTraining against ReferenceTraining<double> at sizes that leave remainders, with every
// instruction set that can run here; and that threads do not change a bit.
//
// Tolerances: values are of magnitude about 1, and two orders of summation of K float32 products
// differ by some sqrt(K) * 2^-24, K up to a few thousand; errors are stated beside 1 + the result.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/kernels/reference/training.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/training.hpp>
#include <support/compare.hpp>

namespace {

using ds4::AttentionKind;
using ds4::SimdTraining;
using ds4::test::check_close;
using Sizes = std::vector<std::size_t>;
using Floats = std::vector<float>;
using Indices = std::vector<std::int32_t>;
using Oracle = ds4::ReferenceTraining<double>;

constexpr double kTolerance = 2e-5;
// Through Sinkhorn's rounds and quotients of small numbers errors grow.
constexpr double kLooseTolerance = 2e-4;

Floats random_values(std::size_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  Floats values(count);
  for (float& value : values) {
    value = scale * (static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
  }
  return values;
}

Indices random_indices(std::size_t count, std::size_t below, unsigned seed) {
  std::mt19937 random(seed);
  Indices values(count);
  for (auto& value : values) value = static_cast<std::int32_t>(random() % below);
  return values;
}

/// An array that an operation reads or changes, in the precision of the kernels T.
template <class T>
struct Array {
  std::vector<T> values;
  explicit Array(const Floats& from) : values(from.begin(), from.end()) {}
  operator T*() { return values.data(); }
  operator const T*() const { return values.data(); }
};

/// Runs f(kernels, arrays...) with copies of `arrays`, first by the oracle, then with every
/// instruction set on 1, 2 and 3 threads: results are close to the oracle's, and the same whatever
/// the threads. f may return a loss.
template <class F>
void check(const std::string& name, double tolerance, const std::vector<Floats>& arrays, F&& f) {
  CAPTURE(name);
  const auto run = [&]<class T>(auto& kernels, std::vector<Array<T>>& copies) {
    for (const Floats& array : arrays) copies.emplace_back(array);
    if constexpr (std::is_void_v<decltype(f(kernels, copies))>) {
      f(kernels, copies);
      return 0.0;
    } else {
      return f(kernels, copies);
    }
  };
  Oracle oracle;
  std::vector<Array<double>> expected;
  const double loss = run(oracle, expected);
  for (const ds4::simd::TrainingKernels* kernels : ds4::simd::available_training_kernels()) {
    CAPTURE(std::string(kernels->name));
    std::vector<Array<float>> first;
    double first_loss = 0.0;
    for (const std::size_t threads : Sizes{1, 2, 3}) {
      CAPTURE(threads);
      SimdTraining simd({.threads = threads, .kernels = kernels});
      std::vector<Array<float>> got;
      const double own = run(simd, got);
      if (threads == 1) {
        first = got;
        first_loss = own;
        CHECK(own == doctest::Approx(loss).epsilon(1e-5));
        for (std::size_t i = 0; i < got.size(); ++i) {
          check_close(name + " " + std::to_string(i), std::span<const float>(got[i].values),
                      std::span<const double>(expected[i].values), tolerance, tolerance);
        }
      }
      CHECK(own == first_loss);
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].values == first[i].values);
    }
  }
}

struct Extents {
  std::size_t S, outs, ins;
};

}  // namespace

TEST_CASE("simd training: products and their gradients") {
  for (const auto& [S, outs, ins] :
       {Extents{1, 1, 1}, Extents{3, 5, 7}, Extents{13, 24, 33}, Extents{29, 8, 192},
        Extents{150, 40, 270}, Extents{300, 70, 31}, Extents{7, 1100, 3}, Extents{600, 33, 17},
        Extents{900, 4, 520}}) {
    CAPTURE(S);
    CAPTURE(outs);
    CAPTURE(ins);
    const std::size_t sizes[] = {S, outs, ins};
    for (const std::size_t gap : Sizes{0, 3}) {  // strided rows: the groups of a grouped product
      const std::size_t xs = ins + gap;
      const std::size_t ys = outs + 2 * gap;
      const auto x = random_values(S * xs, 1);
      const auto w = random_values(outs * ins, 2, 0.3f);
      const auto dy = random_values(S * ys, 3);
      check("linear", kTolerance, {random_values(S * ys, 4), x, w}, [&](auto& k, auto& a) {
        k.linear(a[0], ys, a[1], xs, a[2], sizes[0], sizes[1], sizes[2]);
      });
      for (const bool add : {false, true}) {
        check("linear_backward", kTolerance,
              {random_values(S * xs, 5), random_values(outs * ins, 6), dy, x, w},
              [&](auto& k, auto& a) {
                k.linear_backward(a[0], add, a[1], a[2], ys, a[3], xs, a[4], sizes[0], sizes[1],
                                  sizes[2]);
              });
      }
      check("only dw", kTolerance, {random_values(outs * ins, 6), dy, x, w}, [&](auto& k, auto& a) {
        k.linear_backward(nullptr, false, a[0], a[1], ys, a[2], xs, a[3], sizes[0], sizes[1],
                          sizes[2]);
      });
      check("only dx", kTolerance, {random_values(S * xs, 6), dy, x, w}, [&](auto& k, auto& a) {
        using T = std::remove_pointer_t<decltype(a[0].values.data())>;
        k.linear_backward(a[0], false, static_cast<T*>(nullptr), a[1], ys, a[2], xs, a[3], sizes[0],
                          sizes[1], sizes[2]);
      });
    }
  }
}

TEST_CASE("simd training: norm, activation, rotation") {
  for (const std::size_t n : Sizes{1, 5, 16, 33, 64, 192}) {
    CAPTURE(n);
    for (const std::size_t rows : Sizes{1, 7, 700}) {
      const auto x = random_values(rows * n, 1);
      const auto weight = random_values(n, 2);
      const auto dy = random_values(rows * n, 3);
      check("rms_norm", kTolerance, {random_values(rows * n, 4), x, weight},
            [&](auto& k, auto& a) { k.rms_norm(a[0], a[1], a[2], rows, n, 1e-3); });
      check("rms_norm in place", kTolerance, {x},
            [&](auto& k, auto& a) { k.rms_norm(a[0], a[0], nullptr, rows, n, 1e-3); });
      // A sum over all rows of quotients that eps alone bounds.
      check("rms_norm_backward", kLooseTolerance,
            {random_values(rows * n, 5), random_values(n, 6), dy, x, weight},
            [&](auto& k, auto& a) {
              k.rms_norm_backward(a[0], a[1], a[2], a[3], a[4], rows, n, 1e-1);
            });
      check("rms_norm_backward without a weight", kLooseTolerance,
            {random_values(rows * n, 5), dy, x}, [&](auto& k, auto& a) {
              k.rms_norm_backward(a[0], nullptr, a[1], a[2], nullptr, rows, n, 1e-1);
            });
    }
  }
  for (const std::size_t n : Sizes{1, 31, 40000}) {
    auto gate = random_values(n, 1, 6.0f);
    auto up = random_values(n, 2, 6.0f);
    gate[0] = 4.0f;  // at the limit there is a gradient
    up[n - 1] = -4.0f;
    const auto dy = random_values(n, 3);
    check("swiglu", kTolerance, {random_values(n, 4), gate, up},
          [&](auto& k, auto& a) { k.swiglu(a[0], a[1], a[2], n, 4.0); });
    check("swiglu_backward", kTolerance, {random_values(n, 4), random_values(n, 5), dy, gate, up},
          [&](auto& k, auto& a) { k.swiglu_backward(a[0], a[1], a[2], a[3], a[4], n, 4.0); });
  }
  struct Rotation {
    std::size_t S, heads, d, pairs;
  };
  for (const auto& [S, heads, d, pairs] : {Rotation{3, 1, 2, 1}, Rotation{5, 3, 7, 3},
                                           Rotation{700, 4, 64, 8}, Rotation{4, 2, 90, 37}}) {
    const std::size_t sizes[] = {S, heads, d, pairs};
    std::vector<double> frequency(pairs);
    for (std::size_t i = 0; i < pairs; ++i) frequency[i] = 1.0 / static_cast<double>(i + 1);
    for (const bool inverse : {false, true}) {
      check("rotate", kTolerance,
            {random_values(S * heads * d, 1), Floats(S * pairs), Floats(S * pairs)},
            [&](auto& k, auto& a) {
              k.rotary_table(a[1], a[2], 3, 2, sizes[0], frequency.data(), sizes[3]);
              k.rotate(a[0], a[1], a[2], sizes[0], sizes[1], sizes[2], sizes[3], inverse);
            });
    }
  }
}

TEST_CASE("simd training: rows") {
  for (const std::size_t D : Sizes{1, 5, 70, 192}) {
    for (const std::size_t N : Sizes{1, 3, 4}) {
      constexpr std::size_t kRows = 9;
      constexpr std::size_t kS = 200;
      const auto ids = random_indices(kS, kRows, 1);
      const auto X = random_values(kS * N * D, 2);
      const auto table = random_values(kRows * D, 3);
      const auto y = random_values(kS * D, 4);
      check("embed", 0.0, {Floats(kS * N * D), table},
            [&](auto& k, auto& a) { k.embed(a[0], ids.data(), a[1], kS, N, D); });
      check("embed_backward", kTolerance, {table, X},
            [&](auto& k, auto& a) { k.embed_backward(a[0], a[1], ids.data(), kS, N, D); });
      check("take_rows", 0.0, {Floats(kS * D), table},
            [&](auto& k, auto& a) { k.take_rows(a[0], a[1], ids.data(), kS, D); });
      check("take_rows_backward", kTolerance, {table, y},
            [&](auto& k, auto& a) { k.take_rows_backward(a[0], a[1], ids.data(), kS, D); });
      check("add_to_streams", kTolerance, {X, y},
            [&](auto& k, auto& a) { k.add_to_streams(a[0], a[1], kS, N, D); });
      check("add_to_streams_backward", kTolerance, {y, X},
            [&](auto& k, auto& a) { k.add_to_streams_backward(a[0], a[1], kS, N, D); });
    }
  }
}

TEST_CASE("simd training: hyper-connections") {
  for (const std::size_t N : Sizes{1, 2, 3, 4, 5}) {
    CAPTURE(N);
    for (const std::size_t S : Sizes{1, 15, 16, 700}) {
      CAPTURE(S);
      const std::size_t width = (2 + N) * N;
      const auto u = random_values(S * width, 1, 2.0f);
      const auto base = random_values(width, 2);
      const Floats scale = {0.7f, 1.3f, -0.9f};
      for (const std::size_t iters : Sizes{1, 20}) {
        check("hyper_connection_weights", kTolerance,
              {Floats(S * N), Floats(S * N), Floats(S * N * N), u, base, scale},
              [&](auto& k, auto& a) {
                k.hyper_connection_weights(a[0], a[1], a[2], a[3], a[4], a[5], S, N, iters, 1e-6);
              });
        check("hyper_connection_weights_backward", kLooseTolerance,
              {random_values(S * width, 3), random_values(width, 4), random_values(3, 5),
               random_values(S * N, 6), random_values(S * N, 7), random_values(S * N * N, 8), u,
               base, scale},
              [&](auto& k, auto& a) {
                k.hyper_connection_weights_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7],
                                                    a[8], S, N, iters, 1e-6);
              });
      }
      const auto logits = random_values(S * N, 9);
      check("hyper_head_weights", kTolerance, {Floats(S * N), logits, base, scale},
            [&](auto& k, auto& a) { k.hyper_head_weights(a[0], a[1], a[2], a[3], S, N, 1e-6); });
      check("hyper_head_weights_backward", kTolerance,
            {random_values(S * N, 1), random_values(N, 2), random_values(1, 3),
             random_values(S * N, 4), logits, base, scale},
            [&](auto& k, auto& a) {
              k.hyper_head_weights_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], S, N);
            });
    }
    for (const std::size_t D : Sizes{1, 5, 16, 67, 192}) {
      constexpr std::size_t kS = 150;
      const auto X = random_values(kS * N * D, 1);
      const auto pre = random_values(kS * N, 2);
      const auto comb = random_values(kS * N * N, 3);
      const auto y = random_values(kS * D, 4);
      check("collapse_streams", kTolerance, {Floats(kS * D), X, pre},
            [&](auto& k, auto& a) { k.collapse_streams(a[0], a[1], a[2], kS, N, D); });
      check("collapse_streams_backward", kTolerance,
            {random_values(kS * N * D, 5), random_values(kS * N, 6), y, X, pre},
            [&](auto& k, auto& a) {
              k.collapse_streams_backward(a[0], a[1], a[2], a[3], a[4], kS, N, D);
            });
      check("mix_streams", kTolerance, {X, Floats(kS * N * D), pre, comb, y},
            [&](auto& k, auto& a) { k.mix_streams(a[0], a[1], a[2], a[3], a[4], kS, N, D); });
      check("mix_streams without a copy", kTolerance, {X, pre, comb, y},
            [&](auto& k, auto& a) { k.mix_streams(a[0], nullptr, a[1], a[2], a[3], kS, N, D); });
      check("mix_streams_backward", kTolerance,
            {random_values(kS * N * D, 5), random_values(kS * N, 6), random_values(kS * N * N, 7),
             random_values(kS * D, 8), X, pre, comb, y},
            [&](auto& k, auto& a) {
              k.mix_streams_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], kS, N, D);
            });
    }
  }
}

TEST_CASE("simd training: pooling") {
  for (const ds4::PoolShape shape :
       {ds4::PoolShape{1, 1, 1, false}, ds4::PoolShape{40, 4, 64, true},
        ds4::PoolShape{7, 3, 37, true}, ds4::PoolShape{3, 128, 21, false},
        ds4::PoolShape{0, 4, 8, true}}) {
    const std::size_t row = shape.overlapping ? 2 * shape.width : shape.width;
    const std::size_t values = shape.count * shape.ratio * row;
    const auto kv = random_values(values, 1);
    const auto gate = random_values(values, 2, 3.0f);
    const auto ape = random_values(shape.ratio * row, 3);
    check("pool_entries", kTolerance, {Floats(shape.count * shape.width), kv, gate, ape},
          [&](auto& k, auto& a) { k.pool_entries(a[0], a[1], a[2], a[3], shape); });
    check("pool_entries_backward", kTolerance,
          {random_values(values, 4), random_values(values, 5), random_values(shape.ratio * row, 6),
           random_values(shape.count * shape.width, 7), kv, gate, ape},
          [&](auto& k, auto& a) {
            k.pool_entries_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], shape);
          });
  }
}

TEST_CASE("simd training: the indexer") {
  for (const ds4::IndexShape shape :
       {ds4::IndexShape{1, 1, 1, 1, 1}, ds4::IndexShape{50, 3, 5, 2, 4},
        ds4::IndexShape{700, 4, 32, 4, 16}, ds4::IndexShape{90, 60, 17, 1, 100}}) {
    CAPTURE(shape.S);
    const std::size_t entries = shape.S / shape.ratio;
    // Whole numbers: scores are exact, ties are frequent, and both choose the same.
    auto q = random_values(shape.S * shape.nI * shape.dI, 1, 3.0f);
    auto weights = random_values(shape.S * shape.nI, 2, 3.0f);
    auto keys = random_values(entries * shape.dI, 3, 3.0f);
    for (auto* values : {&q, &weights, &keys}) {
      for (float& value : *values) value = std::round(value);
    }
    std::vector<Indices> all;
    check("pick_entries", 0.0, {q, weights, keys}, [&](auto& k, auto& a) {
      all.emplace_back(shape.S * shape.top_k, 7);
      k.pick_entries(all.back().data(), a[0], a[1], a[2], shape);
    });
    for (const Indices& picks : all) CHECK(picks == all.front());

    const auto small = [](std::size_t count, unsigned seed) {
      return random_values(count, seed, 0.7f);
    };
    auto received = random_values(shape.S * shape.top_k, 4);
    for (float& value : received) value = std::max(value, 0.0f);
    std::fill_n(received.begin(), std::min(received.size(), 3 * shape.top_k), 0.0f);
    check("index_loss", kLooseTolerance,
          {small(q.size(), 5), small(weights.size(), 6), small(keys.size(), 7), received,
           small(q.size(), 8), small(weights.size(), 9), small(keys.size(), 10)},
          [&](auto& k, auto& a) {
            return k.index_loss(a[0], a[1], a[2], a[3], all.front().data(), a[4], a[5], a[6], shape,
                                0.7);
          });
  }
}

TEST_CASE("simd training: attention") {
  using Shape = ds4::AttentionShape;
  for (const Shape& shape : {Shape{AttentionKind::sliding, 1, 1, 1, 1, 1, 0, 0},
                             Shape{AttentionKind::sliding, 300, 4, 64, 64, 1, 0, 0},
                             Shape{AttentionKind::csa, 301, 4, 64, 20, 4, 16, 75},
                             Shape{AttentionKind::csa, 40, 3, 6, 7, 2, 3, 20},
                             Shape{AttentionKind::hca, 270, 5, 37, 200, 8, 0, 33},
                             Shape{AttentionKind::hca, 30, 7, 150, 3, 1, 0, 30},
                             Shape{AttentionKind::sliding, 5, 4, 64, 64, 0, 0, 5, true},
                             Shape{AttentionKind::sliding, 3, 5, 37, 1, 0, 0, 3, true},
                             Shape{AttentionKind::sliding, 150, 2, 20, 9, 0, 0, 150, true}}) {
    CAPTURE(shape.S);
    const std::size_t rows = shape.S * shape.H * shape.d;
    const std::size_t window_rows = shape.whole ? shape.W : shape.S;
    const auto q = random_values(rows, 1, 1.5f);
    const auto sink = random_values(shape.H, 2);
    const auto window = random_values(window_rows * shape.d, 3);
    const auto entries = random_values(shape.keys * shape.d, 4);
    const auto dout = random_values(rows, 5);
    Indices picks(shape.S * shape.top_k, -1);
    std::mt19937 random(6);
    for (std::size_t t = 0; t < shape.S && shape.top_k > 0; ++t) {  // distinct entries
      Indices seen((t + 1) / shape.ratio);
      for (std::size_t w = 0; w < seen.size(); ++w) seen[w] = static_cast<std::int32_t>(w);
      std::shuffle(seen.begin(), seen.end(), random);
      seen.resize(std::min(seen.size(), shape.top_k));
      std::copy(seen.begin(), seen.end(),
                picks.begin() + static_cast<std::ptrdiff_t>(t * shape.top_k));
    }
    check("attend", kTolerance,
          {Floats(rows), random_values(shape.S * shape.top_k, 7), q, sink, window, entries},
          [&](auto& k, auto& a) {
            k.attend(a[0], a[1], a[2], a[3], a[4], a[5], picks.data(), shape);
          });
    check("attend, nothing received", kTolerance, {Floats(rows), q, sink, window, entries},
          [&](auto& k, auto& a) {
            k.attend(a[0], nullptr, a[1], a[2], a[3], a[4], picks.data(), shape);
          });
    check("attend_backward", kTolerance,
          {random_values(rows, 8), random_values(shape.H, 9),
           random_values(window_rows * shape.d, 10), random_values(shape.keys * shape.d, 11), dout,
           q, sink, window, entries},
          [&](auto& k, auto& a) {
            k.attend_backward(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], picks.data(),
                              shape);
          });
  }
}

TEST_CASE("simd training: the router") {
  struct Routing {
    std::size_t S, E, k;
  };
  for (const Routing& r : {Routing{1, 1, 1}, Routing{700, 8, 2}, Routing{60, 37, 6}}) {
    const std::size_t S = r.S;
    const std::size_t E = r.E;
    const std::size_t k = r.k;
    auto logits = random_values(S * E, 1, 4.0f);
    logits[0] = -30.0f;  // softplus(x) next to exp(x)
    logits[E - 1] = 40.0f;
    const auto bias = random_values(E, 2);
    std::vector<Indices> all;
    check("route_by_score", kTolerance, {random_values(S * k, 3), logits, bias},
          [&](auto& kernels, auto& a) {
            all.emplace_back(S * k);
            kernels.route_by_score(all.back().data(), a[0], a[1], a[2], S, E, k, 1.5);
          });
    for (const Indices& experts : all) CHECK(experts == all.front());
    const Indices& experts = all.front();
    const auto ids = random_indices(S, 5, 4);
    Indices table(5 * k);
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i % E);
    std::vector<Indices> hashed;
    check("route_by_hash", kTolerance, {random_values(S * k, 3), logits},
          [&](auto& kernels, auto& a) {
            hashed.emplace_back(S * k);
            kernels.route_by_hash(hashed.back().data(), a[0], a[1], ids.data(), table.data(), S, E,
                                  k, 1.5);
          });
    for (const Indices& of_table : hashed) CHECK(of_table == hashed.front());
    check("expert_weights_backward", kTolerance,
          {random_values(S * E, 5), random_values(S * k, 6), logits}, [&](auto& kernels, auto& a) {
            kernels.expert_weights_backward(a[0], a[1], experts.data(), a[2], S, E, k, 1.5);
          });
    check("balance_loss", kTolerance, {random_values(S * E, 5), logits},
          [&](auto& kernels, auto& a) {
            return kernels.balance_loss(a[0], experts.data(), a[1], S, E, k, 30.0);
          });
  }
  // A tie goes to the lower expert.
  check("ties", kTolerance, {Floats(2), Floats(9), Floats(9)}, [&](auto& kernels, auto& a) {
    Indices experts(2);
    kernels.route_by_score(experts.data(), a[0], a[1], a[2], 1, 9, 2, 1.0);
    CHECK(experts == Indices{0, 1});
  });
}

TEST_CASE("simd training: routed experts") {
  for (const ds4::ExpertShape shape :
       {ds4::ExpertShape{1, 1, 1, 1, 1}, ds4::ExpertShape{30, 2, 3, 5, 7},
        ds4::ExpertShape{700, 2, 8, 60, 33}, ds4::ExpertShape{40, 3, 4, 400, 20}}) {
    const auto [S, k, E, D, F] = shape;
    CAPTURE(shape.S);
    const std::size_t places = shape.S * shape.k;
    const std::size_t size = shape.F * shape.D;
    Indices picks = random_indices(places, shape.E > 2 ? shape.E - 1 : shape.E, 1);  // one has none
    const auto w = random_values(3 * shape.E * size, 2, 0.4f);
    const auto matrices = []<class T>(T* at, const ds4::ExpertShape& of) {
      std::vector<ds4::ExpertMatrices<T>> all(of.E);
      for (std::size_t e = 0; e < of.E; ++e) {
        T* own = at + 3 * e * of.F * of.D;
        all[e] = {own, own + of.F * of.D, own + 2 * of.F * of.D};
      }
      return all;
    };
    const std::vector<Floats> arrays = {
        random_values(S * D, 3), Floats(places * F),       Floats(places * F),
        random_values(S * D, 4), random_values(places, 5), w,
        random_values(S * D, 6), random_values(places, 7), random_values(3 * E * size, 8),
        random_values(S * D, 9)};
    std::vector<Indices> orders;
    check("routed_experts", kTolerance, arrays, [&](auto& kernels, auto& a) {
      using T = std::remove_reference_t<decltype(a[0].values[0])>;
      Indices sorted(places);
      Indices begin(shape.E + 1);
      const T* all = a[5];
      const auto experts = matrices(all, shape);
      kernels.routed_experts(a[0], {sorted.data(), begin.data(), a[1], a[2]}, a[3], picks.data(),
                             a[4], experts, shape, 1.0);
      const auto gradients = matrices(static_cast<T*>(a[8]), shape);
      kernels.routed_experts_backward(a[6], a[7], gradients, a[9],
                                      {sorted.data(), begin.data(), a[1], a[2]}, a[3], a[4],
                                      experts, shape, 1.0);
      sorted.insert(sorted.end(), begin.begin(), begin.end());
      orders.push_back(sorted);
    });
    for (const Indices& order : orders) CHECK(order == orders.front());
  }
}

TEST_CASE("simd training: losses and sums") {
  for (const std::size_t V : Sizes{1, 5, 31, 2048, 3001}) {
    CAPTURE(V);
    constexpr std::size_t kS = 40;
    auto targets = random_indices(kS, V, 1);
    targets[3] = -1;
    const auto logits = random_values(kS * V, 2, 8.0f);
    check("cross_entropy", 1e-6, {Floats(kS * V), logits}, [&](auto& k, auto& a) {
      return k.cross_entropy(a[0], a[1], targets.data(), kS, V, 0.3);
    });
    check("cross_entropy over the logits", 1e-6, {logits}, [&](auto& k, auto& a) {
      return k.cross_entropy(a[0], a[0], targets.data(), kS, V, 0.3);
    });
    targets[3] = 0;
    const auto of_model = random_values(kS * V, 3, 8.0f);
    const auto draft_loss = [&](auto& k, auto* dlogits, auto* logits_at, auto& dconfidence,
                                auto& confidence, auto& model, auto& weights) {
      using T = std::remove_pointer_t<decltype(dlogits)>;
      std::vector<ds4::DraftRowLoss> losses(kS);
      const ds4::DraftRows<T> rows{logits_at, confidence, model, targets.data(), weights};
      k.draft_loss(dlogits, dconfidence, losses.data(), rows, kS, V, {.distance = 0.7});
      double sum = 0.0;
      for (const auto& loss : losses) {
        sum += loss.cross_entropy + 2.0 * loss.distance + 3.0 * loss.confidence;
      }
      return sum;
    };
    const auto confidence = random_values(kS, 4, 9.0f);
    const auto weights = random_values(kS, 5);
    check("draft_loss", 1e-5, {Floats(kS * V), logits, Floats(kS), confidence, of_model, weights},
          [&](auto& k, auto& a) {
            return draft_loss(k, a[0].values.data(), a[1].values.data(), a[2], a[3], a[4], a[5]);
          });
    check("draft_loss over the logits", 1e-5, {logits, Floats(kS), confidence, of_model, weights},
          [&](auto& k, auto& a) {
            return draft_loss(k, a[0].values.data(), a[0].values.data(), a[1], a[2], a[3], a[4]);
          });
  }
  for (const std::size_t n : Sizes{0, 1, 33, 100001}) {
    const auto x = random_values(n, 1);
    check("sum_of_squares", 0.0, {x}, [&](auto& k, auto& a) { return k.sum_of_squares(a[0], n); });
    check("add", kTolerance, {random_values(n, 2), x},
          [&](auto& k, auto& a) { k.add(a[0], a[1], n); });
    check("copy", 0.0, {random_values(n, 2), x}, [&](auto& k, auto& a) { k.copy(a[0], a[1], n); });
    check("zero", 0.0, {x}, [&](auto& k, auto& a) { k.zero(a[0], n); });
    check("scale", kTolerance, {x}, [&](auto& k, auto& a) { k.scale(a[0], 0.3, n); });
  }
}

TEST_CASE("simd training: optimizers") {
  for (const std::size_t n : Sizes{1, 37, 50000}) {
    auto square = random_values(n, 4);
    for (float& value : square) value *= value;
    check("adamw_step", kTolerance,
          {random_values(n, 1), random_values(n, 2), random_values(n, 3), square},
          [&](auto& k, auto& a) {
            for (const std::size_t step : Sizes{1, 2}) {
              k.adamw_step(std::span(a[0].values), std::span(std::as_const(a[1].values)),
                           std::span(a[2].values), std::span(a[3].values), step,
                           {.learning_rate = 0.1});
            }
          });
  }
  struct Shape {
    std::size_t rows, cols;
  };
  for (const auto& [rows, cols] : {Shape{1, 1}, Shape{5, 3}, Shape{96, 192}, Shape{130, 50}}) {
    const std::size_t sizes[] = {rows, cols};
    const std::size_t n = rows * cols;
    for (const float scale : {1.0f, 0.0f}) {
      // The rounds multiply small singular values, and their errors, by up to 3.4 each.
      check("muon_steps", 2e-3,
            {random_values(n, 1), random_values(n, 2, scale), random_values(n, 3, scale),
             random_values(n, 4), random_values(n, 5), random_values(n, 6)},
            [&](auto& k, auto& a) {
              using Target = ds4::MuonTarget<std::remove_cvref_t<decltype(a[0].values[0])>>;
              const std::vector<Target> targets{
                  {a[0].values, a[1].values, a[2].values, sizes[0], sizes[1]},
                  {a[3].values, a[4].values, a[5].values, sizes[0], sizes[1]}};
              k.muon_steps(std::span<const Target>(targets), {.learning_rate = 0.1});
            });
    }
  }
}

TEST_CASE("simd training: a copy is a handle to the same threads") {
  SimdTraining one({.threads = 2});
  SimdTraining other = one;
  CHECK(other.threads() == 2);
  CHECK(SimdTraining().threads() >= 1);
  CHECK(!std::string(one.instruction_set()).empty());
  Floats y = {1.0f, 2.0f};
  other.add(y.data(), y.data(), 2);
  CHECK(y == Floats{2.0f, 4.0f});
}
