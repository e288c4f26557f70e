// Tests of ds4/kernels/reference.hpp and kernels/reference/*: every operation of the golden data,
// in float and in double, through the typed layer ds4::ops where an operation has an entry there.
//
// The golden values were computed in float32, so for either T the distance to them is their own
// rounding: a sum of K products is off by at most about K * eps of the largest one, mostly by
// sqrt(K) * eps. Bounds are 2 * K * eps of the largest value of the result, where K is the length
// of the sums behind it and eps = 2^-23. Errors of formulas are orders of magnitude above.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/stored_matrix.hpp>
#include <ds4/core/tensor.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/attention.hpp>
#include <ds4/layers/rotary.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>

namespace {

using ds4::AttentionKind;
using ds4::DType;
using ds4::Matrix;
using ds4::Reference;
using ds4::Rows;
using ds4::Segment;
using ds4::Tensor;
using ds4::test::check_close;

namespace ops = ds4::ops;

constexpr double kEps = 0x1p-23;
constexpr double kNormEps = 1e-6;

const ds4::test::Golden& golden() {
  static const ds4::test::Golden file(ds4::test::data_dir("ops") / "ops.safetensors");
  return file;
}

template <class T, std::size_t... E>
Rows<T, E...> rows(const std::string& name) {
  const auto values = golden().values(name);
  Rows<T, E...> result(values.size() / (E * ... * 1));
  std::ranges::copy(values, result.data());
  return result;
}

/// The first S rows.
template <class T, std::size_t... E>
Rows<T, E...> first_rows(const std::string& name, std::size_t S) {
  const auto all = rows<T, E...>(name);
  Rows<T, E...> result(S);
  std::ranges::copy(all.view().rows(0, S).flat(), result.data());
  return result;
}

template <class T, std::size_t... E>
Tensor<T, E...> parameter(const std::string& name) {
  const auto values = golden().values(name);
  Tensor<T, E...> result;
  REQUIRE(values.size() == result.size());
  std::ranges::copy(values, result.data());
  return result;
}

/// A matrix in the golden file, or some of its rows.
template <std::size_t N, std::size_t K>
Matrix<N, K> matrix(const std::string& name, std::size_t first_row = 0) {
  const auto values = golden().values(name);
  REQUIRE(values.size() >= (first_row + N) * K);
  ds4::StoredMatrix stored;
  stored.values = reinterpret_cast<const std::byte*>(values.data() + first_row * K);
  stored.rows = N;
  stored.cols = K;
  return {stored};
}

std::int32_t index_of(std::size_t i) { return static_cast<std::int32_t>(i); }

/// Checks a result against a golden tensor, see the head of this file.
template <class T>
void check_golden(const std::string& name, std::span<const T> got, std::size_t K) {
  const auto expected = golden().values(name);
  double largest = 0.0;
  for (const float value : expected) {
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  }
  check_close(name, got, expected, 2.0 * static_cast<double>(K) * kEps * largest);
}
template <class Owner>
void check_golden(const std::string& name, const Owner& got, std::size_t K) {
  check_golden(name, got.flat(), K);
}

/// [B, S, H, n] from [B, H, S, n], for B = 1.
template <class T, std::size_t H, std::size_t n>
Rows<T, H, n> tokens_first(const std::string& name) {
  const auto values = golden().values(name);
  const std::size_t S = values.size() / (H * n);
  Rows<T, H, n> result(S);
  for (std::size_t h = 0; h < H; ++h) {
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t c = 0; c < n; ++c) {
        result(s, h, c) = static_cast<T>(values[(h * S + s) * n + c]);
      }
    }
  }
  return result;
}

template <class T, std::size_t Pairs>
struct Table {
  Rows<T, Pairs> cos;
  Rows<T, Pairs> sin;
  ds4::RotaryTable<T, Pairs> view() { return {cos.view(), sin.view()}; }
};

/// The table of positions 0, step, 2 * step, ... for theta.
template <class T, std::size_t Pairs>
Table<T, Pairs> table(std::size_t S, std::size_t step, double theta) {
  Table<T, Pairs> result{Rows<T, Pairs>(S), Rows<T, Pairs>(S)};
  Reference<T> backend;
  ops::rotary_table(backend, result.view(), 0, step, ds4::rotary_frequencies<2 * Pairs>(theta));
  return result;
}

template <class T, std::size_t Width>
ds4::RowLog<T, Width> log_of(const Rows<T, Width>& rows) {
  ds4::RowLog<T, Width> log;
  log.append(rows.view());
  return log;
}

template <class T, std::size_t... E>
Rows<T, E...> random_rows(std::size_t S, unsigned seed) {
  std::mt19937 random(seed);
  Rows<T, E...> result(S);
  for (T& value : result.flat())
    value = static_cast<T>(static_cast<int>(random() % 2001) - 1000) / T(500);
  return result;
}

