// Tests of ds4/decode/sampler.hpp: choice, truncation, distribution, reproducibility and errors.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/sampler.hpp>

namespace {

using ds4::Sampler;
using ds4::SamplerOptions;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Logits whose softmax at temperature 1 is in proportion to weights.
std::vector<float> logits_of(const std::vector<double>& weights) {
  std::vector<float> logits;
  for (const double weight : weights) logits.push_back(static_cast<float>(std::log(weight)));
  return logits;
}

std::vector<int> counts(SamplerOptions options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options);
  std::vector<int> count(logits.size());
  for (int i = 0; i < draws; ++i) ++count.at(static_cast<std::size_t>(sampler(logits)));
  return count;
}

/// Pearson's statistic of counts against probabilities; a zero probability wants a zero count.
double chi_square(const std::vector<int>& count, const std::vector<double>& probability) {
  double draws = 0;
  for (const int n : count) draws += n;
  double sum = 0;
  for (std::size_t i = 0; i < count.size(); ++i) {
    const double expected = draws * probability[i];
    if (expected > 0) {
      sum += (count[i] - expected) * (count[i] - expected) / expected;
    } else {
      CHECK(count[i] == 0);
    }
  }
  return sum;
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const ds4::Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("sampler: argmax takes the lowest index of equals") {
  CHECK(ds4::argmax(std::vector<float>{-3}) == 0);
  CHECK(ds4::argmax(std::vector<float>{1, 3, 2, 3}) == 1);
  CHECK(ds4::argmax(std::vector<float>{-kInf, -5, -kInf, -5}) == 1);
  CHECK(ds4::argmax(std::vector<float>{-0.0f, 0.0f}) == 0);
}

TEST_CASE("sampler: greedy, also by truncation") {
  const std::vector<float> logits{1, 3, 2, 3};
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 0}, SamplerOptions{.top_k = 1},
        SamplerOptions{.top_p = 1e-6f}, SamplerOptions{.temperature = 1e-30f, .top_p = 0.5f},
        SamplerOptions{.temperature = 1e30f, .top_k = 1}}) {
    CHECK(counts(options, logits, 100) == std::vector<int>{0, 100, 0, 0});
  }
}

TEST_CASE("sampler: draws in proportion to softmax(logits / temperature)") {
  constexpr int kDraws = 100000;
  const std::vector<double> weights{0.4, 0, 0.3, 0.15, 0.1, 0.05};
  // 4 degrees of freedom: the statistic exceeds 23.5 with a probability of 1e-4. The seeds are
  // fixed, so a pass stays a pass.
  constexpr double kBound = 23.5;
  const std::vector<float> logits = logits_of(weights);
  CHECK(std::isinf(logits[1]));
  CHECK(chi_square(counts({.seed = 1}, logits, kDraws), weights) < kBound);

  std::vector<double> squares;
  double total = 0;
  for (const double weight : weights) total += weight * weight;
  for (const double weight : weights) squares.push_back(weight * weight / total);
  CHECK(chi_square(counts({.temperature = 0.5f, .seed = 2}, logits, kDraws), squares) < kBound);
  // and the bound tells the two apart
  CHECK(chi_square(counts({.seed = 2}, logits, kDraws), squares) > 100 * kBound);

  std::vector<float> shifted = logits;
  for (float& logit : shifted) logit += 1000;  // beyond exp() if taken as they are
  CHECK(chi_square(counts({.seed = 3}, shifted, kDraws), weights) < kBound);
}

