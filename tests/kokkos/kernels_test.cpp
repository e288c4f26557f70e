// Each Kokkos kernel against the reference backend's operation, at shapes that are multiples of
// nothing, on every space of the host, with teams of one and two threads.
//
// Tolerances: both sides compute in float32 and differ in the order of summation. A sum of n terms
// of the given size is bound by 2 n eps of the sum of their magnitudes; what is random here is of
// order 1, so n * 1e-6 is far above that and far below any mistake.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <kokkos/spaces.hpp>

#include <ds4/kernels/reference.hpp>
#include <ds4/layers/attention.hpp>
#include <ds4/layers/rotary.hpp>
#include <support/compare.hpp>

namespace {

using ds4::AttentionKind;
using ds4::DType;
using ds4::Rows;
using ds4::RowsView;
using ds4::Segment;
using ds4::StoredMatrix;
using ds4::Tensor;
using ds4::test::check_close;
using Reference = ds4::Reference<float>;
namespace ops = ds4::ops;

std::mt19937& random_bits() {
  static std::mt19937 bits(7);
  return bits;
}

template <std::size_t... E>
Rows<float, E...> random_rows(std::size_t S) {
  Rows<float, E...> rows(S);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (float& value : rows.flat()) value = uniform(random_bits());
  return rows;
}

// A stored matrix of random values, of order 1.
struct RandomMatrix {
  std::vector<std::byte> values;
  std::vector<std::byte> scales;
  StoredMatrix stored;

  RandomMatrix(std::size_t rows, std::size_t cols, DType dtype,
               DType scale_dtype = DType::f8_e8m0) {
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    const std::size_t row_bytes =
        dtype == DType::i8 ? (cols + 1) / 2 : cols * ds4::dtype_size(dtype);
    values.resize(rows * row_bytes);
    for (std::size_t i = 0; i < values.size() / ds4::dtype_size(dtype); ++i) {
      std::byte* at = values.data() + i * ds4::dtype_size(dtype);
      const float value = uniform(random_bits());
      if (dtype == DType::f32) {
        std::memcpy(at, &value, 4);
      } else if (dtype == DType::bf16) {
        const std::uint16_t bits = ds4::bf16_from_float(value);
        std::memcpy(at, &bits, 2);
      } else if (dtype == DType::f16) {  // exponents of numbers from 2^-14 to 2, and denormals
        const auto bits = static_cast<std::uint16_t>(random_bits()() & 0xbfffu);
        std::memcpy(at, &bits, 2);
      } else if (dtype == DType::f8_e4m3) {
        *at = static_cast<std::byte>(ds4::f8_e4m3_from_float(value));
      } else {
        *at = static_cast<std::byte>(random_bits()());
      }
    }
    const std::size_t block = dtype == DType::i8 ? 32 : 128;
    const std::size_t blocks = (cols + block - 1) / block;
    const std::size_t count = dtype == DType::i8        ? rows * blocks
                              : dtype == DType::f8_e4m3 ? (rows + 127) / 128 * blocks
                                                        : 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (scale_dtype == DType::f32) {
        const float scale = 0.5f + 0.5f * std::abs(uniform(random_bits()));
        const auto* bytes = reinterpret_cast<const std::byte*>(&scale);
        scales.insert(scales.end(), bytes, bytes + 4);
      } else {
        scales.push_back(static_cast<std::byte>(124 + random_bits()() % 4));
      }
    }
    stored = {values.data(), scales.data(), rows, cols, dtype, scale_dtype};
  }
};

template <class T, std::size_t... E>
void put(RowsView<ds4::kokkos::OnDevice<T>, E...> device, RowsView<const T, E...> host) {
  ds4::kokkos::copy_to_device(Kokkos::DefaultHostExecutionSpace(),
                              reinterpret_cast<std::byte*>(device.data()), host.data(),
                              host.size() * sizeof(T));
}

