// The mistakes that other implementations made, model.md 13: one test each, named after the
// mistake, which fails where it is made. (Memory of the indexer, item 5, is a matter of backends.)
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numbers>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/checkpoint/load.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/attention.hpp>
#include <ds4/layers/compressor.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::AttentionKind;
using ds4::DType;
using ds4::Rows;
using ds4::Segment;
using ds4::Tensor;
using ds4::test::check_close;
using ds4::test::CheckpointCopy;
using ds4::test::edges;
using ds4::test::error_text;
using ds4::test::feed;
using ds4::test::folder_of;
using ds4::test::Golden;
using ds4::test::model_of;
using ds4::test::random_ids;
using ds4::test::TempDir;
using TinyFlash = ds4::Model<ds4::models::tiny_flash>;
using TinyProYarn = ds4::Model<ds4::models::tiny_pro_yarn>;
using Quant = ds4::Model<ds4::models::quant>;
using Backend = ds4::Reference<double>;

namespace ops = ds4::ops;

template <std::size_t... E>
void fill(Rows<double, E...>& rows, std::initializer_list<double> values) {
  REQUIRE(values.size() == rows.size());
  std::ranges::copy(values, rows.data());
}
template <std::size_t... E>
Tensor<double, E...> parameter(std::initializer_list<double> values) {
  Tensor<double, E...> result;
  REQUIRE(values.size() == result.size());
  std::ranges::copy(values, result.data());
  return result;
}
void check_values(std::string_view name, std::span<const double> got,
                  std::initializer_list<double> expected, double atol = 1e-12) {
  check_close(name, got, std::span<const double>(expected.begin(), expected.size()), atol);
}

// ---- Hyper-connections on two streams ----

/// pre, post and comb of one token for u = (pre 2, post 2, comb 2 x 2), with base 0 and scale 1.
struct TwoStreams {
  Rows<double, 2> pre{1};
  Rows<double, 2> post{1};
  Rows<double, 2, 2> comb{1};

  TwoStreams(std::initializer_list<double> u_values, std::size_t iters, double eps) {
    Backend backend;
    Rows<double, 8> u(1);
    fill(u, u_values);
    ops::hyper_connection_weights(backend, pre.view(), post.view(), comb.view(), u.view(),
                                  Tensor<double, 8>(), parameter<3>({1.0, 1.0, 1.0}), iters, eps);
  }
};

// ---- One compressor, small enough to calculate by hand ----

/// Heads of 6 values, the last 4 of them rotated.
struct Small : ds4::Flash {
  static constexpr std::size_t hidden_size = 3;
  static constexpr std::size_t head_dim = 6;
  static constexpr std::size_t index_head_dim = 6;
  static constexpr std::size_t qk_rope_head_dim = 4;
  static constexpr ds4::RopeScaling rope_scaling{};
};

/// A compressor of 4 tokens to an entry that weighs all its slots alike. Its input x = (a, b, 1)
/// becomes (a, 0, 1, 0, 1, 0) where it feeds the next window (Ca) and (0, b, 1, 0, 1, 0) where it
/// feeds its own: before norm and rotation, an entry is (mean a, mean b, 1, 0, 1, 0).
template <bool Overlapping>
struct SmallCompressor {
  using Layer = ds4::Compressor<Small, 6, 4, Overlapping, Backend>;
  static constexpr std::size_t kOuts = Layer::kProjected;

  Backend backend;
  std::vector<float> weight = std::vector<float>(2 * kOuts * 3, 0.0f);  // wkv, then wgate
  Layer layer;
  typename Layer::State state;
  std::size_t tokens = 0;

  SmallCompressor() {
    const std::size_t own = kOuts - 6;  // where the own window's half begins
    const auto wkv = [&](std::size_t out, std::size_t in) { weight[out * 3 + in] = 1.0f; };
    if (Overlapping) wkv(0, 0);
    wkv(own + 1, 1);
    for (const std::size_t half : {std::size_t{0}, own}) {
      wkv(half + 2, 2);
      wkv(half + 4, 2);
    }
    ds4::StoredMatrix stored;
    stored.values = reinterpret_cast<const std::byte*>(weight.data());
    stored.rows = kOuts;
    stored.cols = 3;
    layer.wkv.stored = stored;
    stored.values = reinterpret_cast<const std::byte*>(weight.data() + kOuts * 3);
    layer.wgate.stored = stored;
    std::ranges::fill(layer.norm.flat(), 1.0);
  }

