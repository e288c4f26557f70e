// Tests of ds4/decode/draft_length.hpp on made-up costs and acceptances.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/draft_length.hpp>

namespace {

using ds4::DraftLength;

/// A machine: what steps cost, and how often a drafted token is accepted.
struct Machine {
  double plain = 1.0;       ///< seconds of a step without a draft
  double per_token = 0.3;   ///< more for each drafted token
  double acceptance = 0.7;  ///< of each, where those before it were accepted
  double noise = 0.0;       ///< relative, of every time
};

/// Seconds for `tokens` tokens, and the steps of each length.
struct Outcome {
  double seconds = 0.0;
  std::vector<std::size_t> steps = std::vector<std::size_t>(DraftLength::kMost + 1);
};

Outcome decode(DraftLength& length, const Machine& machine, std::size_t tokens,
               std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  Outcome outcome;
  for (std::size_t done = 0; done < tokens;) {
    ds4::DraftStep step;
    step.drafted = length.next();
    while (step.accepted < step.drafted && uniform(random) < machine.acceptance) ++step.accepted;
    step.seconds = machine.plain + machine.per_token * static_cast<double>(step.drafted);
    step.seconds *= 1.0 + machine.noise * (uniform(random) - 0.5);
    length.report(step);
    outcome.seconds += step.seconds;
    ++outcome.steps[step.drafted];
    done += step.accepted + 1;
  }
  return outcome;
}

}  // namespace

TEST_CASE("draft length: fixed, after some steps to compare with") {
  auto length = DraftLength::fixed(3);
  std::mt19937 random(1);
  const Outcome outcome = decode(length, {}, 100, random);
  CHECK(outcome.steps[0] == 4);
  CHECK(outcome.steps[3] + 4 == length.totals().steps);
  CHECK(DraftLength::fixed(100).totals().steps == 0);
  auto most = DraftLength::fixed(100);
  CHECK(decode(most, {}, 50, random).steps[DraftLength::kMost] > 0);
  auto none = DraftLength::fixed(0);
  CHECK(decode(none, {}, 50, random).steps[0] == 50);
  CHECK(none.totals().acceptance() == 0.0);
  CHECK(none.totals().speed_up() == doctest::Approx(1.0));
  CHECK(none.totals().tokens_per_pass() == 1.0);
}

TEST_CASE("draft length: never loses more than 3 % where no draft is accepted") {
  for (const double per_token : {0.05, 0.3, 0.6, 1.2}) {
    for (const double noise : {0.0, 0.1}) {
      for (const std::size_t tokens : {64u, 256u, 2000u}) {
        for (unsigned seed = 0; seed < 5; ++seed) {
          CAPTURE(per_token);
          CAPTURE(noise);
          CAPTURE(tokens);
          auto length = DraftLength::automatic();
          std::mt19937 random(seed);
          const Machine machine{1.0, per_token, 0.0, noise};
          const Outcome outcome = decode(length, machine, tokens, random);
          // The last try may end beyond what was allowed; at 1.2 a single one costs 1.2 tokens.
          const double most = tokens == 64u ? 1.05 : 1.03;
          CHECK(outcome.seconds / static_cast<double>(tokens) < most);
          CHECK(length.totals().accepted == 0);
        }
      }
    }
  }
}

TEST_CASE("draft length: comes close to the best fixed length") {
  for (const double acceptance : {0.3, 0.65, 0.9}) {
    for (const double per_token : {0.1, 0.35, 0.8}) {
      CAPTURE(acceptance);
      CAPTURE(per_token);
      constexpr std::size_t kTokens = 3000;
      const Machine machine{1.0, per_token, acceptance, 0.1};
      double best = 1e300;
      for (std::size_t n = 0; n <= DraftLength::kMostAutomatic; ++n) {
        auto fixed = DraftLength::fixed(n);
        std::mt19937 random(7);
        best = std::min(best, decode(fixed, machine, kTokens, random).seconds);
      }
      auto length = DraftLength::automatic();
      std::mt19937 random(8);
      CHECK(decode(length, machine, kTokens, random).seconds < 1.06 * best);
    }
  }
}