// A backend with its teams' size, and how a test reaches its memory.
template <class B>
struct Device {
  B backend;
  explicit Device(std::size_t team = 1, bool exact = true)
      : backend({.exact = exact, .host_team = team}) {}

  // Calls f(backend, scratch).
  template <class F>
  void run(F&& f) {
    backend.run([&](B& lane) {
      auto scratch = lane.scratch();
      f(lane, scratch);
    });
  }
  template <class Scratch, std::size_t... E>
  auto up(Scratch& scratch, const Rows<float, E...>& host) {
    auto device = scratch.template rows<E...>(host.extent(0));
    put(device, host.view());
    return device;
  }
  template <std::size_t... E>
  Rows<float, E...> down(RowsView<ds4::kokkos::OnDevice<float>, E...> device) {
    Rows<float, E...> host(device.extent(0));
    backend.deliver(host.flat(), device.as_const().flat());
    return host;
  }
  template <std::size_t... E>
  Rows<std::int32_t, E...> down(RowsView<ds4::kokkos::OnDevice<std::int32_t>, E...> device) {
    Rows<std::int32_t, E...> host(device.extent(0));
    backend.deliver(host.flat(), device.as_const().flat());
    return host;
  }
  template <std::size_t... E>
  typename B::template Parameter<E...> parameter(const Tensor<float, E...>& host) {
    return backend.template bind_small<typename B::template Parameter<E...>>(host);
  }
};

template <std::size_t Lead, std::size_t... Rest>
Tensor<float, Lead, Rest...> random_parameter() {
  Tensor<float, Lead, Rest...> tensor;
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (float& value : tensor.flat()) value = uniform(random_bits());
  return tensor;
}

// Teams of two need a space with two threads.
template <class B>
std::vector<std::size_t> team_sizes() {
  return B().threads() >= 2 ? std::vector<std::size_t>{1, 2} : std::vector<std::size_t>{1};
}

struct Stored {
  DType dtype;
  DType scale;
};
constexpr std::array<Stored, 7> kStorages{{{DType::f32, DType::f8_e8m0},
                                           {DType::bf16, DType::f8_e8m0},
                                           {DType::f16, DType::f8_e8m0},
                                           {DType::f8_e4m3, DType::f8_e8m0},
                                           {DType::f8_e4m3, DType::f32},
                                           {DType::i8, DType::f8_e8m0},
                                           {DType::i8, DType::f32}}};

}  // namespace

// The host cannot read what lies on the device: such a program does not compile.
template <class T>
concept ReadableOnHost = requires(T at) { static_cast<float>(*at); };
static_assert(ReadableOnHost<float*>);
static_assert(!ReadableOnHost<ds4::kokkos::OnDevice<float>*>);
static_assert(!std::is_copy_constructible_v<ds4::kokkos::OnDevice<float>>);
static_assert(!std::is_assignable_v<ds4::kokkos::OnDevice<float>&, float>);

TEST_CASE_TEMPLATE("kokkos: linear in every storage, for any number of tokens", B,
                   DS4_HOST_BACKENDS) {
  constexpr std::size_t N = 75;    // two panels and a part
  constexpr std::size_t K = 1203;  // parts of 512 or 256, odd
  for (const std::size_t team : team_sizes<B>()) {
    for (const Stored& storage : kStorages) {
      CAPTURE(ds4::dtype_name(storage.dtype));
      CAPTURE(team);
      const RandomMatrix matrix(N, K, storage.dtype, storage.scale);
      const auto x = random_rows<K>(210);
      Reference reference;
      Rows<float, N> expected(210);
      ops::linear(reference, expected.view(), x.view(), reference.bind<N, K>(matrix.stored));
      Device<B> device(team);
      const auto w = device.backend.template bind<N, K>(matrix.stored);
      device.run([&](B& lane, auto& scratch) {
        auto in = device.up(scratch, x);
        auto all = scratch.template rows<N>(210);
        ops::linear(lane, all, in, w);
        const auto whole = device.down(all);
        check_close("linear", whole.view().as_const().flat(), expected.view().as_const().flat(),
                    6.0 * K * 1e-6);
        // However many tokens come with one, it is bit for bit the same.
        for (const std::size_t tokens : std::vector<std::size_t>{1, 2, 4, 5, 13, 70, 193}) {
          CAPTURE(tokens);
          auto some = scratch.template rows<N>(tokens);
          ops::linear(lane, some, in.rows(3, tokens), w);
          const auto got = device.down(some);
          CHECK(std::ranges::equal(got.flat(), whole.view().rows(3, tokens).flat()));
        }
      });
    }
  }
}