TEST_CASE("sampler: top_k and top_p keep the likeliest, lower ids first, and renormalise") {
  constexpr int kDraws = 100000;
  constexpr double kBound = 18.4;  // 1e-4 at 2 degrees of freedom
  const std::vector<float> logits = logits_of({0.1, 0.4, 0.1, 0.2, 0.2});
  const auto check = [&](SamplerOptions options, const std::vector<double>& probability) {
    CAPTURE(options.top_k);
    CAPTURE(options.top_p);
    CHECK(chi_square(counts(options, logits, kDraws), probability) < kBound);
  };
  check({.top_k = 2}, {0, 4. / 6, 0, 2. / 6, 0});
  check({.top_k = 3}, {0, 4. / 8, 0, 2. / 8, 2. / 8});
  check({.top_p = 0.39f}, {0, 1, 0, 0, 0});
  check({.top_p = 0.41f}, {0, 4. / 6, 0, 2. / 6, 0});
  check({.top_p = 0.61f}, {0, 4. / 8, 0, 2. / 8, 2. / 8});
  // 0.49 of what top_k leaves is below 4/8; of all it would not be.
  check({.top_p = 0.49f, .top_k = 3}, {0, 1, 0, 0, 0});
  check({.top_p = 0.51f, .top_k = 3}, {0, 4. / 6, 0, 2. / 6, 0});

  // A set whose mass is top_p exactly is enough.
  const std::vector<float> equal(4, 0.5f);
  CHECK(counts({.top_p = 0.5f}, equal, 1000)[2] == 0);
  CHECK(counts({.top_p = 0.5f}, equal, 1000)[1] > 0);
  CHECK(counts({.top_k = 2}, equal, 1000)[2] == 0);
}

TEST_CASE("sampler: limits that remove nothing change nothing") {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(static_cast<float>(i * 7919 % 1000) * 0.01f);
  Sampler all(SamplerOptions{.seed = 5});
  Sampler wide(SamplerOptions{.top_k = 1000, .seed = 5});
  Sampler wider(SamplerOptions{.top_k = 2147483647, .seed = 5});
  Sampler nearly(SamplerOptions{.top_p = 0.99999994f, .seed = 5});
  for (int i = 0; i < 200; ++i) {
    const std::int32_t id = all(logits);
    CHECK(wide(logits) == id);
    CHECK(wider(logits) == id);
    CHECK(nearly(logits) == id);
  }
}

TEST_CASE("sampler: -inf is never drawn, even when top_k has to reach for it") {
  const std::vector<float> logits{-kInf, 0, -kInf, -200, -kInf};
  const std::vector<int> count = counts({.top_k = 4}, logits, 10000);
  CHECK(count == std::vector<int>{0, 10000, 0, 0, 0});
  CHECK(counts({.temperature = 1e30f}, logits, 10000)[0] == 0);
  CHECK(counts({.temperature = 1e30f}, logits, 10000)[3] > 4500);
  CHECK(counts({}, {-1e30f}, 10)[0] == 10);
}

TEST_CASE("sampler: one seed, one sequence, everywhere") {
  const std::vector<float> logits = logits_of({1, 2, 3, 4, 5, 6, 7, 8});
  const auto draw = [&](SamplerOptions options) {
    Sampler sampler(options);
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 12; ++i) ids.push_back(sampler(logits));
    return ids;
  };
  // From a separate program: MT19937-64 by its definition, top 53 bits, cumulative sums.
  CHECK(draw({.seed = 42}) == std::vector<std::int32_t>{6, 6, 6, 2, 7, 2, 5, 4, 3, 4, 0, 5});
  CHECK(draw({.top_p = 0.7f, .top_k = 6, .seed = 42}) ==
        std::vector<std::int32_t>{7, 6, 7, 4, 7, 4, 6, 5, 5, 5, 4, 6});
  CHECK(draw({.seed = 43}) != draw({.seed = 42}));
}

TEST_CASE("sampler: a copy continues with the same random numbers") {
  const std::vector<float> logits(64, 0.0f);
  Sampler first(SamplerOptions{.seed = 9});
  first(logits);
  Sampler second = first;
  CHECK(second.options().seed == 9);
  for (int i = 0; i < 20; ++i) CHECK(first(logits) == second(logits));
}

