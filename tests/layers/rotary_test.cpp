// Tests of ds4/layers/rotary.hpp, and of the tables that the reference backend makes of its
// frequencies.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/rotary.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>

namespace {

using ds4::AttentionKind;
using ds4::RopeScaling;
using ds4::test::check_close;
using ds4::test::Golden;

constexpr std::size_t kWidth = 64;  // qk_rope_head_dim of the releases
constexpr std::size_t kPairs = kWidth / 2;
constexpr RopeScaling kYarn{16.0, 65536.0, 32.0, 1.0};

const Golden& ops() {
  static const Golden file(ds4::test::data_dir("ops") / "ops.safetensors");
  return file;
}

struct Case {
  const char* name;
  double theta;
  RopeScaling scaling;
};
constexpr std::array<Case, 3> kCases{{{"rope.theta10000", 10000.0, {}},
                                      {"rope.theta160000", 160000.0, {}},
                                      {"rope.theta160000_yarn", 160000.0, kYarn}}};

template <class T>
struct Tables {
  ds4::Rows<T, kPairs> cos;
  ds4::Rows<T, kPairs> sin;

  Tables(const std::vector<std::size_t>& positions, const std::array<double, kPairs>& inv_freq)
      : cos(positions.size()), sin(positions.size()) {
    ds4::Reference<T> backend;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      ds4::ops::rotary_table(
          backend, ds4::RotaryTable<T, kPairs>{cos.view().rows(i, 1), sin.view().rows(i, 1)},
          positions[i], 1, inv_freq);
    }
  }
};

std::vector<std::size_t> golden_positions() {
  const auto ids = ops().indices("rope.positions");
  return {ids.begin(), ids.end()};
}

template <class T>
double largest_difference(std::span<const T> a, std::span<const float> b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return largest;
}

struct NoScaling : ds4::Flash {
  static constexpr RopeScaling rope_scaling{};
};

}  // namespace

TEST_CASE("rotary: frequencies are the exact ones") {
  for (const Case& c : kCases) {
    const auto inv_freq = ds4::rotary_frequencies<kWidth>(c.theta, c.scaling);
    check_close(c.name, std::span<const double>(inv_freq),
                ops().doubles(std::string(c.name) + ".inv_freq_f64"), 0.0, 1e-14);
  }
}

TEST_CASE_TEMPLATE("rotary: cosines and sines are the exact ones, up to the last position", T,
                   float, double) {
  const auto positions = golden_positions();
  REQUIRE(positions.back() == 1048575);
  // float64 rounds an angle of a million radians by 1e-10; the rest is one rounding to T.
  const double tolerance = std::is_same_v<T, float> ? 1e-7 : 1e-9;
  for (const Case& c : kCases) {
    const std::string name = c.name;
    const Tables<T> tables(positions, ds4::rotary_frequencies<kWidth>(c.theta, c.scaling));
    check_close(name + ".cos", std::as_const(tables.cos).flat(), ops().doubles(name + ".cos_f64"),
                tolerance);
    check_close(name + ".sin", std::as_const(tables.sin).flat(), ops().doubles(name + ".sin_f64"),
                tolerance);
  }
}

TEST_CASE("rotary: exact at positions throughout the context") {
  std::vector<std::size_t> positions;
  for (std::size_t t = 0; t < 1048576; t += 397) positions.push_back(t);
  positions.push_back(1048575);
  for (const double theta : {10000.0, 160000.0}) {
    const Tables<float> tables(positions, ds4::rotary_frequencies<kWidth>(theta));
    double largest = 0.0;
    for (std::size_t s = 0; s < positions.size(); ++s) {
      for (std::size_t i = 0; i < kPairs; ++i) {
        const long double angle =
            static_cast<long double>(positions[s]) *
            std::exp(-std::log(static_cast<long double>(theta)) * static_cast<long double>(i) /
                     static_cast<long double>(kPairs));
        largest = std::max(
            {largest,
             std::abs(static_cast<double>(std::cos(angle)) - static_cast<double>(tables.cos(s, i))),
             std::abs(static_cast<double>(std::sin(angle)) -
                      static_cast<double>(tables.sin(s, i)))});
      }
    }
    CHECK(largest < 1e-6);
  }
}