TEST_CASE_TEMPLATE("kokkos: BF16 matrices round their tokens to BF16 where the host multiplies it",
                   B, DS4_HOST_BACKENDS) {
  constexpr std::size_t N = 75;
  constexpr std::size_t K = 1203;
  const RandomMatrix matrix(N, K, DType::bf16);
  const auto x = random_rows<K>(210);
  Rows<float, K> rounded(x);
  if (ds4::kokkos::kHasBf16Pairs<typename B::ExecutionSpace>) {
    for (float& value : rounded.flat()) {
      value = ds4::bf16_to_float(ds4::bf16_from_float(value));
    }
  }
  Reference reference;
  Rows<float, N> expected(210);
  ops::linear(reference, expected.view(), rounded.view(), reference.bind<N, K>(matrix.stored));
  for (const std::size_t team : team_sizes<B>()) {
    CAPTURE(team);
    Device<B> device(team, false);
    const auto w = device.backend.template bind<N, K>(matrix.stored);
    device.run([&](B& lane, auto& scratch) {
      auto in = device.up(scratch, x);
      auto all = scratch.template rows<N>(210);
      ops::linear(lane, all, in, w);
      const auto whole = device.down(all);
      check_close("linear", whole.view().as_const().flat(), expected.view().as_const().flat(),
                  6.0 * K * 1e-6);
      for (const std::size_t tokens : std::vector<std::size_t>{1, 2, 4, 5, 13, 70, 193}) {
        CAPTURE(tokens);
        auto some = scratch.template rows<N>(tokens);
        ops::linear(lane, some, in.rows(3, tokens), w);
        const auto got = device.down(some);
        CHECK(std::ranges::equal(got.flat(), whole.view().rows(3, tokens).flat()));
      }
    });
  }
}

TEST_CASE_TEMPLATE("kokkos: groups whose rows share a panel", B, DS4_HOST_BACKENDS) {
  constexpr std::size_t G = 5;
  constexpr std::size_t N = 13;  // 2.46 groups to a panel
  constexpr std::size_t K = 70;
  for (const std::size_t team : team_sizes<B>()) {
    for (const std::size_t S : std::vector<std::size_t>{1, 3, 40}) {
      const RandomMatrix matrix(G * N, K, DType::bf16);
      const auto x = random_rows<G, K>(S);
      Reference reference;
      Rows<float, G, N> expected(S);
      ops::grouped_linear(reference, expected.view(), x.view(),
                          reference.bind<G * N, K>(matrix.stored));
      Device<B> device(team);
      const auto w = device.backend.template bind<G * N, K>(matrix.stored);
      device.run([&](B& lane, auto& scratch) {
        auto y = scratch.template rows<G, N>(S);
        ops::grouped_linear(lane, y, device.up(scratch, x), w);
        const auto got = device.down(y);
        check_close("grouped", got.view().as_const().flat(), expected.view().as_const().flat(),
                    K * 1e-6);
      });
    }
  }
}

namespace {
template <class B>
struct TestExpert {
  static constexpr std::size_t D = 50;
  static constexpr std::size_t F = 33;
  typename B::template Matrix<F, D> w1;
  typename B::template Matrix<D, F> w2;
  typename B::template Matrix<F, D> w3;
};
}  // namespace

