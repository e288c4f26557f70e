// The SIMD kernels of every instruction set against the reference kernels, at sizes that leave
// remainders: 1, a vector less one, a vector, one more, primes.
//
// Tolerances: two orders of summation of K products of magnitude about 1 differ by less than
// K * 2^-24 * a small factor; inputs rounded to BF16 have a relative error of 2^-9 each.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/kernels/reference/attention.hpp>
#include <ds4/kernels/reference/compressor.hpp>
#include <ds4/kernels/reference/hyper_connection.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/linear.hpp>
#include <ds4/kernels/reference/norm.hpp>
#include <ds4/kernels/reference/swiglu.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/kernels/simd/expert_cache.hpp>
#include <ds4/kernels/simd/kernels.hpp>
#include <ds4/kernels/simd/logs.hpp>
#include <ds4/kernels/simd/team.hpp>
#include <ds4/kernels/simd/top_k.hpp>
#include <ds4/kernels/simd/weight_pool.hpp>
#include <support/compare.hpp>

namespace {

using Sizes = std::vector<std::size_t>;

using ds4::DType;
using ds4::StoredMatrix;
using ds4::simd::Kernels;
using ds4::test::check_close;

std::vector<float> random_values(std::size_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = scale * (static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
  }
  return values;
}

float rounded_to_bf16(float x) {
  return ds4::bf16_to_float(ds4::simd::bf16_from_float<ds4::simd::Baseline>(x));
}

/// A matrix with its memory, in any storage: values up to about 2, every FP8 and FP4 code but NaN.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<std::byte> scales;
  StoredMatrix matrix;

  Stored(std::size_t rows, std::size_t cols, DType dtype, unsigned seed,
         DType scale_dtype = DType::f8_e8m0) {
    std::mt19937 random(seed);
    const auto put = [](std::vector<std::byte>& to, const auto& value) {
      const auto* at = reinterpret_cast<const std::byte*>(&value);
      to.insert(to.end(), at, at + sizeof value);
    };
    const std::size_t row_elements = dtype == DType::i8 ? (cols + 1) / 2 : cols;
    const auto values = random_values(rows * row_elements, seed);
    for (const float value : values) {
      const auto code = static_cast<std::uint8_t>(random());
      if (dtype == DType::f32) {
        put(bytes, value);
      } else if (dtype == DType::bf16) {
        put(bytes, ds4::simd::bf16_from_float<ds4::simd::Baseline>(value));
      } else if (dtype == DType::f16) {
        put(bytes, static_cast<std::uint16_t>((random() & 0x83ffu) | (10u + random() % 6u) << 10));
      } else {
        put(bytes, dtype == DType::f8_e4m3 && (code & 0x7fu) == 0x7fu ? std::uint8_t{3} : code);
      }
    }
    const bool fp4 = dtype == DType::i8;
    const std::size_t block = fp4 ? StoredMatrix::kFp4Block : StoredMatrix::kFp8Block;
    const std::size_t scale_rows = fp4 ? rows : (rows + block - 1) / block;
    for (std::size_t i = 0; i < scale_rows * ((cols + block - 1) / block); ++i) {
      const int exponent = static_cast<int>(random() % 3) - (fp4 ? 3 : 9);
      if (scale_dtype == DType::f32) {
        put(scales, std::ldexp(1.3f, exponent));
      } else {
        put(scales, static_cast<std::uint8_t>(127 + exponent));
      }
    }
    matrix.values = bytes.data();
    matrix.scales = scales.data();
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.dtype = dtype;
    matrix.scale_dtype = scale_dtype;
  }
};

template <class F>
void for_each_set(F&& f) {
  for (const Kernels* kernels : ds4::simd::available_kernels()) {
    CAPTURE(std::string(kernels->name));
    f(*kernels);
  }
}

}  // namespace