  /// Takes in tokens of these a and b.
  void append(const std::vector<std::pair<double, double>>& values) {
    Rows<double, 3> x(values.size());
    for (std::size_t s = 0; s < values.size(); ++s) {
      x(s, 0) = values[s].first;
      x(s, 1) = values[s].second;
      x(s, 2) = 1.0;
    }
    const std::vector<std::int32_t> ids(values.size());
    const std::array<Segment, 1> segments{Segment{0, values.size(), tokens}};
    Rows<double, 2> table(values.size());
    const ds4::Pass<Small, Backend> pass{
        backend, ids, segments, {table.view(), table.view()}, {table.view(), table.view()}};
    const std::array<typename Layer::State*, 1> states{&state};
    layer.append(pass, std::as_const(x).view(), std::span<typename Layer::State* const>(states),
                 "kv");
    tokens += values.size();
  }

  /// Entry w, scaled so that its constant values are again 1: the norm divided all by one number.
  std::array<double, 6> entry(std::size_t w) const {
    std::array<double, 6> result;
    std::copy_n(state.entries.row(w), 6, result.begin());
    const double length = std::hypot(result[2], result[3]);
    for (double& value : result) value /= length;
    return result;
  }
};

/// Angle of the rotated pair (cos, sin), less the expected one, in -pi to pi.
double angle_error(double cosine, double sine, double expected) {
  return std::remainder(std::atan2(sine, cosine) - expected, 2.0 * std::numbers::pi);
}

std::vector<std::pair<double, double>> numbered_tokens(std::size_t count) {
  std::vector<std::pair<double, double>> tokens;
  for (std::size_t t = 0; t < count; ++t) {
    tokens.emplace_back(1.0 + static_cast<double>(t), -2.0 * static_cast<double>(t));
  }
  return tokens;
}

// ---- The small models of the golden data ----

template <class M>
Golden golden_of() {
  return Golden(ds4::test::data_dir(folder_of<M>()) / "golden.safetensors");
}

/// Keeps every stage's values.
class Recorder : public ds4::StageObserver<float> {
 public:
  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    auto& kept = stages["layers." + std::to_string(layer) + "." + std::string(stage)];
    kept.insert(kept.end(), values.begin(), values.end());
  }
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}

  std::map<std::string, std::vector<float>> stages;
};

template <class M>
Recorder stages_of(std::span<const std::int32_t> ids) {
  Recorder recorder;
  auto model = model_of<M>();
  auto state = model.new_state();
  model.forward(state, ids, &recorder);
  return recorder;
}

/// Compares one stage of TinyFlash on the golden tokens with the golden stage.
void check_stage(const Recorder& recorder, const Golden& golden, const std::string& name) {
  REQUIRE(recorder.stages.contains(name));
  const auto expected = golden.values(name);
  float largest = 0.0f;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  check_close(name, std::span<const float>(recorder.stages.at(name)), expected,
              1e-4 * static_cast<double>(largest));
}

/// The same shape in both storages of the release.
struct TwoStorages {
  ds4::Matrix<2, 4> fp4;
  ds4::Matrix<2, 4> fp8;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("fp4.weight", fp4);
    visitor("fp8.weight", fp8);
  }
};

}  // namespace

// 1. Hyper-connections.

TEST_CASE("pitfall: comb read untransposed") {
  // comb[j, n] is what stream n takes of stream j. Asymmetric, so that reading it the other way
  // round shows: stream 0 takes 0.2 of itself and 0.8 of stream 1.
  Backend backend;
  Rows<double, 2, 1> streams(1);
  Rows<double, 2> post(1);
  Rows<double, 2, 2> comb(1);
  Rows<double, 1> y(1);
  fill(streams, {1.0, 10.0});
  fill(post, {100.0, 1000.0});
  fill(comb, {0.2, 0.7, 0.8, 0.3});
  fill(y, {2.0});
  ops::mix_streams(backend, streams.view(), post.view(), comb.view(), y.view());
  check_values("streams", std::as_const(streams).flat(),
               {200.0 + 0.2 * 1.0 + 0.8 * 10.0, 2000.0 + 0.7 * 1.0 + 0.3 * 10.0});
}