TEST_CASE_TEMPLATE("kokkos: experts of several storages, some with many tokens, some with none", B,
                   DS4_HOST_BACKENDS) {
  using Host = TestExpert<Reference>;
  using There = TestExpert<B>;
  constexpr std::size_t D = Host::D;
  constexpr std::size_t F = Host::F;
  constexpr std::size_t E = 9;
  constexpr std::size_t k = 3;
  for (const std::size_t team : team_sizes<B>()) {
    for (const std::size_t S : std::vector<std::size_t>{1, 4, 6, 300}) {
      CAPTURE(S);
      CAPTURE(team);
      std::vector<RandomMatrix> matrices;
      for (std::size_t i = 0; i < 3 * E; ++i) {
        const Stored storage = kStorages[(i / 3 * 5 + i) % kStorages.size()];
        matrices.emplace_back(i % 3 == 1 ? D : F, i % 3 == 1 ? F : D, storage.dtype, storage.scale);
      }
      Reference reference;
      Reference::Experts<Host> experts(E);
      Device<B> device(team);
      typename B::template Experts<There> there(E);
      for (std::size_t e = 0; e < E; ++e) {
        experts[e] = {reference.bind<F, D>(matrices[3 * e].stored),
                      reference.bind<D, F>(matrices[3 * e + 1].stored),
                      reference.bind<F, D>(matrices[3 * e + 2].stored)};
        there[e] = {device.backend.template bind<F, D>(matrices[3 * e].stored),
                    device.backend.template bind<D, F>(matrices[3 * e + 1].stored),
                    device.backend.template bind<F, D>(matrices[3 * e + 2].stored)};
      }
      device.backend.bind_experts(there);
      Rows<std::int32_t, k> picks(S);
      for (std::size_t s = 0; s < S; ++s) {
        picks(s, 0) = 4;  // every token's
        picks(s, 1) = static_cast<std::int32_t>(s % 3);
        picks(s, 2) = s % 7 == 0 ? 4 : 8;  // sometimes one twice
      }
      const auto x = random_rows<D>(S);
      const auto weights = random_rows<k>(S);
      Rows<float, D> expected(S);
      ops::routed_experts(reference, expected.view(), x.view(), picks.view(), weights.view(),
                          experts, 0.9);
      device.run([&](B& lane, auto& scratch) {
        auto y = scratch.template rows<D>(S);
        auto chosen = scratch.template indices<k>(S);
        put(chosen, picks.view().as_const());
        ops::routed_experts(lane, y, device.up(scratch, x), chosen, device.up(scratch, weights),
                            there, 0.9);
        const auto got = device.down(y);
        check_close("experts", got.view().as_const().flat(), expected.view().as_const().flat(),
                    (D + F) * 20e-6);
      });
    }
  }
}

TEST_CASE_TEMPLATE("kokkos: routers pick as the reference does, ties too", B, DS4_HOST_BACKENDS) {
  constexpr std::size_t E = 37;
  constexpr std::size_t k = 5;
  constexpr std::size_t S = 50;
  auto logits = random_rows<E>(S);
  for (std::size_t s = 0; s < S; s += 2) {  // equal scores
    for (std::size_t e = 3; e < 30; ++e) logits(s, e) = 0.5f;
  }
  Tensor<float, E> bias = random_parameter<E>();
  for (std::size_t e = 3; e < 30; ++e) bias[e] = 0.25f;
  Tensor<std::int32_t, 11, k> table;
  for (std::size_t i = 0; i < table.size(); ++i) {
    table.flat()[i] = static_cast<std::int32_t>((i * 7) % E);
  }
  std::vector<std::int32_t> ids(S);
  for (std::size_t s = 0; s < S; ++s) ids[s] = static_cast<std::int32_t>(s % 11);

  Reference reference;
  for (const std::size_t team : team_sizes<B>()) {
    Device<B> device(team);
    const auto device_bias = device.parameter(bias);
    const auto device_table =
        device.backend.template bind_small<typename B::template HashTable<11, k>>(table);
    for (const bool hash : {false, true}) {
      Rows<std::int32_t, k> expected(S);
      Rows<float, k> expected_weights(S);
      if (hash) {
        ops::route_by_hash(reference, expected.view(), expected_weights.view(), logits.view(), ids,
                           table, 1.5);
      } else {
        ops::route_by_score(reference, expected.view(), expected_weights.view(), logits.view(),
                            bias, 1.5);
      }
      device.run([&](B& lane, auto& scratch) {
        auto experts = scratch.template indices<k>(S);
        auto weights = scratch.template rows<k>(S);
        if (hash) {
          ops::route_by_hash(lane, experts, weights, device.up(scratch, logits),
                             scratch.upload(ids), device_table, 1.5);
        } else {
          ops::route_by_score(lane, experts, weights, device.up(scratch, logits), device_bias, 1.5);
        }
        CHECK(std::ranges::equal(device.down(experts).flat(), expected.flat()));
        const auto got = device.down(weights);
        check_close("weights", got.view().as_const().flat(),
                    expected_weights.view().as_const().flat(), 2e-6);
      });
    }
  }
}