namespace {

/// w x for S random tokens, in place and in panels of several heights, against the reference.
void check_linear(const Kernels& kernels, const StoredMatrix& w, std::size_t S, bool exact) {
  const std::size_t N = w.rows;
  const std::size_t K = w.cols;
  const auto scratch = std::make_unique<ds4::simd::LinearScratch>();
  const auto x = random_values(S * K, 2);
  const auto layout = kernels.layout_for(w.dtype, exact);
  const std::size_t stride = kernels.token_stride(layout, K);
  std::vector<std::byte> laid_out(S * stride);
  kernels.lay_out(layout, laid_out.data(), x.data(), K, S, K);
  const ds4::simd::Tokens tokens{laid_out.data(), stride, S, layout};
  ds4::simd::ProductMatrix matrix{w};
  const auto multiply = [&] {
    std::vector<float> y(S * N + 1, 77.0f);
    kernels.linear(y.data(), N, {&matrix, 0, N}, tokens, *scratch);
    CHECK(y.back() == 77.0f);  // nothing is written behind the end
    y.pop_back();
    return y;
  };
  const auto in_place = multiply();
  for (const std::size_t panel_rows : Sizes{1, 3, 16, 17, 32}) {
    std::vector<std::byte> panels(kernels.panel_bytes(w));
    kernels.store_in_panels(panels.data(), w, panel_rows, 0, N);
    matrix.panels = panels.data();
    matrix.panel_rows = panel_rows;
    CHECK(multiply() == in_place);
  }
  matrix.panels = nullptr;
  for (const std::size_t s : {std::size_t{0}, S - 1}) {  // a token alone has the same results
    std::vector<float> alone(N);
    const ds4::simd::Tokens token{laid_out.data() + s * stride, stride, 1, layout};
    kernels.linear(alone.data(), N, {&matrix, 0, N}, token, *scratch);
    CHECK(std::equal(alone.begin(), alone.end(),
                     in_place.begin() + static_cast<std::ptrdiff_t>(s * N)));
  }
  matrix.panel_rows = 2;
  for (std::size_t begin = 1; begin < std::min<std::size_t>(N, 6); ++begin) {
    std::vector<float> part(S * N);  // a range need not begin with a panel
    kernels.linear(part.data(), N, {&matrix, begin, N}, tokens, *scratch);
    CHECK(std::equal(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(N - begin),
                     in_place.begin() + static_cast<std::ptrdiff_t>(begin)));
  }

  auto inputs = x;
  if (layout == ds4::simd::Layout::bf16 || layout == ds4::simd::Layout::bf16_fp4) {
    std::ranges::transform(inputs, inputs.begin(), rounded_to_bf16);
  }
  std::vector<double> expected(S * N);
  const std::vector<double> exact_inputs(inputs.begin(), inputs.end());
  ds4::reference::linear(expected.data(), N, exact_inputs.data(), K, S, w, 0, N);
  check_close("y", std::span<const float>(in_place), std::span<const double>(expected),
              static_cast<double>(K) * 0x1p-22);
}

}  // namespace

TEST_CASE("simd kernels: linear layers in every storage, in place and in panels") {
  for_each_set([&](const Kernels& kernels) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3, DType::i8}) {
      for (const bool exact : {true, false}) {
        CAPTURE(std::string(ds4::dtype_name(dtype)));
        CAPTURE(exact);
        for (const std::size_t K : Sizes{1, 15, 16, 17, 31, 33, 64, 97}) {
          for (const std::size_t N : Sizes{1, 3, 4, 5, 67}) {
            for (const std::size_t S : Sizes{1, 2, 5, 6, 7, 13}) {
              check_linear(kernels, Stored(N, K, dtype, 1).matrix, S, exact);
            }
          }
        }
        check_linear(kernels, Stored(133, 1301, dtype, 3).matrix, 3, exact);  // several blocks
        check_linear(kernels, Stored(133, 1301, dtype, 3, DType::f32).matrix, 3, exact);
        for (const std::size_t S : Sizes{1, 2, 3, 4, 5}) {  // whole lines of each row
          check_linear(kernels, Stored(53, 128, dtype, 4).matrix, S, exact);
          check_linear(kernels, Stored(53, 2176, dtype, 5).matrix, S, exact);
          check_linear(kernels, Stored(53, 640, dtype, 6, DType::f32).matrix, S, exact);
        }
      }
    }
  });
}