TEST_CASE("rotary: the reference's float32 angles drift, ours do not") {
  // cos_f32 is what the reference implementation computes: position and frequency in float32.
  const auto positions = golden_positions();
  const std::size_t last = positions.size() - 1;
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    const Tables<float> tables(positions, ds4::rotary_frequencies<kWidth>(c.theta, c.scaling));
    const auto drifting = ops().values(std::string(c.name) + ".cos_f32");
    const auto row = [&](std::size_t s) {
      return largest_difference(std::as_const(tables.cos).view()[s].flat(),
                                drifting.subspan(s * kPairs, kPairs));
    };
    CHECK(row(0) == 0.0);
    CHECK(row(1) < 1e-6);
    CHECK(row(last) > 1e-2);
  }
}

TEST_CASE("rotary: YaRN leaves low pairs, divides high ones and interpolates between") {
  // The release's values: pairs 0 to 15 stay, 25 to 31 turn 16 times slower, a ramp in between.
  const auto plain = ds4::rotary_frequencies<kWidth>(160000.0);
  const auto scaled = ds4::rotary_frequencies<kWidth>(160000.0, kYarn);
  for (std::size_t i = 0; i < kPairs; ++i) {
    INFO("pair ", i);
    const double ratio = scaled[i] / plain[i];
    if (i <= 15) {
      CHECK(ratio == 1.0);
    } else if (i >= 25) {
      CHECK(ratio == doctest::Approx(1.0 / 16.0).epsilon(1e-14));
    } else {
      const double g = 1.0 - (static_cast<double>(i) - 15.0) / 10.0;
      CHECK(ratio == doctest::Approx(g + (1.0 - g) / 16.0).epsilon(1e-13));
      CHECK(ratio < 1.0);
      CHECK(ratio > 1.0 / 16.0);
    }
  }
}

TEST_CASE("rotary: YaRN's bounds stay within the pairs") {
  const auto plain = ds4::rotary_frequencies<16>(160000.0);
  const auto expect = [&](const RopeScaling& scaling, double low, double high) {
    const auto scaled = ds4::rotary_frequencies<16>(160000.0, scaling);
    for (std::size_t i = 0; i < plain.size(); ++i) {
      INFO("pair ", i);
      const double g = 1.0 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      CHECK(scaled[i] ==
            doctest::Approx(plain[i] * (g + (1.0 - g) / scaling.factor)).epsilon(1e-13));
    }
  };
  expect({16.0, 64.0, 32.0, 1.0}, 0.0, 2.0);    // low would be -1, as in the tiny-pro-yarn model
  expect({16.0, 1e12, 32.0, 1.0}, 14.0, 15.0);  // high would be 18: the width less 1
  expect({4.0, 6.0, 32.0, 1.0}, 0.0, 0.001);    // both 0: the reference's guard
}

TEST_CASE("rotary: no attention factor is multiplied in") {
  // YaRN's factor, 0.1 ln(16) + 1 = 1.28, would show as the length of (cos, sin).
  const Tables<double> tables(golden_positions(),
                              ds4::rotary_frequencies<ds4::Flash>(AttentionKind::csa));
  for (std::size_t i = 0; i < tables.cos.size(); ++i) {
    const double c = tables.cos.flat()[i];
    const double s = tables.sin.flat()[i];
    CHECK(c * c + s * s == doctest::Approx(1.0).epsilon(1e-12));
  }
}

TEST_CASE("rotary: each kind of layer has its theta") {
  const auto main = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::sliding);
  const auto csa = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::csa);
  const auto hca = ds4::rotary_frequencies<ds4::Flash>(AttentionKind::hca);
  CHECK(main == ds4::rotary_frequencies<kWidth>(10000.0));  // never scaled
  CHECK(csa == ds4::rotary_frequencies<kWidth>(160000.0, kYarn));
  CHECK(hca == csa);
  CHECK(ds4::rotary_frequencies<NoScaling>(AttentionKind::csa) ==
        ds4::rotary_frequencies<kWidth>(160000.0));
  CHECK(main[0] == 1.0);
  CHECK(main[16] == doctest::Approx(0.01).epsilon(1e-14));
}