TEST_CASE_TEMPLATE("kokkos: the indexer's choice over several slabs, with ties", B,
                   DS4_HOST_BACKENDS) {
  constexpr std::size_t nI = 3;
  constexpr std::size_t dI = 21;
  constexpr std::size_t TopK = 40;
  constexpr std::size_t kRatio = 2;
  constexpr std::size_t kEntries = 2 * ds4::kokkos::kSlab + 100;
  constexpr std::size_t S = 11;
  // Small integers: sums are exact and the same on both sides, and many scores are equal.
  const auto integers = [](auto rows, int most) {
    for (float& value : rows.flat()) {
      value = static_cast<float>(static_cast<int>(random_bits()() % (2 * most + 1)) - most);
    }
    return rows;
  };
  const auto keys = integers(Rows<float, dI>(kEntries), 1);
  const auto q = integers(Rows<float, nI, dI>(S), 1);
  const auto weights = integers(Rows<float, nI>(S), 2);
  const Segment segment{0, S, 2 * kEntries - S, 0};

  Reference reference;
  ds4::RowLog<float, dI> log;
  log.append(keys.view());
  const ds4::RowLog<float, dI>* const logs[] = {&log};
  Rows<std::int32_t, TopK> expected(S);
  ops::pick_entries<kRatio>(reference, expected.view(), q.view(), weights.view(), {&segment, 1},
                            std::span<const ds4::RowLog<float, dI>* const>(logs));
  for (std::size_t s = 0; s < S; ++s) std::ranges::sort(expected[s].flat());

  for (const std::size_t team : team_sizes<B>()) {
    Device<B> device(team);
    typename B::template IndexLog<dI> device_log;
    device.run([&](B& lane, auto& scratch) {
      ops::append(lane, device_log, device.up(scratch, keys));
      const typename B::template IndexLog<dI>* const device_logs[] = {&device_log};
      auto picks = scratch.template indices<TopK>(S);
      ops::pick_entries<kRatio>(
          lane, picks, device.up(scratch, q), device.up(scratch, weights), {&segment, 1},
          std::span<const typename B::template IndexLog<dI>* const>(device_logs));
      CHECK(std::ranges::equal(device.down(picks).flat(), expected.flat()));
    });
  }
}