TEST_CASE("simd kernels: every FP8 and every packed FP4 code, and NaN scales") {
  for_each_set([](const Kernels& kernels) {
    const auto scratch = std::make_unique<ds4::simd::LinearScratch>();
    for (const bool exact : {true, false}) {
      for (const auto& [dtype, K] : {std::pair<DType, std::size_t>{DType::f8_e4m3, 4},
                                     {DType::f8_e4m3, 64},
                                     {DType::i8, 8},
                                     {DType::i8, 128}}) {
        // Row r has the byte r and zeros. FP4: the low nibble meets 1, the high one 64.
        const std::size_t width = dtype == DType::i8 ? K / 2 : K;  // of a row
        const std::size_t blocks = dtype == DType::i8 ? (K + 31) / 32 : 1;
        std::vector<std::byte> bytes(256 * width);
        std::vector<std::byte> scales(256 * blocks, std::byte{128});  // 2
        for (std::size_t r = 0; r < 256; ++r) {
          bytes[width * r + r % width] = static_cast<std::byte>(r);
        }
        scales[dtype == DType::i8 ? 200 * blocks : 1] = std::byte{255};  // a row; the second 128
        ds4::simd::ProductMatrix matrix;
        matrix.stored = {bytes.data(), scales.data(), 256, K, dtype};
        std::vector<float> x(K, 1.0f);
        for (std::size_t c = 1; c < K && dtype == DType::i8; c += 2) x[c] = 64.0f;
        const auto layout = kernels.layout_for(dtype, exact);
        std::vector<std::byte> tokens(kernels.token_stride(layout, K));
        kernels.lay_out(layout, tokens.data(), x.data(), K, 1, K);
        std::vector<float> y(256);
        kernels.linear(y.data(), 256, {&matrix, 0, 256}, {tokens.data(), tokens.size(), 1, layout},
                       *scratch);
        std::size_t wrong = 0;
        for (std::size_t r = 0; r < 256; ++r) {
          const auto code = static_cast<std::uint8_t>(r);
          const bool nan = dtype == DType::i8 ? r == 200 : (r & 0x7f) == 0x7f || r >= 128;
          const float value = dtype == DType::i8 ? ds4::fp4_to_float(code & 15u) +
                                                       64.0f * ds4::fp4_to_float(code >> 4u)
                                                 : ds4::f8_e4m3_to_float(code);
          if (nan ? !std::isnan(y[r]) : y[r] != 2.0f * value) ++wrong;
        }
        CHECK(wrong == 0);
      }
    }
  });
}