TEST_CASE("sampler: a vocabulary of the release's size") {
  std::vector<float> logits(129280);
  std::uint32_t state = 1;
  for (float& logit : logits) {
    state = state * 1664525 + 1013904223;
    logit = static_cast<float>(state >> 8) * 0x1p-22f;
  }
  for (const SamplerOptions& options :
       {SamplerOptions{}, SamplerOptions{.top_k = 50}, SamplerOptions{.top_p = 0.9f},
        SamplerOptions{.top_p = 0.9f, .top_k = 50}}) {
    Sampler sampler(options);
    for (int i = 0; i < 5; ++i) CHECK(sampler(logits) < 129280);
  }
}

TEST_CASE("sampler: errors name the option, what was expected and what was found") {
  const auto error = [](SamplerOptions options) { return error_of([&] { Sampler{options}; }); };
  const std::string temperature = "ds4: temperature: expected a finite number, at least 0, found ";
  CHECK(error({.temperature = -1}) == temperature + "-1.000000");
  CHECK(error({.temperature = kInf}) == temperature + "inf");
  CHECK(error({.temperature = kNan}) == temperature + "nan");
  const std::string top_p = "ds4: top_p: expected a number above 0, at most 1, found ";
  CHECK(error({.top_p = 0}) == top_p + "0.000000");
  CHECK(error({.top_p = 1.5f}) == top_p + "1.500000");
  CHECK(error({.top_p = kNan}) == top_p + "nan");
  CHECK(error({.top_k = -1}) == "ds4: top_k: expected at least 0, found -1");

  using Logits = std::vector<float>;
  const std::pair<Logits, std::string> wrong[] = {
      {{}, "expected from 1 to 2^31 - 1 values, found 0"},
      {{0, kNan}, "expected finite values or -inf, found nan at index 1"},
      {{kNan, 0}, "expected finite values or -inf, found nan at index 0"},
      {{0, 1, kInf}, "expected finite values or -inf, found inf at index 2"},
      {{-kInf, -kInf}, "expected a finite value, found -inf in all 2"},
  };
  for (const auto& [logits, text] : wrong) {
    const Logits& values = logits;
    for (const float temperature_value : {0.0f, 1.0f}) {
      Sampler sampler(SamplerOptions{.temperature = temperature_value});
      CHECK(error_of([&] { sampler(values); }) == "ds4: logits: " + text);
    }
    CHECK(error_of([&] { ds4::argmax(values); }) == "ds4: logits: " + text);
  }
}

}  // namespace

TEST_CASE("sampler: judged drafts have the distribution of the logits, whatever drew them") {
  // Eight tokens: p by the logits, q by others that are close, far, or certain of one token. The
  // bound is the 99.9 % quantile of chi-squared with 7 degrees of freedom, 24.3.
  const std::vector<float> logits{1.0f, 0.5f, -1.0f, 2.0f, 0.0f, -0.5f, 1.5f, -2.0f};
  const std::vector<std::vector<float>> drafters{
      {1.1f, 0.4f, -0.8f, 1.8f, 0.2f, -0.5f, 1.2f, -1.5f},
      {-2.0f, 2.0f, 3.0f, -1.0f, 0.0f, 1.0f, -3.0f, 2.0f},
      {9.0f, -30.0f, -30.0f, -30.0f, -30.0f, -30.0f, -30.0f, -30.0f}};
  for (std::size_t d = 0; d < drafters.size(); ++d) {
    for (const float top_p : {1.0f, 0.9f}) {
      CAPTURE(d);
      CAPTURE(top_p);
      ds4::Sampler sampler({.temperature = 0.8f, .top_p = top_p, .seed = 5});
      std::vector<double> p;
      ds4::Sampler(sampler.options()).draft(logits, p);
      std::vector<double> counts(8);
      constexpr int kSamples = 40000;
      for (int i = 0; i < kSamples; ++i) {
        std::vector<double> q;
        const std::int32_t drafted = sampler.draft(drafters[d], q);
        ++counts[static_cast<std::size_t>(sampler.judge(logits, drafted, q))];
      }
      double chi_squared = 0.0;
      for (std::size_t i = 0; i < 8; ++i) {
        if (p[i] == 0.0) {
          CHECK(counts[i] == 0.0);
          continue;
        }
        chi_squared += std::pow(counts[i] - kSamples * p[i], 2.0) / (kSamples * p[i]);
      }
      CHECK(chi_squared < 24.3);
    }
  }
}