TEST_CASE("pitfall: comb with rows that sum to 1 instead of columns") {
  const TwoStreams weights({0, 0, 0, 0, 2.0, -1.0, 0.5, 3.0}, 3, 1e-6);
  const auto& comb = weights.comb;
  for (std::size_t n = 0; n < 2; ++n) {
    CHECK(comb(0, 0, n) + comb(0, 1, n) == doctest::Approx(1.0).epsilon(2e-6));
    CHECK(std::abs(comb(0, n, 0) + comb(0, n, 1) - 1.0) > 1e-3);  // after 3 rounds
  }
}

TEST_CASE("pitfall: rows normalised before columns") {
  // softmax: (3/4, 1/4), (1/2, 1/2); columns; then, in the second round, rows and columns.
  const std::initializer_list<double> u{0, 0, 0, 0, std::log(3.0), 0, 0, 0};
  check_values("one round", TwoStreams(u, 1, 0.0).comb.flat(),
               {3.0 / 5, 1.0 / 3, 2.0 / 5, 2.0 / 3});
  check_values("two rounds", TwoStreams(u, 2, 0.0).comb.flat(),
               {12.0 / 19, 4.0 / 11, 7.0 / 19, 7.0 / 11});
}

TEST_CASE("pitfall: softmax over comb's columns") {
  // One round from rows of (3/4, 1/4), (1/2, 1/2); columns of the same logits would give
  // (3/4, 1/2), (1/4, 1/2), which no division by column sums changes.
  const std::initializer_list<double> u{0, 0, 0, 0, std::log(3.0), 0, 0, 0};
  CHECK(TwoStreams(u, 1, 0.0).comb(0, 0, 0) == doctest::Approx(0.6).epsilon(1e-12));
}

TEST_CASE("pitfall: post without its factor 2") {
  const TwoStreams weights({0, 0, 0, 100.0, 0, 0, 0, 0}, 20, 0.0);
  check_values("post", weights.post.flat(), {1.0, 2.0});
  check_values("pre has no such factor", weights.pre.flat(), {0.5, 0.5});
}

TEST_CASE("pitfall: hc_eps added to post, or not to pre") {
  const TwoStreams weights({-100.0, 0, -100.0, 0, 0, 0, 0, 0}, 20, 0.25);
  check_values("pre", weights.pre.flat(), {0.25, 0.75});
  check_values("post", weights.post.flat(), {0.0, 1.0});
}

// 2. Rotation.

TEST_CASE("pitfall: halves rotated instead of neighbouring pairs") {
  // Pair 0 by a quarter turn, pair 1 not at all; the first two values are not rotated.
  Backend backend;
  Rows<double, 2> cos(1);
  Rows<double, 2> sin(1);
  fill(cos, {0.0, 1.0});
  fill(sin, {1.0, 0.0});
  Rows<double, 1, 6> x(1);
  fill(x, {1, 2, 3, 4, 5, 6});
  ops::rotate(backend, x.view(), ds4::RotaryTable<double, 2>{cos.view(), sin.view()});
  check_values("x", std::as_const(x).flat(), {1, 2, -4, 3, 5, 6});
}

TEST_CASE("pitfall: the first values of a head rotated instead of the last") {
  SmallCompressor<false> compressor;
  compressor.append({{0, 8}, {0, 8}, {0, 8}, {0, 8}, {0, 4}, {0, 4}, {0, 4}, {0, 4}});
  CHECK(compressor.entry(1)[0] == doctest::Approx(0.0));
  CHECK(compressor.entry(1)[1] == doctest::Approx(4.0));
}

