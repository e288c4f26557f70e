// Passes that fail: an exception in a lane, an observer's own, or no memory. It comes out of the
// call, the state that was half written is lost and says so, and everything else goes on.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/model.hpp>
#include <ds4/models/dspark.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/checkpoint_copy.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::ErrorKind;
using ds4::test::error_text;
using ds4::test::random_ids;
using ds4::test::saved;

using Plain = ds4::Model<ds4::models::tiny_flash>;
using Simd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;
using DsparkSimd = ds4::Model<ds4::models::dspark, ds4::Simd>;

template <class M>
M load(const std::filesystem::path& dir) {
  if constexpr (std::is_same_v<M, Plain>) {
    return M::load(dir);
  } else {  // several lanes, which all have to get out, and copies of experts
    return M::load(dir, ds4::Simd({.threads = 3, .memory_budget = std::size_t{1} << 20}));
  }
}
template <class M>
M load() {
  return load<M>(ds4::test::data_dir(ds4::test::folder_of<M>()));
}

/// The kind of the ds4::Error that f throws.
template <class F>
ErrorKind kind_of(F&& f) {
  try {
    f();
  } catch (const ds4::Error& error) {
    return error.kind();
  }
  FAIL("expected a ds4::Error");
  return {};
}

template <class Logits>
std::vector<float> values_of(const Logits& logits) {
  return {logits.flat().begin(), logits.flat().end()};
}

/// Throws at its n-th call, from 0, on whichever thread that is, and counts the open parts.
template <class Exception>
class Throwing final : public ds4::StageObserver<float> {
 public:
  explicit Throwing(std::size_t n) : n_(n) {}
  void values(std::size_t, std::string_view, std::span<const float>) override { call(); }
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override { call(); }
  void begin_pass(std::span<const ds4::Segment>, std::size_t) override { begin(); }
  void begin_layer(const ds4::LayerInfo&) override { begin(); }
  void begin_region(std::string_view) override { begin(); }
  void end() noexcept override { --open; }

  std::size_t calls = 0;
  int open = 0;

 private:
  void call() {
    if (calls++ == n_) throw Exception();
  }
  void begin() {
    call();
    ++open;
  }
  std::size_t n_;
};

struct Own : std::runtime_error {
  Own() : std::runtime_error("an observer's own") {}
};

}  // namespace

TEST_CASE_TEMPLATE("failing pass: an observer's own exception, at every place", M, Plain, Simd,
                   QuantSimd) {
  M model = load<M>();
  const auto ids = random_ids(60, 1);
  const std::span<const std::int32_t> all = ids;
  auto start = model.new_state();
  start.keep_drafts();
  model.prefill(start, all.first(20));
  const std::string before = saved(start);
  Throwing<Own> never(std::numeric_limits<std::size_t>::max());
  auto usual = start;
  const auto logits = values_of(model.prefill(usual, all.subspan(20), &never));
  CHECK(never.open == 0);

  std::size_t lost = 0;
  for (std::size_t n = 0; n < never.calls; n += n < 12 ? 1 : 17) {
    CAPTURE(n);
    auto state = start;
    Throwing<Own> observer(n);
    CHECK_THROWS_AS(model.prefill(state, all.subspan(20), &observer), Own);
    CHECK(observer.calls == n + 1);
    CHECK(observer.open == 0);  // what has begun has its end
    lost += state.is_lost() ? 1 : 0;
    if (state.is_lost()) {
      CHECK(kind_of([&] { model.decode(state, 1); }) == ErrorKind::lost);
    } else {
      CHECK(saved(state) == before);
    }

    // With a StopCheck, states are as before whatever was thrown.
    auto kept = start;
    Throwing<Own> again(n);
    CHECK_THROWS_AS(model.prefill(kept, all.subspan(20), &again, [] { return false; }), Own);
    CHECK(saved(kept) == before);
  }
  CHECK(lost > 10);
  // Neither the original nor the model has noticed.
  CHECK(saved(start) == before);
  CHECK(values_of(model.prefill(start, all.subspan(20))) == logits);
  CHECK(saved(start) == saved(usual));
}