TEST_CASE_TEMPLATE("kokkos: attention of many sequences, each with keys of its own", B,
                   DS4_HOST_BACKENDS) {
  constexpr std::size_t H = 11;  // a block of heads and a part
  constexpr std::size_t d = 41;
  constexpr std::size_t W = 9;
  constexpr std::size_t kRatio = 4;
  constexpr std::size_t kCount = ds4::kokkos::kSequences + 3;
  using Log = ds4::RowLog<float, d>;
  using DeviceLog = typename B::template KeyLog<d>;
  for (const std::size_t team : team_sizes<B>()) {
    Reference reference;
    Device<B> device(team);
    std::vector<Log> windows(kCount);
    std::vector<Log> entries(kCount);
    std::vector<DeviceLog> device_windows(kCount);
    std::vector<DeviceLog> device_entries(kCount);
    std::vector<Segment> segments;
    std::size_t S = 0;
    const Tensor<float, H> sink = random_parameter<H>();
    const auto device_sink = device.parameter(sink);
    device.run([&](B& lane, auto& scratch) {
      for (std::size_t i = 0; i < kCount; ++i) {
        const std::size_t position = i * 17;
        const std::size_t count = 1 + i % 4;
        segments.push_back({S, count, position});
        S += count;
        const auto window = random_rows<d>(position + count);
        const auto entry = random_rows<d>((position + count) / kRatio);
        windows[i].append(window.view());
        entries[i].append(entry.view());
        ops::append(lane, device_windows[i], device.up(scratch, window));
        if (entry.extent(0) > 0) ops::append(lane, device_entries[i], device.up(scratch, entry));
        // The device has forgotten what no query sees any more.
        ops::forget_before(lane, device_windows[i], position + 1 - std::min(position + 1, W));
      }
      const auto q = random_rows<H, d>(S);
      std::vector<ds4::KeySource<Log>> sources;
      std::vector<ds4::KeySource<DeviceLog>> device_sources;
      for (std::size_t i = 0; i < kCount; ++i) {
        sources.push_back({&windows[i], &entries[i]});
        device_sources.push_back({&device_windows[i], &device_entries[i]});
      }
      Rows<float, H, d> expected(S);
      Rows<std::int32_t, 1> none(0);
      ops::attend<AttentionKind::hca, kRatio, W>(reference, expected.view(), q.view(), sink,
                                                 none.view(), segments,
                                                 std::span<const ds4::KeySource<Log>>(sources));
      auto out = scratch.template rows<H, d>(S);
      ops::attend<AttentionKind::hca, kRatio, W>(
          lane, out, device.up(scratch, q), device_sink, scratch.template indices<1>(0), segments,
          std::span<const ds4::KeySource<DeviceLog>>(device_sources));
      const auto got = device.down(out);
      check_close("attention", got.view().as_const().flat(), expected.view().as_const().flat(),
                  1e-5);
    });
  }
}

TEST_CASE_TEMPLATE("kokkos: norms, rotation, activation, argmax", B, DS4_HOST_BACKENDS) {
  constexpr std::size_t S = 7;
  constexpr std::size_t K = 333;
  for (const std::size_t team : team_sizes<B>()) {
    Reference reference;
    Device<B> device(team);
    device.run([&](B& lane, auto& scratch) {
      const auto x = random_rows<K>(S);
      const auto weight = random_parameter<K>();
      Rows<float, K> expected(S);
      ops::rms_norm(reference, expected.view(), x.view(), weight, 1e-6);
      auto y = scratch.template rows<K>(S);
      ops::rms_norm(lane, y, device.up(scratch, x), device.parameter(weight), 1e-6);
      auto got = device.down(y);
      check_close("norm", got.view().as_const().flat(), expected.view().as_const().flat(), 2e-6);

      auto gate = random_rows<K>(S);
      for (float& value : gate.flat()) value *= 100.0f;
      auto device_gate = device.up(scratch, gate);
      ops::swiglu(lane, device_gate, device.up(scratch, x), 10.0);
      ops::swiglu(reference, gate.view(), x.view(), 10.0);
      got = device.down(device_gate);
      check_close("swiglu", got.view().as_const().flat(), gate.view().as_const().flat(), 1e-6,
                  1e-6);

      auto logits = random_rows<K>(S);
      for (std::size_t s = 0; s < S; ++s) logits(s, 300 - 40 * s) = logits(s, 310) = 2.0f;
      Rows<std::int32_t, 1> best(S);
      ops::argmax(reference, best.view(), logits.view());
      auto ids = scratch.template indices<1>(S);
      ops::argmax(lane, ids, device.up(scratch, logits));
      CHECK(std::ranges::equal(device.down(ids).flat(), best.flat()));
      CHECK(best(0, 0) == 300);

      // Positions up to the last one of the context.
      constexpr std::size_t kPairs = 8;
      const auto frequencies = ds4::rotary_frequencies<2 * kPairs>(10000.0);
      Rows<float, kPairs> cos(S);
      Rows<float, kPairs> sin(S);
      ops::rotary_table(reference, ds4::RotaryTable<float, kPairs>{cos.view(), sin.view()}, 5,
                        170000, frequencies);
      auto heads = random_rows<3, 20>(S);
      const ds4::RotaryTable<typename B::Element, kPairs> table{scratch.template rows<kPairs>(S),
                                                                scratch.template rows<kPairs>(S)};
      ops::rotary_table(lane, table, 5, 170000, frequencies);
      check_close("cos", device.down(table.cos).view().as_const().flat(),
                  cos.view().as_const().flat(), 1e-7);
      auto rotated = device.up(scratch, heads);
      for (const auto direction : {ops::Rotation::forward, ops::Rotation::inverse}) {
        ops::rotate(reference, heads.view(),
                    ds4::RotaryTable<float, kPairs>{cos.view(), sin.view()}, direction);
        ops::rotate(lane, rotated, table, direction);
        const auto there = device.down(rotated);
        check_close("rotated", there.view().as_const().flat(), heads.view().as_const().flat(),
                    1e-6);
      }
    });
  }
}