TEST_CASE("pitfall: one theta for all layers") {
  const auto main = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::sliding);
  const auto compress = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::csa);
  CHECK(main[1] == doctest::Approx(std::pow(10000.0, -1.0 / 32.0)).epsilon(1e-14));
  CHECK(compress[1] == doctest::Approx(std::pow(160000.0, -1.0 / 32.0)).epsilon(1e-14));
  CHECK(ds4::rotary_frequencies<ds4::Flash>(AttentionKind::hca) == compress);

  // In the model: queries and window keys of every kind of layer, entries, the indexer.
  const auto golden = golden_of<TinyFlash>();
  const auto recorder = stages_of<TinyFlash>(golden.indices("input_ids"));
  for (const char* name : {"layers.0.attn.kv_rope", "layers.2.attn.kv_rope",
                           "layers.3.attn.kv_rope", "layers.2.compressor.kv",
                           "layers.3.compressor.kv", "layers.2.indexer.kv", "layers.2.indexer.q"}) {
    check_stage(recorder, golden, name);
  }
}

TEST_CASE("pitfall: YaRN on the main theta") {
  const auto main = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::sliding);
  for (std::size_t i = 0; i < main.size(); ++i) {
    CHECK(main[i] ==
          doctest::Approx(std::pow(10000.0, -static_cast<double>(i) / 32.0)).epsilon(1e-14));
  }
}

TEST_CASE("pitfall: YaRN's attention factor multiplied in") {
  // A query has an RMS of 1 before its rotation, and a rotation changes no length. The factor would
  // be 0.1 ln(16) + 1 = 1.28 on a third of the values.
  const auto ids = golden_of<TinyProYarn>().indices("input_ids");
  const auto recorder = stages_of<TinyProYarn>(ids);
  using C = ds4::models::tiny_pro_yarn;
  for (const char* name : {"layers.0.attn.q_rope", "layers.2.attn.q_rope"}) {
    const auto& q = recorder.stages.at(name);
    REQUIRE(q.size() == ids.size() * C::num_attention_heads * C::head_dim);
    double largest = 0.0;
    for (std::size_t at = 0; at < q.size(); at += C::head_dim) {
      double squares = 0.0;
      for (std::size_t c = 0; c < C::head_dim; ++c) {
        squares += static_cast<double>(q[at + c]) * static_cast<double>(q[at + c]);
      }
      largest = std::max(largest, std::abs(std::sqrt(squares / C::head_dim) - 1.0));
    }
    INFO(std::string(name));
    CHECK(largest < 1e-3);
  }
}

TEST_CASE("pitfall: compressed entries rotated at their index") {
  // An entry's constant values (1, 0, 1, 0) show its angles: w * m, and w * m / sqrt(theta).
  const auto check = [](const auto& compressor) {
    for (std::size_t w = 0; w < 40; ++w) {
      INFO("entry ", w);
      const auto entry = compressor.entry(w);
      const double position = 4.0 * static_cast<double>(w);
      CHECK(std::abs(angle_error(entry[2], entry[3], position)) < 1e-9);
      CHECK(std::abs(angle_error(entry[4], entry[5], position / 400.0)) < 1e-9);
    }
  };
  SmallCompressor<false> hca;
  hca.append(numbered_tokens(160));
  check(hca);
  SmallCompressor<true> csa;
  csa.append(numbered_tokens(30));
  for (const auto& token : numbered_tokens(130)) csa.append({token});
  check(csa);
}

TEST_CASE("pitfall: the inverse rotation of the output forgotten") {
  const auto golden = golden_of<TinyFlash>();
  const auto recorder = stages_of<TinyFlash>(golden.indices("input_ids"));
  for (const char* name : {"layers.0.attn.out_unrotated", "layers.2.attn.out_unrotated",
                           "layers.3.attn.out_unrotated"}) {
    check_stage(recorder, golden, name);
  }
}

// 3. Compressors.