TEST_CASE_TEMPLATE("failing pass: a draft that fails leaves no trace", M, QuantSimd, DsparkSimd) {
  M model = load<M>();
  auto start = model.new_state();
  start.keep_drafts();
  model.prefill(start, random_ids(150, 7));
  const std::string before = saved(start);
  const auto draft = [&](auto& state, ds4::StageObserver<float>* observer) {
    std::vector<float> all;
    model.observe_drafts(observer);
    model.draft(state, 3, 3, [&](std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
      return 5;
    });
    return all;
  };
  Throwing<Own> never(std::numeric_limits<std::size_t>::max());
  auto usual = start;
  const auto logits = draft(usual, &never);
  REQUIRE(!logits.empty());
  CHECK(never.open == 0);
  for (std::size_t n = 0; n < never.calls; n += n < 12 ? 1 : 7) {
    CAPTURE(n);
    auto state = start;
    Throwing<Own> observer(n);
    CHECK_THROWS_AS(draft(state, &observer), Own);
    CHECK(observer.open == 0);
    CHECK(saved(state) == before);
    CHECK(draft(state, nullptr) == logits);
  }
}

TEST_CASE_TEMPLATE("failing pass: no memory is an error of its kind", M, Plain, Simd) {
  M model = load<M>();
  const auto ids = random_ids(9, 2);
  auto state = model.new_state();
  Throwing<std::bad_alloc> early(0);
  CHECK(kind_of([&] { model.prefill(state, ids, &early); }) == ErrorKind::memory);
  CHECK(!state.is_lost());  // nothing was written yet
  Throwing<std::bad_alloc> late(40);
  CHECK(error_text([&] { model.prefill(state, ids, &late); }) ==
        "ds4: pass: expected memory for it, found none");
  CHECK(state.is_lost());
}

TEST_CASE("failing pass: a lost state says so, and a whole one takes its place") {
  Simd model = load<Simd>();
  const auto ids = random_ids(9, 3);
  auto state = model.new_state();
  model.prefill(state, ids);
  const auto whole = state;
  Throwing<Own> observer(60);
  CHECK_THROWS_AS(model.prefill(state, ids, &observer), Own);
  REQUIRE(state.is_lost());
  CHECK(decltype(state)(state).is_lost());
  const std::string text =
      "ds4: state: found one that a failed pass has left half written, expected a whole one";
  auto other = model.new_state();
  const std::vector<Simd::Sequence> batch{{&other, ids}, {&state, ids}};
  CHECK(error_text([&] { model.prefill(state, ids); }) == text.c_str());
  CHECK(error_text([&] { model.greedy(state, ids); }) == text.c_str());
  CHECK(error_text([&] { model.forward(batch, ds4::LogitsOf::last); }) == text.c_str());
  CHECK(other.position() == 0);
  CHECK(!other.is_lost());
  CHECK(error_text([&] { state.rollback(1); }) == text.c_str());
  CHECK(error_text([&] { saved(state); }) == text.c_str());
  state = whole;
  CHECK(!state.is_lost());
  model.decode(state, 1);
}

TEST_CASE_TEMPLATE("failing pass: logits that are not finite are no token", M, Plain, Simd) {
  ds4::test::CheckpointCopy copy("tiny-flash");
  auto& norm = copy.tensors.at("model.norm.weight");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(norm.dtype == ds4::DType::f32);
  norm.set(0, nan);
  const ds4::test::TempDir dir;
  copy.write(dir);
  M model = load<M>(dir.path());
  const auto ids = random_ids(9, 4);
  auto state = model.new_state();
  const auto logits = model.prefill(state, ids);
  CHECK_THROWS_AS(ds4::argmax(logits.flat()), ds4::Error);
  auto greedy = model.new_state();
  CHECK(error_text([&] { model.greedy(greedy, ids); }) ==
        "ds4: logits: expected finite values or -inf, at least one finite, found others");
  CHECK(saved(greedy) == saved(state));
}

TEST_CASE("failing pass: errors have kinds") {
  Simd model = load<Simd>();
  auto state = model.new_state();
  const auto long_prompt = random_ids(Simd::Config::max_position_embeddings + 1, 5);
  CHECK(kind_of([&] { model.prefill(state, long_prompt); }) == ErrorKind::context);
  CHECK(kind_of([&] { model.decode(state, -1); }) == ErrorKind::input);
  CHECK(kind_of([&] { model.prefill(state, random_ids(9, 6), nullptr, [] { return true; }); }) ==
        ErrorKind::stopped);
  CHECK(kind_of([] { Simd::load("/nowhere"); }) == ErrorKind::file);
  CHECK(kind_of([] { Simd::load(ds4::test::data_dir("quant")); }) == ErrorKind::file);
}
