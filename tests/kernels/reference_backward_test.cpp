// Tests of ds4/kernels/reference/backward/*: every gradient against central differences in float64.
//
// Each operation's outputs are weighed with random numbers and added up; the derivative of that sum
// by every input is compared. With a step of 1e-5 the difference's own error is about 1e-10 of the
// function's third derivative and 1e-11 of rounding, so 1e-7 of the largest gradient bounds it.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/kernels/reference/attention.hpp>
#include <ds4/kernels/reference/backward/attention.hpp>
#include <ds4/kernels/reference/backward/compressor.hpp>
#include <ds4/kernels/reference/backward/hyper_connection.hpp>
#include <ds4/kernels/reference/backward/indexer.hpp>
#include <ds4/kernels/reference/backward/linear.hpp>
#include <ds4/kernels/reference/backward/loss.hpp>
#include <ds4/kernels/reference/backward/norm.hpp>
#include <ds4/kernels/reference/backward/router.hpp>
#include <ds4/kernels/reference/backward/swiglu.hpp>
#include <ds4/kernels/reference/compressor.hpp>
#include <ds4/kernels/reference/hyper_connection.hpp>
#include <ds4/kernels/reference/indexer.hpp>
#include <ds4/kernels/reference/norm.hpp>
#include <ds4/kernels/reference/rotary.hpp>
#include <ds4/kernels/reference/router.hpp>
#include <ds4/kernels/reference/swiglu.hpp>
#include <support/compare.hpp>

namespace {

namespace reference = ds4::reference;
using Values = std::vector<double>;

Values random(std::size_t count, double scale = 1.0) {
  static std::mt19937 generator(1);
  std::normal_distribution<double> normal(0.0, scale);
  Values values(count);
  for (double& value : values) value = normal(generator);
  return values;
}

double dot(const Values& a, const Values& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Compares `gradient` with the central differences of loss() by x, which loss() reads.
void check_gradient(const std::string& name, Values& x, const Values& gradient,
                    const std::function<double()>& loss) {
  REQUIRE(gradient.size() == x.size());
  constexpr double kStep = 1e-5;
  Values expected(x.size());
  double top = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + kStep;
    const double above = loss();
    x[i] = at - kStep;
    expected[i] = (above - loss()) / (2.0 * kStep);
    x[i] = at;
    top = std::max(top, std::abs(expected[i]));
  }
  CHECK(top > 0.0);
  ds4::test::check_close(name, std::span<const double>(gradient), std::span<const double>(expected),
                         1e-7 * std::max(top, 1e-3));
}

}  // namespace

TEST_CASE("backward: linear and grouped linear") {
  constexpr std::size_t S = 3;
  constexpr std::size_t G = 2;
  constexpr std::size_t kOuts = 5;
  constexpr std::size_t kIns = 7;
  Values x = random(S * G * kIns);
  Values w = random(G * kOuts * kIns);
  const Values dy = random(S * G * kOuts);
  const auto loss = [&] {
    Values y(S * G * kOuts);
    for (std::size_t s = 0; s < S; ++s) {
      for (std::size_t o = 0; o < G * kOuts; ++o) {
        for (std::size_t i = 0; i < kIns; ++i) {
          y[s * G * kOuts + o] += w[o * kIns + i] * x[s * G * kIns + o / kOuts * kIns + i];
        }
      }
    }
    return dot(y, dy);
  };
  Values dx(x.size());
  Values dw(w.size());
  reference::grouped_linear_backward(dx.data(), dw.data(), dy.data(), x.data(), w.data(), S, G,
                                     kOuts, kIns);
  check_gradient("x", x, dx, loss);
  check_gradient("w", w, dw, loss);
  // Gradients are added to what is there; without a place for those of w, x has its own alone.
  Values more = dx;
  reference::grouped_linear_backward<double>(more.data(), nullptr, dy.data(), x.data(), w.data(), S,
                                             G, kOuts, kIns);
  for (std::size_t i = 0; i < dx.size(); ++i) CHECK(more[i] == doctest::Approx(2.0 * dx[i]));
}