TEST_CASE_TEMPLATE("kokkos: hyper-connections of three streams", B, DS4_HOST_BACKENDS) {
  constexpr std::size_t N = 3;
  constexpr std::size_t D = 50;
  constexpr std::size_t U = (2 + N) * N;
  constexpr std::size_t S = 37;
  for (const std::size_t team : team_sizes<B>()) {
    Reference reference;
    Device<B> device(team);
    device.run([&](B& lane, auto& scratch) {
      const auto u = random_rows<U>(S);
      const auto base = random_parameter<U>();
      const auto scale = random_parameter<3>();
      Rows<float, N> pre(S);
      Rows<float, N> post(S);
      Rows<float, N, N> comb(S);
      ops::hyper_connection_weights(reference, pre.view(), post.view(), comb.view(), u.view(), base,
                                    scale, 20, 1e-6);
      auto there_pre = scratch.template rows<N>(S);
      auto there_post = scratch.template rows<N>(S);
      auto there_comb = scratch.template rows<N, N>(S);
      ops::hyper_connection_weights(lane, there_pre, there_post, there_comb, device.up(scratch, u),
                                    device.parameter(base), device.parameter(scale), 20, 1e-6);
      check_close("pre", device.down(there_pre).view().as_const().flat(),
                  pre.view().as_const().flat(), 1e-6);
      check_close("post", device.down(there_post).view().as_const().flat(),
                  post.view().as_const().flat(), 1e-6);
      check_close("comb", device.down(there_comb).view().as_const().flat(),
                  comb.view().as_const().flat(), 1e-6);

      auto streams = random_rows<N, D>(S);
      const auto y = random_rows<D>(S);
      auto there = device.up(scratch, streams);
      Rows<float, D> c(S);
      auto there_c = scratch.template rows<D>(S);
      ops::collapse_streams(reference, c.view(), streams.view(), pre.view());
      ops::collapse_streams(lane, there_c, there, there_pre);
      check_close("collapsed", device.down(there_c).view().as_const().flat(),
                  c.view().as_const().flat(), 2e-5);
      ops::mix_streams(reference, streams.view(), post.view(), comb.view(), y.view());
      ops::mix_streams(lane, there, there_post, there_comb, device.up(scratch, y));
      check_close("mixed", device.down(there).view().as_const().flat(),
                  streams.view().as_const().flat(), 2e-5);
    });
  }
}