TEST_CASE("simd kernels: rounding to BF16 leans to no side") {
  // Errors of nearest values are up to 2^-9 of the value to either side: their mean over n values
  // is within 5 * 2^-9 / sqrt(3 n) of 0. Truncation is 2^-9 off and more, all of it to one side.
  constexpr std::size_t kCount = 1 << 14;
  constexpr double kBound = 5 * 0x1p-8 / 222.0;
  std::mt19937 random(11);
  std::vector<float> values(kCount);
  for (float& value : values) {
    value = 1.0f + static_cast<float>(random() % (1u << 23)) * 0x1p-23f;
    if (random() % 2 == 1) value = -value;
  }
  const auto mean_error = [&](auto&& rounded) {
    double sum = 0.0;
    for (std::size_t i = 0; i < kCount; ++i) {
      sum += static_cast<double>(rounded(i)) / static_cast<double>(values[i]) - 1.0;
    }
    return std::abs(sum) / static_cast<double>(kCount);
  };
  const auto truncated = [&](std::size_t i) {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(values[i]) & 0xffff0000u);
  };
  CHECK(mean_error(truncated) > 10 * kBound);
  CHECK(mean_error([&](std::size_t i) {
          return ds4::bf16_to_float(ds4::bf16_from_float(values[i]));
        }) < kBound);

  for_each_set([&](const Kernels& kernels) {
    std::vector<std::uint16_t> row(kCount);
    kernels.store_bf16(row.data(), values.data(), kCount);
    CHECK(mean_error([&](std::size_t i) { return ds4::bf16_to_float(row[i]); }) < kBound);

    std::vector<std::byte> block(ds4::simd::key_block_bytes(kCount, true));
    kernels.store_key(block.data(), 3, values.data(), kCount, true);
    CHECK(mean_error([&](std::size_t i) {
            std::uint16_t bits;
            std::memcpy(&bits, &block[ds4::simd::key_offset(3, i, true)], sizeof bits);
            return ds4::bf16_to_float(bits);
          }) < kBound);

    // Activations of a product, whatever it makes of them: the identity's rows give them back.
    constexpr std::size_t kSize = 64;
    std::vector<std::uint16_t> identity(kSize * kSize);
    for (std::size_t i = 0; i < kSize; ++i) identity[i * kSize + i] = 0x3f80;  // 1
    ds4::simd::ProductMatrix matrix;
    matrix.stored.values = reinterpret_cast<const std::byte*>(identity.data());
    matrix.stored.rows = kSize;
    matrix.stored.cols = kSize;
    matrix.stored.dtype = DType::bf16;
    constexpr std::size_t kTokens = kCount / kSize;
    const auto layout = kernels.layout_for(DType::bf16, false);
    const std::size_t stride = kernels.token_stride(layout, kSize);
    std::vector<std::byte> laid_out(kTokens * stride);
    kernels.lay_out(layout, laid_out.data(), values.data(), kSize, kTokens, kSize);
    const auto scratch = std::make_unique<ds4::simd::LinearScratch>();
    std::vector<float> y(kCount);
    kernels.linear(y.data(), kSize, {&matrix, 0, kSize}, {laid_out.data(), stride, kTokens, layout},
                   *scratch);
    CHECK(mean_error([&](std::size_t i) { return y[i]; }) < kBound);
  });
}