TEST_CASE("backward: RMS norm, with and without a weight") {
  constexpr std::size_t kRows = 3;
  constexpr std::size_t n = 6;
  Values x = random(kRows * n);
  Values weight = random(n);
  const Values dy = random(kRows * n);
  for (const bool weighted : {true, false}) {
    const double* w = weighted ? weight.data() : nullptr;
    const auto loss = [&] {
      Values y(x.size());
      reference::rms_norm(y.data(), x.data(), w, kRows, n, 1e-2);
      return dot(y, dy);
    };
    Values dx(x.size());
    Values dweight(n);
    reference::rms_norm_backward(dx.data(), weighted ? dweight.data() : nullptr, dy.data(),
                                 x.data(), w, kRows, n, 1e-2);
    check_gradient("x", x, dx, loss);
    if (weighted) check_gradient("weight", weight, dweight, loss);
  }
}

TEST_CASE("backward: a rotation's gradient is rotated back") {
  constexpr std::size_t kPairs = 2;
  Values x = random(2 * 3 * 6);  // two tokens, three heads of six
  const Values angle = random(2 * kPairs);
  Values cos(angle.size());
  Values sin(angle.size());
  std::ranges::transform(angle, cos.begin(), [](double a) { return std::cos(a); });
  std::ranges::transform(angle, sin.begin(), [](double a) { return std::sin(a); });
  const Values dy = random(x.size());
  Values dx = dy;
  reference::rotate(dx.data(), cos.data(), sin.data(), 2, 3, 6, kPairs, true);
  check_gradient("x", x, dx, [&] {
    Values y = x;
    reference::rotate(y.data(), cos.data(), sin.data(), 2, 3, 6, kPairs, false);
    return dot(y, dy);
  });
}

TEST_CASE("backward: SwiGLU, at the clamps and away from them") {
  constexpr double kLimit = 1.5;
  Values gate = random(40, 2.0);
  Values up = random(40, 2.0);
  // Right beside the limits, on both sides, further than a difference's step.
  gate[0] = kLimit + 1e-4;
  gate[1] = kLimit - 1e-4;
  gate[2] = -30.0;  // clamped from above only
  up[3] = kLimit + 1e-4;
  up[4] = kLimit - 1e-4;
  up[5] = -kLimit - 1e-4;
  up[6] = -kLimit + 1e-4;
  const Values dy = random(40);
  const auto loss = [&] {
    Values y = gate;
    reference::swiglu(y.data(), up.data(), y.size(), kLimit);
    return dot(y, dy);
  };
  Values dgate(40);
  Values dup(40);
  reference::swiglu_backward(dgate.data(), dup.data(), dy.data(), gate.data(), up.data(), 40,
                             kLimit);
  check_gradient("gate", gate, dgate, loss);
  check_gradient("up", up, dup, loss);
  CHECK(dgate[0] == 0.0);
  CHECK(dup[3] == 0.0);
  CHECK(dup[5] == 0.0);
  // At a limit itself the gradient passes, as below it.
  const double limit = kLimit;
  const double one = 1.0;
  double at_gate = 0.0;
  double at_up = 0.0;
  reference::swiglu_backward(&at_gate, &at_up, &one, &limit, &limit, 1, kLimit);
  CHECK(at_gate > 0.0);
  CHECK(at_up > 0.0);
}

TEST_CASE("backward: hyper-connection weights through all Sinkhorn rounds") {
  constexpr std::size_t S = 2;
  constexpr double kEps = 1e-3;
  for (const std::size_t N : {2u, 4u}) {
    for (const std::size_t iters : {1u, 2u, 20u}) {
      CAPTURE(N);
      CAPTURE(iters);
      const std::size_t width = (2 + N) * N;
      Values u = random(S * width);
      Values base = random(width);
      Values scale = random(3);
      const Values dpre = random(S * N);
      const Values dpost = random(S * N);
      const Values dcomb = random(S * N * N);
      const auto loss = [&] {
        Values pre(S * N);
        Values post(S * N);
        Values comb(S * N * N);
        reference::hyper_connection_weights(pre.data(), post.data(), comb.data(), u.data(),
                                            base.data(), scale.data(), S, N, iters, kEps);
        return dot(pre, dpre) + dot(post, dpost) + dot(comb, dcomb);
      };
      Values du(u.size());
      Values dbase(width);
      Values dscale(3);
      reference::hyper_connection_weights_backward(
          du.data(), dbase.data(), dscale.data(), dpre.data(), dpost.data(), dcomb.data(), u.data(),
          base.data(), scale.data(), S, N, iters, kEps);
      check_gradient("u", u, du, loss);
      check_gradient("base", base, dbase, loss);
      check_gradient("scale", scale, dscale, loss);
    }
  }
}

