// Copies of a model on threads of the host, each with a team of its own: forks of one state go on
// at the same time, with drafts and without, and are bitwise what they are one after another. For
// the thread sanitizer as well.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/decode/drafting.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/layers/observer.hpp>
#include <ds4/model.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/paths.hpp>
#include <support/sequences.hpp>

namespace {

using Model = ds4::Model<ds4::models::tiny_flash, ds4::Simd>;
using State = Model::State;

Model model() {
  return Model::load(ds4::test::data_dir("tiny-flash"), ds4::Simd({.threads = 2, .adapts = false}));
}

/// Reads some tokens, goes on with drafts, and takes some of it back; the state as it is saved.
std::string go_on(Model& model, State state, std::uint32_t seed) {
  model.prefill(state, ds4::test::random_ids(40, seed));
  ds4::Sampler greedy({.temperature = 0});
  auto length = ds4::DraftLength::fixed(2);
  std::int32_t next = static_cast<std::int32_t>(seed);
  for (int step = 0; step < 8; ++step) {
    next = ds4::decode_with_drafts(model, state, next, greedy, length, 8).back();
  }
  state.rollback(3);
  return ds4::test::saved(state);
}

}  // namespace

TEST_CASE("threads: forks that go on at the same time are what they are one after another") {
  constexpr std::uint32_t kForks = 2;
  std::vector<Model> models;
  models.push_back(model());
  models.push_back(models[0].with_team({.threads = 2, .adapts = false}));
  State parent = models[0].new_state();
  parent.keep_drafts();
  models[0].prefill(parent, ds4::test::random_ids(150, 1));

  std::vector<std::string> expected;
  for (std::uint32_t i = 0; i < kForks; ++i) expected.push_back(go_on(models[0], parent, i));
  const std::string untouched = ds4::test::saved(parent);

  for (int round = 0; round < 3; ++round) {
    std::vector<std::string> found(kForks);
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < kForks; ++i) {
      threads.emplace_back([&found, &model = models[i], i, fork = parent]() mutable {
        found[i] = go_on(model, std::move(fork), i);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(found == expected);
    CHECK(ds4::test::saved(parent) == untouched);
  }
}

namespace {

/// Begins a pass of another copy while it watches one.
class Intruder final : public ds4::StageObserver<float> {
 public:
  explicit Intruder(Model& other) : other_(other), state_(other.new_state()) {}
  void values(std::size_t, std::string_view, std::span<const float>) override {
    if (tried_) return;
    tried_ = true;
    const std::int32_t id = 1;
    try {
      other_.prefill(state_, {&id, 1});
    } catch (const ds4::Error& error) {
      message = error.what();
    }
    position = state_.position();
    is_lost = state_.is_lost();
  }

  void indices(std::size_t, std::string_view, std::span<const std::int32_t>) override {}

  std::string message;
  std::size_t position = 0;
  bool is_lost = false;

 private:
  Model& other_;
  State state_;
  bool tried_ = false;
};

}  // namespace

TEST_CASE("threads: two passes at once need two teams") {
  Model first = model();
  Model handle = first;
  Model apart = first.with_team({.threads = 1});
  const std::int32_t id = 7;
  const auto intrude = [&](Model& other) {
    Intruder intruder(other);
    State state = first.new_state();
    first.prefill(state, {&id, 1}, &intruder);
    CHECK(state.position() == 1);
    CHECK_FALSE(intruder.is_lost);
    return std::pair(intruder.message, intruder.position);
  };
  const auto [message, position] = intrude(handle);
  CHECK(message.starts_with("ds4: pass: found another on the same threads"));
  CHECK(position == 0);
  CHECK(intrude(apart) == std::pair(std::string(), std::size_t{1}));
  CHECK(intrude(handle).second == 0);  // and the team goes on
}