TEST_CASE("sampler: drafts and verdicts at temperature 0, and what is refused") {
  ds4::Sampler greedy({.temperature = 0});
  const std::vector<float> logits{1.0f, 3.0f, 2.0f};
  std::vector<double> q{1.0};
  CHECK(greedy.draft(logits, q) == 1);
  CHECK(q.empty());
  CHECK(greedy.judge(logits, 1, q) == 1);
  CHECK(greedy.judge(logits, 2, q) == 1);

  ds4::Sampler sampler;
  const auto refused = [&](std::int32_t drafted, std::vector<double> probabilities) {
    return error_of([&] { sampler.judge(logits, drafted, probabilities); });
  };
  const std::string expected =
      "ds4: draft: expected one of 3 tokens with a probability above 0, found ";
  CHECK(refused(0, {}) == expected + "0 of 0");
  CHECK(refused(3, {0.5, 0.5, 0.0}) == expected + "3 of 3");
  CHECK(refused(-1, {0.5, 0.5, 0.0}) == expected + "-1 of 3");
  CHECK(refused(2, {0.5, 0.5, 0.0}) == expected + "2 of 3");
  // The same distribution: every draft is accepted.
  for (int i = 0; i < 200; ++i) {
    const std::int32_t drafted = sampler.draft(logits, q);
    CHECK(sampler.judge(logits, drafted, q) == drafted);
  }
}

TEST_CASE("sampler: what is never to be drawn is not, neither as a choice nor as a draft") {
  // The likeliest ids by far, one of them with a logit that is no number.
  const std::vector<float> logits{1.0f, 50.0f, 0.5f, kNan, 2.0f, 60.0f, 0.0f, kInf};
  const std::vector<std::int32_t> never{1, 3, 5, 7, 8, 1000000, -1};
  const auto is_allowed = [&](std::int32_t id) { return std::ranges::count(never, id) == 0; };
  Sampler greedy({.temperature = 0, .never = never});
  std::vector<double> q;
  CHECK(greedy(logits) == 4);
  CHECK(greedy.draft(logits, q) == 4);
  CHECK(greedy.judge(logits, 2, q) == 4);
  const std::vector<float> padding{-kInf, 3.0f, -kInf, 3.0f, -kInf, 3.0f, -kInf, 3.0f};
  CHECK(error_of([&] { greedy(padding); }) ==
        "ds4: logits: expected a finite value, found -inf in all 8");

  // The same tokens as from logits that lack them.
  std::vector<float> without = logits;
  for (std::size_t id = 1; id < 8; id += 2) without[id] = -kInf;
  for (const SamplerOptions& options :
       {SamplerOptions{.seed = 3}, SamplerOptions{.top_k = 3, .seed = 3},
        SamplerOptions{.top_p = 0.8f, .top_k = 3, .seed = 3}}) {
    SamplerOptions bounded = options;
    bounded.never = never;
    Sampler plain(options);
    Sampler sampler(bounded);
    std::vector<double> plain_q;
    for (int i = 0; i < 200; ++i) {
      CHECK(sampler(logits) == plain(without));
      const std::int32_t drafted = sampler.draft(logits, q);
      CHECK(drafted == plain.draft(without, plain_q));
      CHECK(is_allowed(drafted));
      CHECK(q == plain_q);
      CHECK(sampler.judge(logits, drafted, q) == plain.judge(without, drafted, plain_q));
    }
    // A draft that the model likes less: what takes its place is allowed as well.
    for (int i = 0; i < 200; ++i) {
      const std::int32_t drafted = sampler.draft(std::vector<float>(8, 0.0f), q);
      CHECK(is_allowed(sampler.judge(logits, drafted, q)));
    }
  }
}