TEST_CASE("backward: the final collapse's weights, collapsing and mixing streams") {
  constexpr std::size_t S = 2;
  constexpr std::size_t N = 3;
  constexpr std::size_t D = 5;
  {
    Values u = random(S * N);
    Values base = random(N);
    Values scale = random(1);
    const Values dpre = random(S * N);
    const auto loss = [&] {
      Values pre(S * N);
      reference::hyper_head_weights(pre.data(), u.data(), base.data(), scale.data(), S, N, 1e-6);
      return dot(pre, dpre);
    };
    Values du(u.size());
    Values dbase(N);
    Values dscale(1);
    reference::hyper_head_weights_backward(du.data(), dbase.data(), dscale.data(), dpre.data(),
                                           u.data(), base.data(), scale.data(), S, N);
    check_gradient("head u", u, du, loss);
    check_gradient("head base", base, dbase, loss);
    check_gradient("head scale", scale, dscale, loss);
  }
  Values X = random(S * N * D);
  Values pre = random(S * N);
  const Values dc = random(S * D);
  {
    const auto loss = [&] {
      Values c(S * D);
      reference::collapse_streams(c.data(), X.data(), pre.data(), S, N, D);
      return dot(c, dc);
    };
    Values dX(X.size());
    Values d(pre.size());
    reference::collapse_streams_backward(dX.data(), d.data(), dc.data(), X.data(), pre.data(), S, N,
                                         D);
    check_gradient("collapse X", X, dX, loss);
    check_gradient("collapse pre", pre, d, loss);
  }
  Values post = random(S * N);
  Values comb = random(S * N * N);
  Values y = random(S * D);
  const Values dout = random(X.size());
  const auto loss = [&] {
    Values out = X;
    Values old(N);
    reference::mix_streams(out.data(), post.data(), comb.data(), y.data(), old.data(), S, N, D);
    return dot(out, dout);
  };
  Values dX = dout;
  Values dpost(post.size());
  Values dcomb(comb.size());
  Values dy(y.size());
  reference::mix_streams_backward(dX.data(), dpost.data(), dcomb.data(), dy.data(), X.data(),
                                  post.data(), comb.data(), y.data(), S, N, D);
  check_gradient("mix X", X, dX, loss);
  check_gradient("mix post", post, dpost, loss);
  check_gradient("mix comb", comb, dcomb, loss);
  check_gradient("mix y", y, dy, loss);
}

TEST_CASE("backward: the experts' weights, for scores of every size") {
  constexpr std::size_t k = 3;
  Values logits = random(8, 3.0);
  logits[5] = -12.0;  // next to no score
  logits[2] = 25.0;
  const std::vector<std::int32_t> experts{5, 2, 7};
  const Values dweights = random(k);
  const auto loss = [&] {
    Values scores(logits.size());
    Values weights(k);
    std::ranges::transform(logits, scores.begin(), reference::sqrt_softplus<double>);
    reference::expert_weights(weights.data(), experts.data(), scores.data(), k, 2.5);
    return dot(weights, dweights);
  };
  Values dlogits(logits.size());
  reference::expert_weights_backward(dlogits.data(), dweights.data(), experts.data(), logits.data(),
                                     k, 2.5);
  check_gradient("logits", logits, dlogits, loss);
  CHECK(dlogits[0] == 0.0);  // not picked
  // Far out, nothing overflows.
  CHECK(std::isfinite(reference::sqrt_softplus_slope(-700.0)));
  CHECK(std::isfinite(reference::sqrt_softplus_slope(700.0)));
}

TEST_CASE("backward: pooled windows, overlapping ones, and the first of these") {
  constexpr std::size_t m = 3;
  constexpr std::size_t d = 4;
  for (const bool overlapping : {false, true}) {
    for (const std::size_t w : {0u, 1u}) {
      CAPTURE(overlapping);
      CAPTURE(w);
      const std::size_t width = overlapping ? 2 * d : d;
      Values kv = random(2 * m * width);
      Values gate = random(2 * m * width);
      Values ape = random(m * width);
      const Values dout = random(d);
      const auto rows = [&](const Values& of) {
        return [&of, width](std::size_t t) { return of.data() + t * width; };
      };
      const auto loss = [&] {
        Values out(d);
        if (overlapping) {
          reference::pool_overlapping(out.data(), w, m, d, ape.data(), rows(kv), rows(gate));
        } else {
          reference::pool_window(out.data(), w, m, d, ape.data(), rows(kv), rows(gate));
        }
        return dot(out, dout);
      };
      Values dkv(kv.size());
      Values dgate(gate.size());
      Values dape(ape.size());
      std::vector<reference::PoolSlot<double>> slots;
      std::vector<reference::PoolSlotGradient<double>> gradients;
      const auto slot = [&](std::size_t token, std::size_t j, std::size_t half) {
        const std::size_t at = token * width + half;
        slots.push_back({kv.data() + at, gate.data() + at, ape.data() + j * width + half});
        gradients.push_back({dkv.data() + at, dgate.data() + at, dape.data() + j * width + half});
      };
      for (std::size_t j = 0; overlapping && w > 0 && j < m; ++j) slot((w - 1) * m + j, j, 0);
      for (std::size_t j = 0; j < m; ++j) slot(w * m + j, j, overlapping ? d : 0);
      reference::pool_backward(gradients, dout.data(), slots, d);
      check_gradient("kv", kv, dkv, loss);
      check_gradient("gate", gate, dgate, loss);
      check_gradient("ape", ape, dape, loss);
    }
  }
}