TEST_CASE("draft length: follows a text that changes") {
  auto length = DraftLength::automatic();
  std::mt19937 random(9);
  decode(length, {1.0, 0.3, 0.9, 0.0}, 500, random);
  // No draft is accepted any more: they stop.
  const Outcome hard = decode(length, {1.0, 0.3, 0.0, 0.0}, 500, random);
  CHECK(hard.seconds < 1.04 * 500);
  // They are again, and are found out to be.
  const Outcome easy = decode(length, {1.0, 0.3, 0.9, 0.0}, 1000, random);
  CHECK(easy.seconds < 0.75 * 1000);
}

TEST_CASE("draft length: confidences decide draft by draft, and lose no more where they mislead") {
  // A block costs 0.3 of a step, each verified token 0.1; a text changes between tokens that are
  // easy and hard, and the drafter knows which. `off`: by how much its logits are wrong.
  const auto decode_blocks = [](DraftLength& length, std::size_t tokens, double easy, double hard,
                                double off, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    constexpr std::size_t kBlock = 5;
    Outcome outcome;
    for (std::size_t done = 0; done < tokens;) {
      ds4::DraftStep step;
      const std::size_t wanted = length.next(kBlock);
      bool right = true;
      const double chance = uniform(random) < 0.5 ? easy : hard;
      while (step.drafted < wanted) {
        const double logit = std::log(chance / (1.0 - chance)) + off;
        if (!length.goes_on(step.drafted, static_cast<float>(logit))) break;
        right = right && uniform(random) < chance;
        if (right) ++step.accepted;
        ++step.drafted;
      }
      step.seconds = 1.0 + (wanted > 0 ? 0.3 : 0.0) + 0.1 * static_cast<double>(step.drafted);
      length.report(step);
      outcome.seconds += step.seconds;
      ++outcome.steps[step.drafted];
      done += step.accepted + 1;
    }
    return outcome;
  };
  for (const double off : {-1.0, 0.0, 1.0}) {
    for (unsigned seed = 0; seed < 5; ++seed) {
      CAPTURE(off);
      CAPTURE(seed);
      // Steps whose tokens are easy are drafted to the end, the others are given up early: more
      // tokens a second than with any fixed length.
      auto length = DraftLength::automatic();
      const Outcome found = decode_blocks(length, 3000, 0.95, 0.2, off, seed);
      double best = 1e300;
      for (std::size_t n = 0; n <= 5; ++n) {
        auto fixed = DraftLength::fixed(n);
        best = std::min(best, decode_blocks(fixed, 3000, 0.95, 0.2, 0.0, seed).seconds);
      }
      CHECK(found.seconds < (off == 0.0 ? 0.99 : 1.04) * best);
      // Nothing is ever accepted, whatever the drafter says.
      auto vain = DraftLength::automatic();
      CHECK(decode_blocks(vain, 2000, 1e-6, 1e-6, 14.0 + off, seed).seconds < 1.03 * 2000);
    }
  }
}

TEST_CASE("draft length: totals") {
  ds4::DraftTotals totals;
  CHECK(totals.acceptance() == 0.0);
  CHECK(totals.tokens_per_pass() == 0.0);
  CHECK(totals.speed_up() == 0.0);
  totals.add({0, 0, 1.0});
  totals.add({2, 1, 1.5});
  totals.add({2, 2, 1.5});
  CHECK(totals.steps == 3);
  CHECK(totals.acceptance() == doctest::Approx(0.75));
  CHECK(totals.tokens_per_pass() == doctest::Approx(2.0));
  CHECK(totals.speed_up() == doctest::Approx(1.0 * 6.0 / 4.0));
}