TEST_CASE("pitfall: the previous window's Ca half lost between decode steps") {
  const auto tokens = numbered_tokens(41);
  const auto check = [&](const SmallCompressor<true>& compressor) {
    REQUIRE(compressor.state.entries.end() == 10);
    for (std::size_t w = 0; w < 10; ++w) {
      INFO("entry ", w);
      double a = 0.0;  // of the window before, over 8 slots
      double b = 0.0;  // of its own
      for (std::size_t j = 0; j < 4; ++j) {
        if (w > 0) a += tokens[4 * (w - 1) + j].first / 8.0;
        b += tokens[4 * w + j].second / (w > 0 ? 8.0 : 4.0);
      }
      const auto entry = compressor.entry(w);
      CHECK(entry[0] == doctest::Approx(a).epsilon(1e-9));
      CHECK(entry[1] == doctest::Approx(b).epsilon(1e-9));
    }
  };
  SmallCompressor<true> at_once;
  at_once.append(tokens);
  check(at_once);

  SmallCompressor<true> one_by_one;
  for (const auto& token : tokens) one_by_one.append({token});
  check(one_by_one);

  // Passes that end at, before and behind a window's end, and a copied state in between.
  SmallCompressor<true> uneven;
  std::span<const std::pair<double, double>> rest = tokens;
  for (const std::size_t size : std::array<std::size_t, 8>{4, 3, 2, 7, 1, 8, 5, 11}) {
    uneven.append({rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size)});
    rest = rest.subspan(size);
    auto copy = uneven.state;
    uneven.append({{1e6, 1e6}});  // does not reach the copy
    uneven.state = copy;
    --uneven.tokens;
  }
  check(uneven);
}

TEST_CASE("pitfall: the first entry given a previous window of zeros") {
  // Before the norm, which takes a common factor out again: zeros with weight would halve the mean.
  Backend backend;
  ds4::RowLog<double, 2> kv;  // (Ca, Cb) of 4 tokens in 2 windows
  Rows<double, 2> rows(4);
  fill(rows, {1.0, 10.0, 2.0, 30.0, 3.0, 50.0, 4.0, 70.0});
  kv.append(rows.view());
  ds4::RowLog<double, 2> gate;
  gate.append(Rows<double, 2>(4).view());
  Rows<double, 1> entries(2);
  ops::pool_entries<2, true>(backend, entries.view(), 0, kv, gate, Tensor<double, 2, 2>());
  check_values("entries", std::as_const(entries).flat(),
               {(10.0 + 30.0) / 2, (1.0 + 2.0 + 50.0 + 70.0) / 4});
}

TEST_CASE("pitfall: an entry made of an unfinished window") {
  SmallCompressor<false> hca;
  SmallCompressor<true> csa;
  for (std::size_t t = 0; t < 20; ++t) {
    hca.append({{1, 1}});
    csa.append({{1, 1}});
    CHECK(hca.state.entries.end() == (t + 1) / 4);
    CHECK(csa.state.entries.end() == (t + 1) / 4);
  }
}

TEST_CASE("pitfall: unfinished windows visible to early queries") {
  // One pass over 12 tokens: all 3 entries exist when the first query looks. Entry w is 1 at
  // channel w alone, so an output that is not 0 there has seen it.
  Backend backend;
  const std::array<Segment, 1> segments{Segment{0, 12, 0}};
  Rows<double, 4> unit(3);
  for (std::size_t w = 0; w < 3; ++w) unit(w, w) = 1.0;
  ds4::RowLog<double, 4> entries;
  entries.append(unit.view());
  ds4::RowLog<double, 4> window;
  window.append(Rows<double, 4>(12).view());
  using Source = ds4::KeySource<ds4::RowLog<double, 4>>;
  const std::array<Source, 1> sources{Source{&window, &entries}};
  Rows<double, 1, 4> q(12);
  Rows<double, 1, 4> out(12);
  ops::attend<AttentionKind::hca, 4, 2>(
      backend, out.view(), q.view(), Tensor<double, 1>(), Rows<std::int32_t, 2>().view(),
      std::span<const Segment>(segments), std::span<const Source>(sources));
  Rows<double, 1> weights(12);
  std::ranges::fill(weights.flat(), 1.0);
  Rows<std::int32_t, 3> picks(12);
  const std::array<const ds4::RowLog<double, 4>*, 1> keys{&entries};
  ops::pick_entries<4>(backend, picks.view(), q.view(), weights.view(),
                       std::span<const Segment>(segments),
                       std::span<const ds4::RowLog<double, 4>* const>(keys));
  for (std::size_t t = 0; t < 12; ++t) {
    for (std::size_t w = 0; w < 3; ++w) {
      INFO("token ", t, ", entry ", w);
      const bool complete = 4 * w + 3 <= t;
      CHECK((out(t, 0, w) != 0.0) == complete);
      CHECK((std::ranges::count(picks[t].flat(), static_cast<std::int32_t>(w)) == 1) == complete);
    }
  }
}