TEST_CASE("backward: attention with a sink, a key that is seen twice, and without a key") {
  constexpr std::size_t H = 3;
  constexpr std::size_t d = 4;
  Values q = random(H * d);
  Values sink = random(H);
  Values rows = random(3 * d);
  const Values dout = random(H * d);
  std::vector<const double*> keys;
  const auto loss = [&] {
    Values out(H * d);
    reference::attend(out.data(), q.data(), sink.data(), keys, H, d);
    return dot(out, dout);
  };
  for (const std::vector<std::size_t>& seen :
       {std::vector<std::size_t>{0, 1, 2}, std::vector<std::size_t>{1, 2, 1}}) {
    Values dq(q.size());
    Values dsink(H);
    Values drows(rows.size());
    keys.clear();
    std::vector<double*> dkeys;
    for (const std::size_t row : seen) {
      keys.push_back(rows.data() + row * d);
      dkeys.push_back(drows.data() + row * d);
    }
    reference::attend_backward(dq.data(), dsink.data(), dkeys, dout.data(), q.data(), sink.data(),
                               keys, H, d);
    check_gradient("q", q, dq, loss);
    check_gradient("sink", sink, dsink, loss);
    check_gradient("keys", rows, drows, loss);
  }
  Values dq(q.size());
  Values dsink(H);
  reference::attend_backward(dq.data(), dsink.data(), {}, dout.data(), q.data(), sink.data(), {}, H,
                             d);
  CHECK(dq == Values(q.size()));
  CHECK(dsink == Values(H));
}

TEST_CASE("backward: the indexer's scores") {
  constexpr std::size_t n = 5;
  constexpr std::size_t nI = 3;
  constexpr std::size_t dI = 4;
  Values q = random(nI * dI);
  Values weight = random(nI);
  Values keys = random(n * dI);
  const Values dscore = random(n);
  const auto key = [&](std::size_t w) { return keys.data() + w * dI; };
  const auto loss = [&] {
    Values score(n);
    reference::index_scores(score.data(), q.data(), weight.data(), n, nI, dI, key);
    return dot(score, dscore);
  };
  Values dq(q.size());
  Values dweight(nI);
  Values dkeys(keys.size());
  reference::index_scores_backward(
      dq.data(), dweight.data(), [&](std::size_t w) { return dkeys.data() + w * dI; },
      dscore.data(), q.data(), weight.data(), n, nI, dI, key);
  check_gradient("q", q, dq, loss);
  check_gradient("weight", weight, dweight, loss);
  check_gradient("keys", keys, dkeys, loss);
}

TEST_CASE("backward: cross-entropy") {
  Values logits = random(9, 3.0);
  for (const std::int32_t target : {0, 4, 8}) {
    Values dlogits(9);
    const double loss = reference::cross_entropy(dlogits.data(), logits.data(), target, 9, 0.25);
    double sum = 0.0;
    for (const double logit : logits) sum += std::exp(logit);
    CHECK(loss ==
          doctest::Approx(std::log(sum) - logits[static_cast<std::size_t>(target)]).epsilon(1e-12));
    check_gradient("logits", logits, dlogits, [&] {
      Values ignored(9);
      return 0.25 * reference::cross_entropy(ignored.data(), logits.data(), target, 9, 1.0);
    });
  }
  // Over the logits themselves, and far apart.
  Values far{1000.0, -1000.0, 0.0};
  CHECK(reference::cross_entropy(far.data(), far.data(), 1, 3, 1.0) == doctest::Approx(2000.0));
  CHECK(far[0] == doctest::Approx(1.0));
  CHECK(far[1] == doctest::Approx(-1.0));
}