TEST_CASE("simd kernels: norms, activations, pooling, streams") {
  for_each_set([](const Kernels& kernels) {
    for (const std::size_t n : Sizes{1, 7, 16, 17, 61, 128}) {
      const auto x = random_values(n, 1);
      const auto w = random_values(n, 2);
      std::vector<float> got(n);
      std::vector<float> expected(n);
      kernels.rms_norm(got.data(), x.data(), w.data(), n, 1e-6f);
      ds4::reference::rms_norm(expected.data(), x.data(), w.data(), 1, n, 1e-6f);
      check_close("rms_norm", std::span<const float>(got), std::span<const float>(expected), 1e-5);

      // Flash-Vision-Exp's epsilon: rows of 1e-9 become rows of one, those of zero stay so.
      for (const float size : {1e-9f, 0.0f}) {
        const std::vector<float> small(n, size);
        kernels.rms_norm(got.data(), small.data(), w.data(), n, 1e-20f);
        ds4::reference::rms_norm(expected.data(), small.data(), w.data(), 1, n, 1e-20f);
        check_close("rms_norm", std::span<const float>(got), std::span<const float>(expected),
                    1e-5);
        CHECK(got[0] == doctest::Approx(size == 0.0f ? 0.0f : 0.995f * w[0]).epsilon(1e-3));
      }

      got = expected = random_values(n, 3, 4.0f);
      kernels.swiglu(got.data(), x.data(), n, 1.5f);
      ds4::reference::swiglu(expected.data(), x.data(), n, 1.5f);
      check_close("swiglu", std::span<const float>(got), std::span<const float>(expected), 1e-6);

      constexpr std::size_t kSlots = 5;
      std::vector<std::vector<float>> rows;
      for (unsigned i = 0; i < 3 * kSlots; ++i) rows.push_back(random_values(n, 10 + i, 3.0f));
      std::vector<ds4::reference::PoolSlot<float>> slots;
      std::vector<const float*> kv;
      std::vector<const float*> gate;
      std::vector<const float*> ape;
      for (std::size_t i = 0; i < kSlots; ++i) {
        slots.push_back({rows[i].data(), rows[kSlots + i].data(), rows[2 * kSlots + i].data()});
        kv.push_back(slots[i].kv);
        gate.push_back(slots[i].gate);
        ape.push_back(slots[i].ape);
      }
      kernels.pool(got.data(), kv.data(), gate.data(), ape.data(), kSlots, n);
      ds4::reference::pool(expected.data(), slots, n);
      check_close("pool", std::span<const float>(got), std::span<const float>(expected), 1e-5);

      for (const std::size_t N : Sizes{1, 3, 4}) {
        auto X = random_values(N * n, 4);
        auto reference = X;
        const auto post = random_values(N, 5);
        const auto comb = random_values(N * N, 6);
        std::vector<float> old(N * 16);
        kernels.collapse_streams(got.data(), X.data(), post.data(), N, n);
        ds4::reference::collapse_streams(expected.data(), X.data(), post.data(), 1, N, n);
        check_close("collapse", std::span<const float>(got), std::span<const float>(expected),
                    1e-6);
        kernels.mix_streams(X.data(), post.data(), comb.data(), x.data(), old.data(), N, n, 0, n);
        ds4::reference::mix_streams(reference.data(), post.data(), comb.data(), x.data(),
                                    old.data(), 1, N, n);
        check_close("mix", std::span<const float>(X), std::span<const float>(reference), 2e-6);
        auto matrix = random_values(N * N, 7, 5.0f);
        auto other = matrix;
        kernels.sinkhorn(matrix.data(), N, 20, 1e-6f);
        ds4::reference::sinkhorn(other.data(), N, 20, 1e-6f);
        check_close("sinkhorn", std::span<const float>(matrix), std::span<const float>(other),
                    1e-5);
      }
    }
  });
}

TEST_CASE("simd kernels: attention over any number of keys and heads") {
  for_each_set([](const Kernels& kernels) {
    for (const bool bf16 : {false, true}) {
      for (const std::size_t d : Sizes{3, 16, 48, 65}) {
        for (const std::size_t H : Sizes{1, 3, 8, 13}) {
          for (const std::size_t count : Sizes{0, 1, 5, 255, 256, 257, 600}) {
            const Stored rows(std::max<std::size_t>(count, 1), d, bf16 ? DType::bf16 : DType::f32,
                              1);
            const auto q = random_values(H * d, 2, 3.0f);
            const auto sink = random_values(H, 3);
            std::vector<const std::byte*> keys;
            std::vector<std::vector<float>> values(count, std::vector<float>(d));
            std::vector<const float*> reference_keys;
            for (std::size_t k = 0; k < count; ++k) {
              keys.push_back(rows.matrix.values + k * d * (bf16 ? 2 : 4));
              rows.matrix.decode_row(k, values[k].data());
              reference_keys.push_back(values[k].data());
            }
            const std::size_t padded = (d + 31) / 32 * 32;
            std::vector<float> scores(ds4::simd::kHeadGroup * ds4::simd::kKeyTile);
            std::vector<float> sums(H * padded);
            std::vector<float> top(H);
            std::vector<float> sum(H);
            std::vector<std::byte> laid_out(H * padded * sizeof(float));
            std::vector<float> got(H * d);
            std::vector<float> expected(H * d);
            kernels.attend(got.data(), q.data(), sink.data(), keys.data(), count, H, d, bf16, true,
                           {scores.data(), sums.data(), top.data(), sum.data(), laid_out.data()});
            ds4::reference::attend(expected.data(), q.data(), sink.data(), reference_keys, H, d);
            CAPTURE(bf16);
            CAPTURE(d);
            CAPTURE(H);
            CAPTURE(count);
            check_close("out", std::span<const float>(got), std::span<const float>(expected), 1e-5);
          }
        }
      }
    }
  });
}

