// Stopping a pass: wherever it is stopped, the states are bit for bit those of before, and what
// follows is what would have followed.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/layers/stop.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::random_ids;

using Plain = ds4::Model<ds4::models::tiny_flash>;
using Simd = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;

constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();

/// With several lanes where the backend has them: all of them have to stop together.
template <class M>
M load() {
  if constexpr (!std::is_same_v<M, Plain>) {
    return M::load(ds4::test::data_dir(ds4::test::folder_of<M>()), ds4::Simd({.threads = 3}));
  } else {
    return M::load(ds4::test::data_dir(ds4::test::folder_of<M>()));
  }
}

template <class State>
std::string bytes_of(const State& state) {
  std::ostringstream stream;
  state.serialise(stream);
  return stream.str();
}

template <class Logits>
std::vector<float> values_of(const Logits& logits) {
  return {logits.flat().begin(), logits.flat().end()};
}

/// A check that gives true when it is asked for the n-th time, from 0.
class StopAt {
 public:
  explicit StopAt(std::size_t n) : n_(n) {}
  ds4::StopCheck check() {
    return [this] { return asked_++ >= n_; };
  }
  std::size_t asked() const { return asked_; }

 private:
  std::size_t n_;
  std::size_t asked_ = 0;
};

/// Sets a flag in a layer of a pass, and counts the parts that are open.
class Flagging final : public ds4::StageObserver<float> {
 public:
  void values(std::size_t, std::string_view, std::span<const float>) override {}
  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}
  void begin_pass(std::span<const ds4::Segment>, std::size_t) override { ++open; }
  void begin_layer(const ds4::LayerInfo& layer) override {
    ++open;
    if (layer.layer == 2) flag = true;
    if (layer.layer > 2) behind = true;
  }
  void begin_region(std::string_view) override { ++open; }
  void end() noexcept override { --open; }

  bool flag = false;
  bool behind = false;
  int open = 0;
};

}  // namespace

TEST_CASE_TEMPLATE("stop: the state is as before, and what follows as usual", M, Plain, Simd,
                   QuantSimd) {
  M model = load<M>();
  const auto ids = random_ids(170, 3);
  const std::span<const std::int32_t> all = ids;
  auto state = model.new_state();
  state.keep_drafts();
  model.prefill(state, all.first(23));
  const auto rest = all.subspan(23);
  const std::string before = bytes_of(state);

  auto usual = state;
  const auto logits = values_of(model.prefill(usual, rest));
  const std::string after = bytes_of(usual);

  // One that never stops changes nothing, in however many passes it is taken in.
  StopAt never(kNever);
  auto asked = state;
  CHECK(values_of(model.prefill(asked, rest, nullptr, never.check())) == logits);
  CHECK(bytes_of(asked) == after);
  CHECK(never.asked() >= 8 * M::Config::num_hidden_layers);  // each layer has more parts than that

  std::vector<std::size_t> places{0, 1, 2, 3, 4, 5, 6, 7, never.asked() - 1};
  for (std::size_t n = 11; n < never.asked(); n += 29) places.push_back(n);
  for (const std::size_t n : places) {
    CAPTURE(n);
    StopAt stop(n);
    CHECK_THROWS_AS(model.prefill(state, rest, nullptr, stop.check()), ds4::Stopped);
    CHECK(stop.asked() == n + 1);  // at once, not some parts later
    CHECK(state.position() == 23);
    CHECK(bytes_of(state) == before);
  }
  CHECK(values_of(model.prefill(state, rest)) == logits);
  CHECK(bytes_of(state) == after);
}

TEST_CASE_TEMPLATE("stop: batches, the likeliest token, and an observer", M, Plain, Simd) {
  M model = load<M>();
  const auto ids = random_ids(100, 4);
  const std::span<const std::int32_t> all = ids;
  auto first = model.new_state();
  auto second = model.new_state();
  model.prefill(first, all.first(30));
  const std::string first_bytes = bytes_of(first);
  const std::string second_bytes = bytes_of(second);
  const std::vector<typename M::Sequence> batch{{&first, all.subspan(30)}, {&second, all.first(9)}};
  auto first_usual = first;
  auto second_usual = second;
  const std::vector<typename M::Sequence> usual_batch{{&first_usual, all.subspan(30)},
                                                      {&second_usual, all.first(9)}};
  const auto usual = values_of(model.forward(usual_batch, ds4::LogitsOf::all));

  StopAt stop(20);
  CHECK_THROWS_AS(model.forward(batch, ds4::LogitsOf::all, nullptr, stop.check()), ds4::Stopped);
  CHECK(bytes_of(first) == first_bytes);
  CHECK(bytes_of(second) == second_bytes);
  StopAt again(20);
  CHECK(ds4::test::error_text([&] { model.greedy(first, all.subspan(30), again.check()); }) ==
        "ds4: pass: stopped before its end");
  CHECK(bytes_of(first) == first_bytes);

  // What an observer saw begin has its end.
  Flagging observer;
  CHECK_THROWS_AS(model.forward(first, all.subspan(30), &observer, [&] { return observer.flag; }),
                  ds4::Stopped);
  CHECK(observer.flag);
  CHECK_FALSE(observer.behind);
  CHECK(observer.open == 0);
  CHECK(bytes_of(first) == first_bytes);

  CHECK(values_of(model.forward(batch, ds4::LogitsOf::all)) == usual);
  CHECK(bytes_of(first) == bytes_of(first_usual));
  CHECK(bytes_of(second) == bytes_of(second_usual));
}

TEST_CASE_TEMPLATE("stop: asked for by another thread", M, Plain, Simd) {
  M model = load<M>();
  auto state = model.new_state();
  const std::string before = bytes_of(state);
  std::atomic<bool> begun = false;
  std::atomic<bool> wanted = false;
  std::thread other([&] {
    while (!begun) std::this_thread::yield();
    wanted = true;
  });
  // The pass goes on until the other thread has come to it, whatever else the machine does.
  const auto check = [&] {
    begun = true;
    while (!wanted) std::this_thread::yield();
    return true;
  };
  CHECK_THROWS_AS(model.prefill(state, random_ids(200, 5), nullptr, check), ds4::Stopped);
  other.join();
  CHECK(bytes_of(state) == before);
}