TEST_CASE("backward: the losses of drafts, where what the confidence is to say is a constant") {
  constexpr std::size_t V = 9;
  Values logits = random(2 * V, 2.0);
  Values confidence = random(2, 2.0);
  const Values of_model = random(2 * V, 2.0);
  const Values weights{0.7, 0.25};
  const std::vector<std::int32_t> targets{3, 8};
  const ds4::DraftRows<double> rows{logits.data(), confidence.data(), of_model.data(),
                                    targets.data(), weights.data()};
  const auto sum = [&](const ds4::DraftLossWeights& of, Values& dlogits, Values& dconfidence) {
    double total = 0.0;
    for (std::size_t s = 0; s < 2; ++s) {
      const auto loss =
          reference::draft_loss(dlogits.data() + s * V, dconfidence[s], rows, s, V, of);
      CHECK(loss.cross_entropy > 0.0);
      CHECK(loss.distance > 0.0);
      CHECK(loss.distance < 2.0);
      total += weights[s] * (of.cross_entropy * loss.cross_entropy + of.distance * loss.distance +
                             of.confidence * loss.confidence);
    }
    return total;
  };
  Values dlogits(2 * V);
  Values dconfidence(2);
  Values unused(2 * V);
  Values unused_too(2);
  const ds4::DraftLossWeights of_logits{0.3, 0.9, 0.0};
  sum(of_logits, dlogits, dconfidence);
  CHECK(dconfidence == Values(2));
  check_gradient("logits", logits, dlogits, [&] { return sum(of_logits, unused, unused_too); });
  const ds4::DraftLossWeights of_confidence{0.0, 0.0, 0.8};
  sum(of_confidence, dlogits, dconfidence);
  CHECK(dlogits == Values(2 * V));
  check_gradient("confidence", confidence, dconfidence,
                 [&] { return sum(of_confidence, unused, unused_too); });
  // A draft that is the model's own distribution is always accepted, which a sure confidence says.
  const ds4::DraftRows<double> same{logits.data(), confidence.data(), logits.data(), targets.data(),
                                    weights.data()};
  confidence[0] = 800.0;
  const auto sure = reference::draft_loss(dlogits.data(), dconfidence[0], same, 0, V, {});
  CHECK(sure.distance == 0.0);
  CHECK(sure.confidence == 0.0);
}

TEST_CASE("backward: the balance loss, whose picks are constants") {
  constexpr std::size_t S = 5;
  constexpr std::size_t E = 4;
  constexpr std::size_t k = 2;
  Values logits = random(S * E, 2.0);
  const std::vector<std::int32_t> experts{0, 1, 0, 2, 3, 0, 1, 0, 0, 2};
  const auto loss = [&] {
    Values unused(S * E);
    return 0.7 *
           reference::balance_loss(unused.data(), experts.data(), logits.data(), S, E, k, 1.0);
  };
  Values dlogits(S * E);
  const double value =
      reference::balance_loss(dlogits.data(), experts.data(), logits.data(), S, E, k, 0.7);
  check_gradient("logits", logits, dlogits, loss);
  // Where the experts share the scores evenly it is 1, whatever was picked.
  const Values even(S * E, 0.3);
  Values unused(S * E);
  CHECK(reference::balance_loss(unused.data(), experts.data(), even.data(), S, E, k, 1.0) ==
        doctest::Approx(1.0));
  CHECK(value > 0.0);
}

TEST_CASE("backward: the indexer's divergence") {
  Values score = random(6, 2.0);
  const Values received{0.4, 0.0, 1.3, 0.2, 0.05, 0.9};
  const auto loss = [&] {
    Values unused(6);
    return 0.7 * reference::divergence(unused.data(), score.data(), received.data(), 6, 1.0);
  };
  Values dscore(6);
  reference::divergence(dscore.data(), score.data(), received.data(), 6, 0.7);
  check_gradient("score", score, dscore, loss);
  // Scores that say what was received have no divergence; nothing received says nothing.
  Values same(6);
  for (std::size_t i = 0; i < 6; ++i) same[i] = std::log(received[i] + 1e-300);
  CHECK(reference::divergence(dscore.data(), same.data(), received.data(), 6, 1.0) ==
        doctest::Approx(0.0));
  const Values nothing(6);
  CHECK(reference::divergence(dscore.data(), score.data(), nothing.data(), 6, 1.0) == 0.0);
  CHECK(dscore == Values(6));
}