struct Expert {
  static constexpr std::size_t D = 24;
  static constexpr std::size_t F = 20;
  Matrix<F, D> w1;
  Matrix<D, F> w2;
  Matrix<F, D> w3;
};

/// linear() against sums that are exact in float32: small integers times multiples of 1/4.
template <class T, std::size_t N, std::size_t K>
void check_linear() {
  INFO("N ", N, ", K ", K);
  std::vector<float> values(N * K);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8);
  }
  ds4::StoredMatrix stored;
  stored.values = reinterpret_cast<const std::byte*>(values.data());
  stored.rows = N;
  stored.cols = K;
  const Matrix<N, K> w{stored};
  Rows<T, K> x(5);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.flat()[i] = static_cast<T>(static_cast<int>(i * 5 % 13) - 6) / T(4);
  }
  Reference<T> backend;
  Rows<T, N> y(5);
  ops::linear(backend, y.view(), x.view(), w);
  std::size_t wrong = 0;
  for (std::size_t s = 0; s < 5; ++s) {
    for (std::size_t n = 0; n < N; ++n) {
      double sum = 0.0;
      for (std::size_t k = 0; k < K; ++k) {
        sum += static_cast<double>(x(s, k)) * static_cast<double>(values[n * K + k]);
      }
      if (static_cast<double>(y(s, n)) != sum) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE_TEMPLATE("reference: linear, at sizes around its panels", T, float, double) {
  check_linear<T, 1, 1>();
  check_linear<T, 63, 7>();
  check_linear<T, 64, 33>();
  check_linear<T, 65, 16>();
  check_linear<T, 131, 5>();
}

TEST_CASE_TEMPLATE("reference: linear decodes quantised weights", T, float, double) {
  std::mt19937 random(8);
  std::vector<std::byte> values(130 * 129);
  for (std::byte& byte : values) byte = static_cast<std::byte>(random() % 120);  // no NaN
  std::vector<std::byte> scales(130 * 5);
  for (std::byte& byte : scales) byte = static_cast<std::byte>(124 + random() % 6);
  for (const DType dtype : {DType::f8_e4m3, DType::i8}) {
    INFO(std::string(dtype_name(dtype)));
    const Matrix<130, 129> w{{values.data(), scales.data(), 130, 129, dtype, DType::f8_e8m0}};
    const auto x = random_rows<T, 129>(3, 1);
    Rows<T, 130> y(3);
    Reference<T> backend;
    ops::linear(backend, y.view(), x.view(), w);
    std::vector<double> expected;
    std::vector<double> row(129);
    double largest = 0.0;
    for (std::size_t s = 0; s < 3; ++s) {
      for (std::size_t n = 0; n < 130; ++n) {
        w.stored.decode_row(n, row.data());
        double sum = 0.0;
        double size = 0.0;
        for (std::size_t k = 0; k < 129; ++k) {
          sum += row[k] * static_cast<double>(x(s, k));
          size += std::abs(row[k] * static_cast<double>(x(s, k)));
        }
        expected.push_back(sum);
        largest = std::max(largest, size);
      }
    }
    check_close("y", std::as_const(y).flat(), std::span<const double>(expected),
                129 * largest * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
}

TEST_CASE_TEMPLATE("reference: grouped linear", T, float, double) {
  Reference<T> backend;
  const auto x = rows<T, 3, 12>("grouped_linear.x");
  Rows<T, 3, 10> y(x.extent(0));
  ops::grouped_linear(backend, y.view(), x.view(), matrix<30, 12>("grouped_linear.weight"));
  check_golden("grouped_linear.y", std::as_const(y), 12);
}

TEST_CASE_TEMPLATE("reference: embed copies a row to every stream", T, float, double) {
  const auto embed = matrix<16, 32>("router.weight");
  const std::vector<std::int32_t> ids{3, 0, 15, 3};
  Rows<T, 2, 32> x(ids.size());
  Reference<T> backend;
  ops::embed(backend, x.view(), ids, embed);
  std::vector<T> row(32);
  for (std::size_t s = 0; s < ids.size(); ++s) {
    embed.stored.decode_row(static_cast<std::size_t>(ids[s]), row.data());
    for (std::size_t n = 0; n < 2; ++n) CHECK(std::ranges::equal(x[s][n].flat(), row));
  }
}

TEST_CASE_TEMPLATE("reference: RMS norm", T, float, double) {
  Reference<T> backend;
  auto x = rows<T, 48>("rms_norm.x");
  const auto weight = parameter<T, 48>("rms_norm.weight");
  Rows<T, 48> y(x.extent(0));
  ops::rms_norm(backend, y.view(), x.view(), weight, kNormEps);
  // Relative: rows differ by orders of magnitude, one is so small that eps decides, one is zero.
  check_close("rms_norm", std::as_const(y).flat(), golden().values("rms_norm.y"), 0.0, 48 * kEps);
  for (const T value : std::as_const(y)[3].flat()) CHECK(value == T(0));

  Rows<T, 48> plain(x.extent(0));
  ops::rms_norm(backend, plain.view(), x.view(), kNormEps);
  check_close("unweighted", std::as_const(plain).flat(), golden().values("unweighted_rms_norm.y"),
              0.0, 48 * kEps);

  // The norm is over the last axis alone, whatever is before it.
  Rows<T, 4, 12> heads(x.extent(0));
  ops::rms_norm(backend, heads.view(), x.view().template as<4, 12>(), kNormEps);
  Rows<T, 12> head(x.extent(0) * 4);
  ops::rms_norm(backend, head.view(), ds4::RowsView<const T, 12>(x.data(), x.extent(0) * 4),
                kNormEps);
  CHECK(std::ranges::equal(heads.flat(), head.flat()));
  CHECK_FALSE(std::ranges::equal(heads.flat(), plain.flat()));

  ops::rms_norm(backend, x.view(), x.view(), weight, kNormEps);  // y may be x
  CHECK(std::ranges::equal(x.flat(), y.flat()));
}

TEST_CASE_TEMPLATE("reference: a product does not depend on the tokens beside it", T, float,
                   double) {
  // Bit by bit: it is why any split of a sequence into passes gives the same logits.
  Reference<T> backend;
  const auto w = matrix<16, 32>("router.weight");
  const auto x = rows<T, 32>("router.x");
  Rows<T, 16> together(x.extent(0));
  ops::linear(backend, together.view(), x.view(), w);
  for (std::size_t s = 0; s < x.extent(0); ++s) {
    Rows<T, 16> alone(1);
    ops::linear(backend, alone.view(), x.view().rows(s, 1), w);
    CHECK(std::ranges::equal(alone.flat(), together[s].flat()));
  }
}

TEST_CASE_TEMPLATE("reference: rotation of the last values of each head, and back", T, float,
                   double) {
  // The golden tables have float32 angles: with them, the rotation alone is compared.
  Table<T, 4> tables{first_rows<T, 4>("rope_apply.cos", 7), first_rows<T, 4>("rope_apply.sin", 7)};
  const auto x = tokens_first<T, 3, 24>("rope_apply.x");
  const auto expect = [&](const std::string& name, const Rows<T, 3, 24>& got) {
    const auto expected = tokens_first<float, 3, 24>(name);
    check_close(name, got.flat(), std::as_const(expected).flat(), 16 * kEps);
  };
  Reference<T> backend;
  auto y = x;
  ops::rotate(backend, y.view(), tables.view());
  expect("rope_apply.y", y);
  for (std::size_t s = 0; s < 7; ++s) {
    for (std::size_t h = 0; h < 3; ++h) {
      for (std::size_t c = 0; c < 16; ++c) CHECK(y(s, h, c) == x(s, h, c));  // not rotated
    }
  }
  ops::rotate(backend, y.view(), tables.view(), ops::Rotation::inverse);
  expect("rope_apply.roundtrip", y);

  auto inverse = x;
  ops::rotate(backend, inverse.view(), tables.view(), ops::Rotation::inverse);
  expect("rope_apply.inverse_of_x", inverse);
}

TEST_CASE_TEMPLATE("reference: hyper-connection", T, float, double) {
  Reference<T> backend;
  auto streams = rows<T, 4, 24>("hyper_connection.streams");
  const std::size_t S = streams.extent(0);
  Rows<T, 96> normed(S);
  Rows<T, 24> u(S);
  Rows<T, 4> pre(S);
  Rows<T, 4> post(S);
  Rows<T, 4, 4> comb(S);
  Rows<T, 24> c(S);
  ops::rms_norm(backend, normed.view(), streams.view().template as<96>(), kNormEps);
  ops::linear(backend, u.view(), normed.view(), matrix<24, 96>("hyper_connection.fn"));
  ops::hyper_connection_weights(backend, pre.view(), post.view(), comb.view(), u.view(),
                                parameter<T, 24>("hyper_connection.base"),
                                parameter<T, 3>("hyper_connection.scale"), 20, 1e-6);
  ops::collapse_streams(backend, c.view(), streams.view(), pre.view());
  check_golden("hyper_connection.post", std::as_const(post), 96);
  check_golden("hyper_connection.comb", std::as_const(comb), 96);
  check_golden("hyper_connection.collapsed", std::as_const(c), 96);

  const auto y = rows<T, 24>("hyper_connection.block_output");
  ops::mix_streams(backend, streams.view(), post.view(), comb.view(), y.view());
  check_golden("hyper_connection.mixed", std::as_const(streams), 96);
}

TEST_CASE_TEMPLATE("reference: the collapse before the head", T, float, double) {
  Reference<T> backend;
  const auto streams = rows<T, 4, 24>("hyper_connection.streams");
  const std::size_t S = streams.extent(0);
  Rows<T, 96> normed(S);
  Rows<T, 4> u(S);
  Rows<T, 4> pre(S);
  Rows<T, 24> y(S);
  ops::rms_norm(backend, normed.view(), streams.view().template as<96>(), kNormEps);
  ops::linear(backend, u.view(), normed.view(), matrix<4, 96>("hyper_head.fn"));
  ops::hyper_head_weights(backend, pre.view(), u.view(), parameter<T, 4>("hyper_head.base"),
                          parameter<T, 1>("hyper_head.scale"), 1e-6);
  ops::collapse_streams(backend, y.view(), streams.view(), pre.view());
  check_golden("hyper_head.y", std::as_const(y), 96);
}

TEST_CASE_TEMPLATE("reference: Sinkhorn rounds", T, float, double) {
  struct Case {
    const char* name;
    std::size_t N;
    std::size_t iters;
  };
  for (const Case& c : {Case{"n2_random", 2, 1}, Case{"n2_random", 2, 5}, Case{"n2_random", 2, 20},
                        Case{"n3_random", 3, 7}, Case{"n4_random", 4, 1}, Case{"n4_random", 4, 2},
                        Case{"n4_random", 4, 5}, Case{"n4_random", 4, 20}, Case{"n4_large", 4, 1},
                        Case{"n4_large", 4, 2}, Case{"n4_large", 4, 20}}) {
    const std::string name = std::string("sinkhorn.") + c.name;
    auto comb = rows<T>(name + ".logits");
    const std::size_t area = c.N * c.N;
    for (std::size_t i = 0; i < comb.size(); i += area) {
      ds4::reference::sinkhorn(comb.data() + i, c.N, c.iters, T(1e-6));
      // It ends on columns. After few rounds, large logits leave columns of hardly any weight,
      // which the eps in the divisor keeps below 1.
      for (std::size_t column = 0; c.iters >= 5 && column < c.N; ++column) {
        double sum = 0.0;
        for (std::size_t row = 0; row < c.N; ++row) {
          sum += static_cast<double>(comb.flat()[i + row * c.N + column]);
        }
        CHECK(std::abs(sum - 1.0) < 2e-6);
      }
    }
    // Errors do not grow: each round brings a disturbed matrix nearer to the undisturbed one.
    check_close(name + ".iters" + std::to_string(c.iters), std::as_const(comb).flat(),
                golden().values(name + ".iters" + std::to_string(c.iters)), 16 * kEps);
  }
}

TEST_CASE_TEMPLATE("reference: sqrt(softplus)", T, float, double) {
  const auto x = golden().values("sqrtsoftplus.x");
  const auto exact = golden().doubles("sqrtsoftplus.y_f64");
  for (std::size_t i = 0; i < x.size(); ++i) {
    INFO("x ", x[i]);
    const double y = static_cast<double>(ds4::reference::sqrt_softplus(static_cast<T>(x[i])));
    // Relative, however small the result; below -87, float32 has only denormals for exp(x).
    const double rtol = std::is_same_v<T, double> ? 1e-15 : x[i] < -87.0f ? 2e-2 : 4 * kEps;
    CHECK(std::abs(y - exact[i]) <= rtol * exact[i]);
  }
  // No overflow and no NaN at the ends of the range.
  constexpr T kMax = std::numeric_limits<T>::max();
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  CHECK(ds4::reference::sqrt_softplus(kMax) == std::sqrt(kMax));
  CHECK(ds4::reference::sqrt_softplus(-kMax) == T(0));
  CHECK(ds4::reference::sqrt_softplus(kInfinity) == kInfinity);
  CHECK(ds4::reference::sqrt_softplus(-kInfinity) == T(0));
  CHECK(std::isnan(ds4::reference::sqrt_softplus(std::numeric_limits<T>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("reference: routers", T, float, double) {
  Reference<T> backend;
  const auto x = rows<T, 32>("router.x");
  const std::size_t S = x.extent(0);
  Rows<T, 16> logits(S);
  ops::linear(backend, logits.view(), x.view(), matrix<16, 32>("router.weight"));
  check_golden("router.logits", std::as_const(logits), 32);

  Rows<std::int32_t, 4> experts(S);
  Rows<T, 4> weights(S);
  ops::route_by_score(backend, experts.view(), weights.view(), logits.view(),
                      parameter<T, 16>("router.bias"), 2.5);
  // The golden choice is sorted by expert, ours by score.
  const auto golden_experts = golden().indices("router.topk_indices");
  const auto golden_weights = golden().values("router.topk_weights");
  Rows<T, 4> sorted(S);
  for (std::size_t s = 0; s < S; ++s) {
    std::array<std::pair<std::int32_t, T>, 4> choice;
    for (std::size_t i = 0; i < 4; ++i) choice[i] = {experts(s, i), weights(s, i)};
    std::ranges::sort(choice);
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(choice[i].first == golden_experts[s * 4 + i]);
      sorted(s, i) = choice[i].second;
    }
  }
  check_close("router.topk_weights", std::as_const(sorted).flat(), golden_weights, 2 * 32 * kEps);

  Tensor<std::int32_t, 64, 4> tid2eid;
  std::ranges::copy(golden().indices("router.tid2eid"), tid2eid.data());
  ops::route_by_hash(backend, experts.view(), weights.view(), logits.view(),
                     golden().indices("router.token_ids"), tid2eid, 2.5);
  CHECK(std::ranges::equal(experts.flat(), golden().indices("router.hash_indices")));
  check_close("router.hash_weights", std::as_const(weights).flat(),
              golden().values("router.hash_weights"), 2 * 32 * kEps);
}

TEST_CASE_TEMPLATE("reference: of equal scores the lower expert wins", T, float, double) {
  const std::array<T, 6> score{T(1), T(3), T(2), T(3), T(2), T(3)};
  const std::array<T, 6> bias{T(1), T(0), T(1), T(0), T(0), T(-4)};
  std::array<std::int32_t, 4> experts{};
  ds4::reference::select_experts(experts.data(), score.data(), bias.data(), 6, 4);
  CHECK(experts == std::array<std::int32_t, 4>{1, 2, 3, 0});
}

TEST_CASE_TEMPLATE("reference: attention with a sink", T, float, double) {
  const auto q = tokens_first<T, 3, 16>("sink_attention.q");
  const auto kv = rows<T, 16>("sink_attention.kv");
  const auto sink = parameter<T, 3>("sink_attention.sinks");
  const auto mask = golden().values("sink_attention.mask");
  const std::size_t S = q.extent(0);
  Rows<T, 3, 16> y(S);
  for (std::size_t s = 0; s < S; ++s) {
    std::vector<const T*> keys;
    for (std::size_t i = 0; i < 9; ++i) {
      if (mask[s * 9 + i] == 0.0f) keys.push_back(kv[i].data());
    }
    std::ranges::fill(y[s].flat(), T(99));
    ds4::reference::attend(y[s].data(), q[s].data(), sink.data(), keys, 3, 16);
    if (keys.empty()) {
      CHECK((s == 2 || s == 3));
      for (const T value : y[s].flat()) CHECK(value == T(0));
    }
  }
  check_golden("sink_attention.y", std::as_const(y), 16 + 9);

  // Probabilities, one by one: with a key of 1 in one place and 0 elsewhere, and a query of 0
  // there, the output is the key's probability.
  const auto probabilities = golden().values("sink_attention.probs");
  for (std::size_t s = 0; s < S; ++s) {
    for (std::size_t h = 0; h < 3; ++h) {
      std::vector<std::array<T, 9 + 16>> wide(9);
      std::vector<const T*> keys;
      std::array<T, 9 + 16> query{};
      // Logits are scaled by the square root of the width: make up for the wider heads.
      for (std::size_t c = 0; c < 16; ++c) query[9 + c] = q(s, h, c) * T(5) / T(4);
      for (std::size_t i = 0; i < 9; ++i) {
        wide[i].fill(T(0));
        wide[i][i] = T(1);
        std::ranges::copy(kv[i].flat(), wide[i].begin() + 9);
        if (mask[s * 9 + i] == 0.0f) keys.push_back(wide[i].data());
      }
      std::array<T, 9 + 16> out;
      ds4::reference::attend(out.data(), query.data(), &sink.data()[h], keys, 1, 9 + 16);
      check_close("sink_attention.probs", std::span<const T>(out).first(9),
                  probabilities.subspan((h * S + s) * 9, 9), 2 * 16 * kEps);
    }
  }
}

TEST_CASE_TEMPLATE("reference: attention without overflow", T, float, double) {
  // Logits far beyond what exp can take, the sink's above or below them.
  std::array<T, 2> out{};
  const std::array<T, 2> q{T(1e4), T(0)};
  const std::array<T, 2> near{T(1), T(0)};
  const std::array<T, 2> far{T(-1), T(7)};
  for (const T sink : {T(-1e5), T(0), T(1e5)}) {
    ds4::reference::attend<T>(out.data(), q.data(), &sink, {near.data(), far.data()}, 1, 2);
    CHECK(out[0] == (sink > T(1e4) ? T(0) : T(1)));
    CHECK(out[1] == T(0));
  }
}

TEST_CASE_TEMPLATE("reference: attend shows each query its window and its entries", T, float,
                   double) {
  // A zero query weighs all keys alike, and key i is 1 at channel i alone: the output says which
  // keys were seen. Window rows are channels 0 to 29, entries 30 and on.
  constexpr std::size_t W = 5;
  constexpr std::size_t m = 4;
  constexpr std::size_t d = 40;
  constexpr std::size_t kTokens = 30;
  Rows<T, d> unit(d);
  for (std::size_t i = 0; i < d; ++i) unit(i, i) = T(1);
  ds4::RowLog<T, d> whole;
  whole.append(unit.view().rows(0, kTokens));
  ds4::RowLog<T, d> entries;
  entries.append(unit.view().rows(kTokens, kTokens / m));
  Tensor<T, 2> sink;

  Reference<T> backend;
  using Source = ds4::KeySource<ds4::RowLog<T, d>>;
  const auto check = [&]<AttentionKind Kind>(std::integral_constant<AttentionKind, Kind>) {
    INFO(std::string(name_of(Kind)));
    // Two segments: one from the start, one that continues with only the window's rows kept.
    const std::array<Segment, 2> segments{Segment{0, 18, 0}, Segment{18, 10, 20}};
    auto kept = whole;
    kept.forget_before(20 + 1 - W);
    const std::array<Source, 2> sources{Source{&whole, &entries}, Source{&kept, &entries}};
    Rows<T, 2, d> q(28);
    Rows<T, 2, d> out(28);
    Rows<std::int32_t, 3> picks(Kind == AttentionKind::csa ? 28 : 0);
    for (std::size_t s = 0; s < picks.extent(0); ++s) {
      picks(s, 0) = index_of(s % 7);
      picks(s, 1) = -1;
      picks(s, 2) = s % 2 == 0 ? -1 : 6;
    }
    ops::attend<Kind, m, W>(backend, out.view(), q.view(), sink, picks.view(),
                            std::span<const Segment>(segments), std::span<const Source>(sources));
    std::size_t wrong = 0;
    for (std::size_t s = 0; s < 28; ++s) {
      const std::size_t t = s < 18 ? s : s + 2;
      std::array<T, d> expected{};
      std::size_t keys = 1;  // the sink
      const auto see = [&](std::size_t channel) {
        expected[channel] += T(1);
        ++keys;
      };
      for (std::size_t p = 0; p <= t; ++p) {
        if (p + W > t) see(p);
      }
      for (std::size_t w = 0; w < kTokens / m; ++w) {
        if (Kind == AttentionKind::hca && (w + 1) * m <= t + 1) see(kTokens + w);
      }
      if (Kind == AttentionKind::csa) {
        see(kTokens + s % 7);
        if (s % 2 != 0) see(kTokens + 6);
      }
      for (std::size_t h = 0; h < 2; ++h) {
        for (std::size_t c = 0; c < d; ++c) {
          if (std::abs(out(s, h, c) - expected[c] / static_cast<T>(keys)) > T(1e-6)) ++wrong;
        }
      }
    }
    CHECK(wrong == 0);
  };
  check(std::integral_constant<AttentionKind, AttentionKind::sliding>{});
  check(std::integral_constant<AttentionKind, AttentionKind::hca>{});
  check(std::integral_constant<AttentionKind, AttentionKind::csa>{});
}

TEST_CASE_TEMPLATE("reference: entries visible to a query are the reference's", T, float, double) {
  const auto visible = golden().indices("hca.visible");
  Rows<T, 4> unit(4);
  for (std::size_t i = 0; i < 4; ++i) unit(i, i) = T(1);
  ds4::RowLog<T, 4> entries;
  entries.append(unit.view().rows(0, 3));
  const auto window = log_of(Rows<T, 4>(390));
  const std::array<Segment, 1> segments{Segment{0, 390, 0}};
  using Source = ds4::KeySource<ds4::RowLog<T, 4>>;
  const std::array<Source, 1> sources{Source{&window, &entries}};
  Rows<T, 1, 4> q(390);
  Rows<T, 1, 4> out(390);
  const Rows<std::int32_t, 1> picks;
  Reference<T> backend;
  ops::attend<AttentionKind::hca, 128, 1>(backend, out.view(), q.view(), Tensor<T, 1>(),
                                          picks.view(), std::span<const Segment>(segments),
                                          std::span<const Source>(sources));
  std::size_t wrong = 0;
  for (std::size_t t = 0; t < 390; ++t) {
    for (std::size_t w = 0; w < 3; ++w) {
      if ((out(t, 0, w) != T(0)) != (visible[t * 3 + w] != 0)) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("reference: SwiGLU and its clamps", T, float, double) {
  Reference<T> backend;
  const auto x = rows<T, 24>("swiglu.x");
  const std::size_t S = x.extent(0);
  Rows<T, 20> gate(S);
  Rows<T, 20> up(S);
  Rows<T, 24> y(S);
  ops::linear(backend, gate.view(), x.view(), matrix<20, 24>("swiglu.w1_gate"));
  ops::linear(backend, up.view(), x.view(), matrix<20, 24>("swiglu.w3_up"));
  ops::swiglu(backend, gate.view(), up.view(), 1.5);
  ops::linear(backend, y.view(), gate.view(), matrix<24, 20>("swiglu.w2_down"));
  check_golden("swiglu.y", std::as_const(y), 24 + 20);

  // Every combination of values inside and outside the clamps, from -50 to 50.
  const auto pairs = rows<T, 2>("swiglu.grid_gate_up");
  Rows<T, 1> grid(pairs.extent(0));
  Rows<T, 1> grid_up(pairs.extent(0));
  for (std::size_t i = 0; i < pairs.extent(0); ++i) {
    grid(i, 0) = pairs(i, 0);
    grid_up(i, 0) = pairs(i, 1);
  }
  ops::swiglu(backend, grid.view(), grid_up.view(), 1.5);
  check_close("swiglu.grid_y", std::as_const(grid).flat(), golden().values("swiglu.grid_y"), 1e-30,
              8 * kEps);

  // exp(-gate) overflows far below 0: the result is 0, not NaN.
  grid(0, 0) = T(-1e5);
  ops::swiglu(backend, grid.view(), grid_up.view(), 1.5);
  CHECK(grid(0, 0) == T(0));
}

TEST_CASE_TEMPLATE("reference: routed experts", T, float, double) {
  std::vector<Expert> experts;
  for (std::size_t e = 0; e < 5; ++e) {
    experts.push_back({matrix<20, 24>("experts.gate_up", e * 40),
                       matrix<24, 20>("experts.down", e * 24),
                       matrix<20, 24>("experts.gate_up", e * 40 + 20)});
  }
  const auto x = rows<T, 24>("swiglu.x");
  const std::size_t S = x.extent(0);
  Rows<std::int32_t, 2> picks(S);
  std::ranges::copy(golden().indices("experts.indices"), picks.data());
  const auto weights = rows<T, 2>("experts.weights");
  Rows<T, 24> y(S);
  std::ranges::fill(y.flat(), T(99));  // y is written, not added to
  Reference<T> backend;
  ops::routed_experts(backend, y.view(), x.view(), picks.view(), weights.view(), experts, 1.5);
  check_golden("experts.y", std::as_const(y), 24 + 20 + 2);
}

TEST_CASE_TEMPLATE("reference: add", T, float, double) {
  Reference<T> backend;
  auto y = random_rows<T, 3>(4, 1);
  const auto old = y;
  const auto x = random_rows<T, 3>(4, 2);
  ops::add(backend, y.view(), x.view());
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y.flat()[i] == old.flat()[i] + x.flat()[i]);
}

TEST_CASE_TEMPLATE("reference: HCA compressor", T, float, double) {
  Reference<T> backend;
  const auto x = rows<T, 20>("compress.hidden");
  Rows<T, 16> kv(x.extent(0));
  Rows<T, 16> gate(x.extent(0));
  ops::linear(backend, kv.view(), x.view(), matrix<16, 20>("hca.w.kv_proj.weight"));
  ops::linear(backend, gate.view(), x.view(), matrix<16, 20>("hca.w.gate_proj.weight"));
  const auto ape = parameter<T, 128, 16>("hca.w.position_bias");
  auto kv_log = log_of(kv);
  auto gate_log = log_of(gate);

  Rows<T, 16> entries(3);
  ops::pool_entries<128, false>(backend, entries.view(), 0, kv_log, gate_log, ape);
  check_golden("hca.pooled", std::as_const(entries), 128);

  // Later entries do not need the tokens of earlier ones.
  kv_log.forget_before(128);
  gate_log.forget_before(128);
  Rows<T, 16> later(2);
  ops::pool_entries<128, false>(backend, later.view(), 1, kv_log, gate_log, ape);
  CHECK(std::ranges::equal(later.flat(), entries.view().rows(1, 2).flat()));

  auto positions = table<T, 2>(3, 128, 160000.0);
  ops::rms_norm(backend, entries.view(), entries.view(), parameter<T, 16>("hca.w.kv_norm.weight"),
                kNormEps);
  ops::rotate(backend, entries.view().template as<1, 16>(), positions.view());
  check_golden("hca.out", std::as_const(entries), 128);
}

TEST_CASE_TEMPLATE("reference: CSA compressor and indexer", T, float, double) {
  constexpr std::size_t S = 43;  // the last 3 tokens are of an unfinished window
  Reference<T> backend;
  const auto x = first_rows<T, 20>("compress.hidden", S);
  const auto qr = first_rows<T, 12>("compress.q_residual", S);
  auto entry_positions = table<T, 2>(10, 4, 160000.0);

  const auto compress = [&]<std::size_t Width>(std::integral_constant<std::size_t, Width>,
                                               const std::string& prefix,
                                               const std::string& pooled) {
    Rows<T, 2 * Width> kv(S);
    Rows<T, 2 * Width> gate(S);
    ops::linear(backend, kv.view(), x.view(), matrix<2 * Width, 20>(prefix + "kv_proj.weight"));
    ops::linear(backend, gate.view(), x.view(), matrix<2 * Width, 20>(prefix + "gate_proj.weight"));
    const auto ape = parameter<T, 4, 2 * Width>(prefix + "position_bias");
    auto kv_log = log_of(kv);
    auto gate_log = log_of(gate);
    Rows<T, Width> entries(10);
    ops::pool_entries<4, true>(backend, entries.view(), 0, kv_log, gate_log, ape);
    if (!pooled.empty()) check_golden(pooled, std::as_const(entries), 20);

    // Entry 6 needs windows 5 and 6 alone.
    kv_log.forget_before(20);
    gate_log.forget_before(20);
    Rows<T, Width> later(4);
    ops::pool_entries<4, true>(backend, later.view(), 6, kv_log, gate_log, ape);
    CHECK(std::ranges::equal(later.flat(), entries.view().rows(6, 4).flat()));

    ops::rms_norm(backend, entries.view(), entries.view(),
                  parameter<T, Width>(prefix + "kv_norm.weight"), kNormEps);
    ops::rotate(backend, entries.view().template as<1, Width>(), entry_positions.view());
    return entries;
  };
  const auto entries = compress(std::integral_constant<std::size_t, 16>{}, "csa.w.", "csa.pooled");
  check_golden("csa.out", entries, 20 + 16);
  const auto keys = compress(std::integral_constant<std::size_t, 8>{}, "csa.w.indexer.", "");
  check_golden("csa.indexer_kv", keys, 20 + 8);

  Rows<T, 3, 8> q(S);
  Rows<T, 3> weights(S);
  auto positions = table<T, 2>(S, 1, 160000.0);
  ops::linear(backend, q.view().template as<24>(), qr.view(),
              matrix<24, 12>("csa.w.indexer.q_b_proj.weight"));
  ops::rotate(backend, q.view(), positions.view());
  check_golden("csa.indexer_q", std::as_const(q), 12);
  ops::linear(backend, weights.view(), x.view(),
              matrix<3, 20>("csa.w.indexer.scorer.weights_proj.weight"));

  // The golden scores are those of all entries, visible or not.
  Rows<T, 10> scores(S);
  for (std::size_t s = 0; s < S; ++s) {
    ds4::reference::index_scores(scores[s].data(), q[s].data(), weights[s].data(), 10, 3, 8,
                                 [&](std::size_t w) { return keys[w].data(); });
  }
  check_golden("csa.indexer_scores", std::as_const(scores), 20 + 12 + 8);

  const auto key_log = log_of(keys);
  const std::array<const ds4::RowLog<T, 8>*, 1> logs{&key_log};
  const std::array<Segment, 1> segments{Segment{0, S, 0}};
  Rows<std::int32_t, 4> picks(S);
  ops::pick_entries<4>(backend, picks.view(), q.view(), weights.view(),
                       std::span<const Segment>(segments),
                       std::span<const ds4::RowLog<T, 8>* const>(logs));
  auto expected = golden().indices("csa.topk");
  for (std::size_t s = 0; s < S; ++s) {
    INFO("token ", s);
    const auto row = std::span(expected).subspan(s * 4, 4);
    std::ranges::sort(row);
    std::ranges::sort(picks[s].flat());
    CHECK(std::ranges::equal(picks[s].flat(), row));
  }

  // A pass that begins at token 30 makes the same choice.
  const std::array<Segment, 1> rest{Segment{0, S - 30, 30}};
  Rows<std::int32_t, 4> later(S - 30);
  ops::pick_entries<4>(backend, later.view(), q.view().rows(30, S - 30),
                       weights.view().rows(30, S - 30), std::span<const Segment>(rest),
                       std::span<const ds4::RowLog<T, 8>* const>(logs));
  for (std::size_t s = 0; s < S - 30; ++s) {
    std::ranges::sort(later[s].flat());
    CHECK(std::ranges::equal(later[s].flat(), picks[s + 30].flat()));
  }
}

TEST_CASE_TEMPLATE("reference: the best entries, a tie to the lower, -1 for none", T, float,
                   double) {
  std::array<std::int32_t, 4> picks{};
  ds4::reference::top_entries<T>(picks.data(), {T(1), T(3), T(2), T(3), T(-1)}, 4);
  CHECK(picks == std::array<std::int32_t, 4>{1, 3, 2, 0});
  ds4::reference::top_entries<T>(picks.data(), {T(-5), T(0)}, 4);
  CHECK(picks == std::array<std::int32_t, 4>{1, 0, -1, -1});
  ds4::reference::top_entries<T>(picks.data(), {}, 4);
  CHECK(picks == std::array<std::int32_t, 4>{-1, -1, -1, -1});
}