TEST_CASE_TEMPLATE("pitfall: padding fed into a compressor", M, TinyFlash, TinyProYarn) {
  // Sequences of different lengths in one pass are what each is alone, and so is what follows.
  auto model = model_of<M>();
  const auto ids = random_ids(400, 13);
  const std::span<const std::int32_t> all = ids;
  const std::vector<std::pair<std::size_t, std::size_t>> ranges{
      {0, 130}, {130, 1}, {131, 3}, {134, 129}, {263, 6}};
  std::vector<typename M::State> states(ranges.size());
  std::vector<typename M::Sequence> batch;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    batch.push_back({&states[i], all.subspan(ranges[i].first, ranges[i].second)});
  }
  const auto logits = model.forward(batch, ds4::LogitsOf::all);
  const std::span<const std::int32_t> more = all.subspan(270, 7);
  for (std::size_t i = 0, row = 0; i < ranges.size(); row += ranges[i].second, ++i) {
    INFO("sequence ", i);
    auto alone = model.new_state();
    const auto expected = model.forward(alone, batch[i].ids);
    CHECK(std::ranges::equal(expected.flat(), logits.view().rows(row, ranges[i].second).flat()));
    CHECK(states[i].position() == alone.position());
    CHECK(feed(model, states[i], more, {1}) == feed(model, alone, more, {1}));
  }
}

// 4. State.

TEST_CASE_TEMPLATE("pitfall: passes, chunks and single tokens differ", M, TinyFlash, TinyProYarn) {
  auto model = model_of<M>();
  const auto ids = random_ids(520, 13);
  const std::span<const std::int32_t> all = ids;
  auto state = model.new_state();
  const auto logits = feed(model, state, all, {1});  // token by token
  for (const std::size_t edge : edges<typename M::Config>()) {
    INFO(edge, " tokens");
    // One pass of so many tokens, then the next ones in two passes.
    auto split = model.new_state();
    const auto got = feed(model, split, all.first(edge + 7), {edge, 3, 4});
    CHECK(std::ranges::equal(got, std::span(logits).first(got.size())));
  }
  auto chunked = model.new_state();
  CHECK(feed(model, chunked, all, {7}) == logits);
  auto long_passes = model.new_state();
  CHECK(feed(model, long_passes, all, {130, 260, 1}) == logits);
}

TEST_CASE_TEMPLATE("pitfall: a saved state without its window or compressor tails", M, TinyFlash,
                   TinyProYarn) {
  auto model = model_of<M>();
  const auto ids = random_ids(530, 13);
  const std::span<const std::int32_t> all = ids;
  auto whole = model.new_state();
  const auto logits = feed(model, whole, all, {530});
  constexpr std::size_t V = M::V;
  auto state = model.new_state();
  std::size_t position = 0;
  for (const std::size_t edge : edges<typename M::Config>()) {
    INFO(edge, " tokens");
    feed(model, state, all.subspan(position, edge - position), {1});
    position = edge;
    auto saved = state;
    auto other = state;
    // The original goes on with other tokens; what was saved does not notice.
    const std::vector<std::int32_t> others{7, 7, 7, 7, 7, 7, 7, 7, 7};
    const auto changed = feed(model, other, others, {1});
    const auto got = feed(model, saved, all.subspan(edge, 9), {2, 1});
    CHECK(std::ranges::equal(got, std::span(logits).subspan(edge * V, 9 * V)));
    CHECK_FALSE(std::ranges::equal(changed, got));
    CHECK(other.position() == edge + 9);
    CHECK(state.position() == edge);
  }
}

// 6. Routers.