TEST_CASE("simd kernels: indexer scores") {
  for_each_set([](const Kernels& kernels) {
    for (const bool bf16 : {false, true}) {
      for (const std::size_t dI : Sizes{1, 8, 15, 128}) {
        for (const std::size_t nI : Sizes{1, 3, 16, 21}) {
          const auto q = random_values(nI * dI, 1);
          const auto weights = random_values(nI, 2);
          const auto keys = random_values(16 * dI, 3);
          std::vector<std::byte> block(ds4::simd::key_block_bytes(dI, bf16));
          for (std::size_t k = 0; k < 16; ++k) {
            kernels.store_key(block.data(), k, &keys[k * dI], dI, bf16);
          }
          std::vector<std::byte> query(ds4::simd::padded_heads(nI) * dI * 4);
          std::vector<float> scaled(ds4::simd::padded_heads(nI));
          kernels.lay_out_query(query.data(), scaled.data(), q.data(), weights.data(), nI, dI,
                                bf16);
          std::vector<float> got(16);
          kernels.score_block(got.data(), block.data(), {query.data(), scaled.data()}, nI, dI,
                              bf16);
          auto rounded_q = q;
          auto rounded_keys = keys;
          if (bf16) {
            std::ranges::transform(q, rounded_q.begin(), rounded_to_bf16);
            std::ranges::transform(keys, rounded_keys.begin(), rounded_to_bf16);
          }
          std::vector<float> expected(16);
          ds4::reference::index_scores(expected.data(), rounded_q.data(), weights.data(), 16, nI,
                                       dI, [&](std::size_t w) { return &rounded_keys[w * dI]; });
          check_close("scores", std::span<const float>(got), std::span<const float>(expected),
                      1e-5);
        }
      }
    }
  });
}

TEST_CASE("simd: the streaming top-k is that of a full sort") {
  std::mt19937 random(1);
  for (const std::size_t count : Sizes{1, 7, 16, 100, 5000}) {
    for (const std::size_t topk : Sizes{1, 3, 64}) {
      std::vector<float> scores(count);
      for (float& score : scores) score = static_cast<float>(random() % 50);  // many ties
      std::vector<ds4::simd::Candidate> buffer(2 * topk);
      ds4::simd::TopK best(buffer.data(), topk);
      for (std::size_t first = 0; first < count; first += 16) {
        best.add(&scores[first], static_cast<std::int32_t>(first),
                 std::min<std::size_t>(16, count - first));
      }
      std::vector<std::int32_t> got;
      for (const auto& candidate : best.finish()) got.push_back(candidate.entry);
      std::ranges::sort(got);
      std::vector<std::int32_t> expected(topk);
      ds4::reference::top_entries(expected.data(), scores, topk);
      std::erase(expected, -1);
      std::ranges::sort(expected);
      CHECK(got == expected);
    }
  }
}

TEST_CASE("simd: logs share blocks until they write") {
  ds4::simd::KeyLog<3> log;
  const auto add = [](auto& to, float value) {
    const float row[3] = {value, value, value};
    std::memcpy(to.add(ds4::DType::f32), row, sizeof row);
  };
  const auto at = [](const auto& from, std::size_t row) {
    float value;
    std::memcpy(&value, from.row(row), sizeof value);
    return value;
  };
  for (int i = 0; i < 100; ++i) add(log, static_cast<float>(i));
  auto fork = log;
  CHECK(fork.row(5) == log.row(5));  // the same memory
  add(fork, 1000.0f);
  add(log, 2000.0f);
  CHECK(fork.row(5) == log.row(5));    // a block that nobody has written to
  CHECK(fork.row(99) != log.row(99));  // one that both have
  CHECK(at(fork, 99) == 99.0f);
  CHECK(at(fork, 100) == 1000.0f);
  CHECK(at(log, 100) == 2000.0f);
  log.forget_before(70);
  CHECK(at(log, 70) == 70.0f);
  CHECK(log.bytes() < fork.bytes());
  CHECK(at(fork, 0) == 0.0f);
}

TEST_CASE("simd: a team runs every lane, its barrier holds, its memory is one for all lanes") {
  for (const std::size_t threads : Sizes{1, 2, 5}) {
    ds4::simd::Team team({.threads = threads, .adapts = false});
    for (int pass = 0; pass < 3; ++pass) {
      std::atomic<std::size_t> arrived = 0;
      std::atomic<int> wrong = 0;
      std::vector<std::byte*> memory(threads);
      team.run([&](std::size_t lane, std::size_t lanes) {
        ds4::simd::Arena::Cursor cursor(team.shared());
        for (std::size_t round = 1; round <= 50; ++round) {
          memory[lane] = cursor.allocate(100000);
          ++arrived;
          if (lanes > 1) team.barrier().wait();
          if (arrived != round * lanes) ++wrong;
          if (memory[lane] != memory[0]) ++wrong;
          if (lanes > 1) team.barrier().wait();
        }
      });
      CHECK(arrived == 50 * threads);
      CHECK(wrong == 0);
    }
    CHECK(team.shared().peak() == 50 * 100032);  // whole cache lines
    std::vector<std::byte*> before;
    for (int pass = 0; pass < 2; ++pass) {  // a steady state has it in one piece
      std::vector<std::byte*> places;
      team.run([&](std::size_t lane, std::size_t) {
        ds4::simd::Arena::Cursor cursor(team.shared());
        for (int round = 0; round < 50; ++round) {
          std::byte* place = cursor.allocate(100000);
          if (lane == 0) places.push_back(place);
        }
      });
      CHECK(places.back() - places.front() == 49 * 100032);
      if (pass == 1) CHECK(places == before);
      before = places;
    }
    CHECK(team.shared().peak() == 50 * 100032);
  }
}

TEST_CASE("simd: a weight pool hands out zeros that do not overlap") {
  ds4::simd::WeightPool pool;
  std::vector<std::byte*> parts;
  for (const std::size_t bytes : Sizes{1, 64, 100, 40u << 20}) {
    std::byte* part = pool.allocate(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(part) % 64 == 0);
    CHECK(std::all_of(part, part + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(part, bytes, std::byte{1});
    parts.push_back(part);
  }
  CHECK(std::ranges::adjacent_find(parts) == parts.end());
}

TEST_CASE("simd: copies of experts go to those that are used most") {
  const std::array<std::byte, 4> keys{};
  ds4::simd::ExpertCache cache(250, 100);  // two copies
  cache.begin_pass();
  const auto a = cache.use(&keys[0], 1);
  const auto b = cache.use(&keys[1], 3);
  CHECK((a.copy != nullptr && a.is_new));
  CHECK((b.copy != nullptr && b.is_new && b.copy != a.copy));
  CHECK(cache.use(&keys[2], 5).copy == nullptr);  // those in use stay
  cache.begin_pass();
  CHECK((cache.use(&keys[0], 1).copy == a.copy && !cache.use(&keys[0], 0).is_new));
  cache.begin_pass();
  const auto c = cache.use(&keys[2], 1);  // 6 uses against 2: takes the place of the least used
  CHECK((c.copy == a.copy && c.is_new));
  CHECK(cache.use(&keys[0], 4).copy == nullptr);  // 6 uses are not more than twice 3
  cache.begin_pass();
  const auto again = cache.use(&keys[0], 1);  // 7 are
  CHECK((again.copy == b.copy && again.is_new));
  CHECK(ds4::simd::ExpertCache(99, 100).use(&keys[0], 1).copy == nullptr);  // no room at all
}