TEST_CASE("pitfall: the router's bias in the weights") {
  // sqrt(softplus(x)) = 1 and 2 for these logits. The bias prefers experts 0 and 2.
  const double one = std::log(std::exp(1.0) - 1.0);
  const double two = std::log(std::exp(4.0) - 1.0);
  Backend backend;
  Rows<double, 4> logits(1);
  fill(logits, {one, two, two, one});
  Rows<std::int32_t, 2> experts(1);
  Rows<double, 2> weights(1);
  ops::route_by_score(backend, experts.view(), weights.view(), logits.view(),
                      parameter<4>({50.0, -50.0, 10.0, -50.0}), 1.5);
  CHECK(experts(0, 0) == 0);
  CHECK(experts(0, 1) == 2);
  check_values("weights", std::as_const(weights).flat(), {1.5 / 3.0, 1.5 * 2.0 / 3.0});
}

TEST_CASE("pitfall: hash layers given uniform weights") {
  const double one = std::log(std::exp(1.0) - 1.0);
  const double two = std::log(std::exp(4.0) - 1.0);
  Backend backend;
  Rows<double, 4> logits(2);
  fill(logits, {one, two, two, one, two, two, one, one});
  Tensor<std::int32_t, 3, 2> table;
  std::ranges::copy(std::array{0, 1, 2, 3, 3, 0}, table.data());
  Rows<std::int32_t, 2> experts(2);
  Rows<double, 2> weights(2);
  const std::array<std::int32_t, 2> ids{2, 0};
  ops::route_by_hash(backend, experts.view(), weights.view(), logits.view(), ids, table, 3.0);
  CHECK(std::ranges::equal(experts.flat(), std::array{3, 0, 0, 1}));
  check_values("weights", std::as_const(weights).flat(), {1.5, 1.5, 1.5, 1.5});
  const std::array<std::int32_t, 2> others{0, 1};
  ops::route_by_hash(backend, experts.view(), weights.view(), logits.view(), others, table, 3.0);
  check_values("weights", std::as_const(weights).flat(), {1.0, 2.0, 1.5, 1.5});
}

TEST_CASE("pitfall: router scores in BF16 flip experts") {
  // BF16 has 8 bits: it cannot tell these logits apart, and would take the first.
  ds4::Reference<float> backend;
  Rows<float, 3> logits(1);
  logits(0, 0) = 1.0f;
  logits(0, 1) = 1.0f + 0x1p-12f;
  logits(0, 2) = 1.0f - 0x1p-12f;
  Rows<std::int32_t, 1> experts(1);
  Rows<float, 1> weights(1);
  ops::route_by_score(backend, experts.view(), weights.view(), logits.view(), Tensor<float, 3>(),
                      1.0);
  CHECK(experts(0, 0) == 1);
}

TEST_CASE("pitfall: token ids beyond the table") {
  auto model = model_of<TinyFlash>();
  auto state = model.new_state();
  const auto ids = random_ids(12, 13);
  feed(model, state, ids, {12});
  auto untouched = state;
  const auto expect = [&](std::vector<std::int32_t> tokens, const char* text) {
    CHECK(error_text([&] { model.forward(state, tokens); }) == text);
    CHECK(error_text([&] { model.prefill(state, tokens); }) == text);
    CHECK(state.position() == 12);
  };
  expect({256}, "ds4: token 0: found id 256, expected 0 to 255");
  expect({0, 255, -1}, "ds4: token 2: found id -1, expected 0 to 255");
  expect({0, 1 << 30}, "ds4: token 1: found id 1073741824, expected 0 to 255");
  expect({}, "ds4: tokens: found none, expected at least one");
  CHECK(error_text([&] { model.decode(state, 256); }) ==
        "ds4: token 0: found id 256, expected 0 to 255");

  // One bad sequence stops the batch before any state changes.
  auto second = model.new_state();
  const std::vector<std::int32_t> good{1, 2};
  const std::vector<std::int32_t> bad{1, 256};
  const std::array<TinyFlash::Sequence, 2> batch{TinyFlash::Sequence{&second, good},
                                                 TinyFlash::Sequence{&state, bad}};
  CHECK(error_text([&] { model.forward(batch, ds4::LogitsOf::last); }) ==
        "ds4: token 1: found id 256, expected 0 to 255");
  CHECK(second.position() == 0);
  CHECK(feed(model, state, ids, {1}) == feed(model, untouched, ids, {1}));
}

TEST_CASE("pitfall: a context beyond the last position") {
  auto model = model_of<TinyFlash>();
  auto state = model.new_state();
  const std::vector<std::int32_t> most(ds4::models::tiny_flash::max_position_embeddings - 1);
  ds4::detail::StateParts::advance(state, most);
  CHECK(error_text([&] { model.prefill(state, std::array<std::int32_t, 2>{1, 2}); }) ==
        "ds4: context: found 16385 tokens, expected at most max_position_embeddings 16384");
}

// 7. Loading.

TEST_CASE("pitfall: a missing compress_rope_theta defaulted") {
  CheckpointCopy release("quant");
  release.config.erase("compress_rope_theta");
  CheckpointCopy transformers("tiny-flash");
  transformers.config.erase("compress_rope_theta");
  transformers.config["rope_parameters"]["compress"].erase("rope_theta");
  for (const CheckpointCopy* copy : {&release, &transformers}) {
    const TempDir dir;
    copy->write(dir);
    const std::string expected =
        "ds4: " + (dir.path() / "config.json").string() + ": missing compress_rope_theta";
    CHECK(error_text([&] { ds4::read_config(dir.path() / "config.json"); }) == expected.c_str());
    CHECK(error_text([&] { Quant::load(dir.path()); }) == expected.c_str());
  }
}

TEST_CASE("pitfall: tensors that the loader does not know skipped") {
  CheckpointCopy copy("tiny-flash");
  copy.tensors["model.layers.3.attn.q_a_layernorm.weight"].reset(DType::f32, {32});
  const TempDir dir;
  copy.write(dir);
  const std::string expected = "ds4: " + dir.path().string() +
                               ": model.layers.3.attn.q_a_layernorm.weight: found F32 [32], "
                               "expected no such tensor";
  CHECK(error_text([&] { TinyFlash::load(dir.path()); }) == expected.c_str());
}

TEST_CASE("pitfall: FP4 read as FP8 or as integers, E8M0 as integers") {
  TwoStorages part;
  CheckpointCopy copy("tiny-flash");
  copy.tensors.clear();
  copy.tensors["fp4.weight"] = {DType::i8, {2, 2}, {}};
  copy.tensors["fp4.weight"].bytes = {std::byte{0x52}, std::byte{0xf9}, std::byte{0x10},
                                      std::byte{0x47}};
  copy.tensors["fp4.scale"] = {DType::f8_e8m0, {2, 1}, {std::byte{128}, std::byte{126}}};
  copy.tensors["fp8.weight"] = {DType::f8_e4m3, {2, 4}, {}};
  for (const int code : {0x38, 0xb8, 0x40, 0x00, 0x7e, 0x01, 0x30, 0x08}) {
    copy.tensors["fp8.weight"].bytes.push_back(static_cast<std::byte>(code));
  }
  copy.tensors["fp8.scale"] = {DType::f8_e8m0, {1, 1}, {std::byte{130}}};
  const TempDir dir;
  copy.write(dir);
  const auto checkpoint = ds4::Checkpoint::open(dir.path());
  Backend backend;
  ds4::WeightLoader<Backend> loader(checkpoint, backend);
  part.visit(loader);
  loader.finish();
  std::array<double, 4> row;
  part.fp4.stored.decode_row(0, row.data());  // codes 2, 5, 9, 15; scale 2
  check_values("fp4", row, {2.0, 6.0, -1.0, -12.0});
  part.fp4.stored.decode_row(1, row.data());  // codes 0, 1, 7, 4; scale 1/2
  check_values("fp4", row, {0.0, 0.25, 3.0, 1.0});
  part.fp8.stored.decode_row(0, row.data());  // scale 8
  check_values("fp8", row, {8.0, -8.0, 16.0, 0.0});
  part.fp8.stored.decode_row(1, row.data());
  check_values("fp8", row, {3584.0, 0x1p-6, 4.0, 0.125});
}
