// The scheduler: what shares the passes changes no token, no token is taken in twice, and requests
// are ended, refused and resumed as they should be.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/austen.hpp>
#include <ds4/serve/scheduler.hpp>
#include <ds4/serve/served_model_of.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/paths.hpp>

namespace {

using ds4::ErrorKind;
using ds4::Scheduler;
using ds4::SchedulerOptions;
using ds4::SequenceEnd;
using ds4::SequenceRequest;
using ds4::SequenceResult;
using ds4::test::TempDir;
using Ids = std::vector<std::int32_t>;
using Model = ds4::Model<ds4::models::austen, ds4::Simd>;
using Served = ds4::ServedModelOf<ds4::models::austen, ds4::Simd>;

// One thread: tests run beside each other.
Model load() { return Model::load(ds4::test::models("/austen"), ds4::Simd({.threads = 1})); }

Ids random_prompt(std::size_t size, std::uint32_t seed) {
  std::mt19937 random(seed);
  Ids ids{0};
  while (ids.size() < size) ids.push_back(static_cast<std::int32_t>(2 + random() % 2000));
  return ids;
}

/// What a request got.
struct Answer {
  Ids ids;
  std::vector<ds4::ServedToken> tokens;
  std::vector<ds4::ServedToken> prompt;
  SequenceResult result;
  bool over = false;
};

SequenceRequest request_for(Answer& answer, Ids ids, std::size_t max_tokens, std::uint64_t seed,
                            float temperature = 1.0f) {
  SequenceRequest request{.ids = std::move(ids), .max_tokens = max_tokens};
  request.choice.sampler = {.temperature = temperature, .top_p = 0.9f, .seed = seed};
  request.on_token = [&answer](const ds4::ServedToken& token) {
    answer.ids.push_back(token.id);
    answer.tokens.push_back(token);
    return true;
  };
  request.on_prompt = [&answer](std::vector<ds4::ServedToken> tokens) {
    answer.prompt = std::move(tokens);
  };
  request.on_end = [&answer](const SequenceResult& result) {
    CHECK_FALSE(answer.over);
    answer.result = result;
    answer.over = true;
  };
  return request;
}

/// The tokens of a run of the model alone.
Ids alone(Model& model, const Ids& prompt, std::size_t count, std::uint64_t seed,
          float temperature = 1.0f) {
  ds4::Sampler sampler({.temperature = temperature, .top_p = 0.9f, .seed = seed});
  auto state = model.new_state();
  Ids ids{sampler(model.prefill(state, prompt).flat())};
  while (ids.size() < count) ids.push_back(sampler(model.decode(state, ids.back()).flat()));
  return ids;
}

void run(Scheduler& scheduler) {
  while (scheduler.step()) {
  }
}

}  // namespace

TEST_CASE("scheduler: random arrivals, each sequence is bitwise that of a lone run") {
  Model model = load();
  Served served(load());
  Scheduler scheduler(served, {.parallel = 4, .piece = 48});
  std::mt19937 random(7);
  struct Case {
    Ids prompt;
    std::size_t count;
    float temperature;
    Answer answer;
  };
  std::vector<std::unique_ptr<Case>> cases;
  const Ids common = random_prompt(130, 99);
  while (cases.size() < 24) {
    auto& one = *cases.emplace_back(std::make_unique<Case>());
    const auto seed = static_cast<std::uint32_t>(cases.size());
    one.prompt = random_prompt(1 + random() % 200, seed);
    if (seed % 3 == 0) {  // a beginning that others have, of random length
      const auto shared = static_cast<std::ptrdiff_t>(1 + random() % common.size());
      one.prompt.insert(one.prompt.begin(), common.begin(), common.begin() + shared);
    }
    one.count = 1 + random() % 30;
    one.temperature = seed % 4 == 0 ? 0.0f : 1.0f;
    auto request = request_for(one.answer, one.prompt, one.count, seed, one.temperature);
    request.client = std::to_string(seed % 3);
    scheduler.submit(std::move(request));
    for (auto steps = random() % 12; steps > 0; --steps) scheduler.step();
  }
  run(scheduler);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Case& one = *cases[i];
    REQUIRE(one.answer.over);
    CHECK(one.answer.result.end == SequenceEnd::length);
    CHECK(one.answer.ids == alone(model, one.prompt, one.count, i + 1, one.temperature));
  }
  CHECK(scheduler.counts().finished == cases.size());
  CHECK(scheduler.counts().running == 0);
  CHECK(scheduler.counts().cached > 0);
}

TEST_CASE(
    "scheduler: drafts of a fixed length, the tokens are those of a lone run with such drafts") {
  Served served(load());
  Served other(load());
  const SchedulerOptions options{.parallel = 6, .piece = 64, .draft = ds4::DraftLength::fixed(2)};
  Scheduler together(served, options);
  std::vector<Answer> answers(6);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    together.submit(request_for(answers[i], random_prompt(20 + 31 * i, static_cast<unsigned>(i)),
                                40, i, i % 2 == 0 ? 1.0f : 0.0f));
    for (std::size_t steps = 0; steps < 3 * i; ++steps) together.step();
  }
  run(together);
  Model model = load();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    Scheduler lone(other, options);
    Answer answer;
    const Ids prompt = random_prompt(20 + 31 * i, static_cast<unsigned>(i));
    lone.submit(request_for(answer, prompt, 40, i, i % 2 == 0 ? 1.0f : 0.0f));
    run(lone);
    CHECK(answers[i].ids == answer.ids);
    CHECK(answer.ids.size() == 40);
    if (i % 2 == 1) CHECK(answer.ids == alone(model, prompt, 40, i, 0.0f));
  }
}

TEST_CASE("scheduler: no token of a prompt is taken in that has been seen before") {
  Served served(load());
  Scheduler scheduler(served, {.parallel = 4, .piece = 64});
  const Ids common = random_prompt(400, 1);
  std::vector<Answer> answers(8);
  for (std::size_t i = 0; i < answers.size(); ++i) {  // all at once
    Ids prompt = common;
    for (int k = 0; k < 10; ++k) prompt.push_back(static_cast<std::int32_t>(100 + i));
    scheduler.submit(request_for(answers[i], prompt, 5, i));
  }
  run(scheduler);
  CHECK(scheduler.counts().prefilled == 400 + 8 * 10);
  CHECK(scheduler.counts().cached == 7 * 400);

  // A chat: each turn has the one before in front, cut anywhere.
  Ids chat = random_prompt(70, 2);
  std::size_t unseen = chat.size() - 1;  // all prompts here begin with the same token
  const std::size_t before = scheduler.counts().prefilled;
  for (std::size_t turn = 0; turn < 10; ++turn) {
    Answer answer;
    scheduler.submit(request_for(answer, chat, 20 + turn, turn));
    run(scheduler);
    CHECK(scheduler.counts().prefilled - before == unseen);
    const std::size_t known = chat.size() + answer.ids.size() - 1;  // the last is not taken in
    chat.insert(chat.end(), answer.ids.begin(), answer.ids.end());
    chat.resize(known - 3 * turn);  // the client forgets some
    for (std::size_t k = 0; k < 15; ++k) {
      chat.push_back(static_cast<std::int32_t>(300 + 20 * turn + k));
    }
    unseen += 15;
  }
}

TEST_CASE("scheduler: states are found again on the disk, and damaged ones are not used") {
  const TempDir dir;
  const Ids prompt = random_prompt(4200, 3);  // longer than a piece of the file
  Answer first;
  const SchedulerOptions options{.piece = 500, .cache = {.folder = dir.path() / "cache"}};
  {
    Served served(load());
    Scheduler scheduler(served, options);
    scheduler.submit(request_for(first, prompt, 8, 1));
    run(scheduler);
    scheduler.save(std::chrono::minutes(5));
    CHECK(scheduler.counts().cache.disk_states == scheduler.counts().cache.memory_states);
  }
  Ids longer = prompt;
  longer.push_back(77);
  Served served(load());
  Model model = load();
  {
    Scheduler scheduler(served, options);
    Answer again;
    scheduler.submit(request_for(again, prompt, 8, 1));
    run(scheduler);
    CHECK(again.ids == first.ids);
    CHECK(scheduler.counts().prefilled == 1);
    Answer answer;
    scheduler.submit(request_for(answer, longer, 8, 1));
    run(scheduler);
    CHECK(answer.ids == alone(model, longer, 8, 1));
    CHECK(answer.result.cached_tokens == prompt.size());
  }
  for (const auto& entry : std::filesystem::directory_iterator(options.cache.folder)) {
    std::string bytes = ds4::test::content_of(entry.path());
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    dir.write("cache/" + entry.path().filename().string(), bytes);
  }
  Scheduler scheduler(served, options);
  Answer answer;
  scheduler.submit(request_for(answer, longer, 8, 1));
  run(scheduler);
  CHECK(answer.ids == alone(model, longer, 8, 1));
  CHECK(answer.result.cached_tokens == 0);
  CHECK(scheduler.counts().cache.failures > 0);
}

TEST_CASE("scheduler: sequences that outgrow the memory of states wait and go on bitwise") {
  Model model = load();
  Served served(load());
  // A byte a token: 4 sequences of 100 and what their next passes may add do not fit.
  Scheduler scheduler(served, {.parallel = 4,
                               .piece = 34,
                               .state_bytes = 300,
                               .planned_state = [](std::size_t tokens) { return tokens; },
                               .cache = {.memory_bytes = 0}});
  std::vector<Answer> answers(4);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    scheduler.submit(request_for(answers[i], random_prompt(20, static_cast<unsigned>(i)), 80, i));
  }
  std::size_t most = 0;
  while (scheduler.step()) most = std::max(most, scheduler.counts().state_bytes);
  CHECK(most <= 300);
  CHECK(scheduler.counts().preempted > 0);
  CHECK(scheduler.counts().repeated > 0);
  CHECK(scheduler.counts().prefilled == 4 * 20);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CHECK(answers[i].ids == alone(model, random_prompt(20, static_cast<unsigned>(i)), 80, i));
  }
  Answer answer;
  auto request = request_for(answer, random_prompt(280, 1), 1, 1);
  CHECK_THROWS_WITH_AS(scheduler.submit(request),
                       "ds4: prompt: found 280 tokens, whose state takes 315 bytes, expected at "
                       "most 300",
                       ds4::Error);
}

TEST_CASE("scheduler: requests end when they are cancelled, told to, or at an end token") {
  Model model = load();
  Served served(load());
  Scheduler scheduler(served, {.parallel = 2, .piece = 64});
  Answer running;
  Answer waiting;
  Answer stopped;
  Answer ended;
  const Ids prompt = random_prompt(90, 5);
  const auto id = scheduler.submit(request_for(running, prompt, 1000, 1));
  auto stopping = request_for(stopped, prompt, 1000, 2);
  stopping.on_token = [&](const ds4::ServedToken& token) {
    stopped.ids.push_back(token.id);
    return stopped.ids.size() < 6;
  };
  scheduler.submit(stopping);
  scheduler.step();
  auto late = request_for(waiting, prompt, 10, 3);
  late.client = "late";
  const auto late_id = scheduler.submit(late);
  for (int i = 0; i < 4; ++i) scheduler.step();
  CHECK(scheduler.counts().running == 2);
  scheduler.cancel(late_id);
  scheduler.step();
  CHECK(waiting.over);
  CHECK(waiting.result.end == SequenceEnd::cancelled);
  CHECK(waiting.ids.empty());
  CHECK_FALSE(running.over);
  scheduler.cancel(id);
  run(scheduler);
  CHECK(running.result.end == SequenceEnd::cancelled);
  CHECK(running.ids.size() < 20);
  CHECK(stopped.result.end == SequenceEnd::stop);
  CHECK(stopped.ids == alone(model, prompt, 6, 2));

  auto ending = request_for(ended, prompt, 1000, 2);
  ending.ends = {stopped.ids[3]};
  scheduler.submit(ending);
  run(scheduler);
  CHECK(ended.result.end == SequenceEnd::stop);
  CHECK(ended.ids.back() == stopped.ids[3]);
  CHECK(ended.ids.size() <= 4);
}

TEST_CASE("scheduler: what it cannot take is refused") {
  Served served(load());
  Scheduler scheduler(served, {.waiting = 1, .context = 100});
  Answer answer;
  const auto refuse = [&](SequenceRequest request, const std::string& message, ErrorKind kind) {
    try {
      scheduler.submit(std::move(request));
      FAIL_CHECK("taken: " << message);
    } catch (const ds4::Error& error) {
      CHECK(std::string(error.what()) == message);
      CHECK(error.kind() == kind);
    }
  };
  refuse(request_for(answer, {}, 1, 1), "ds4: prompt: found no token, expected at least one",
         ErrorKind::input);
  refuse(request_for(answer, {0, 5000}, 1, 1), "ds4: prompt: found id 5000, expected 0 to 2047",
         ErrorKind::input);
  refuse(request_for(answer, random_prompt(100, 1), 1, 1),
         "ds4: prompt: found 100 tokens, expected fewer than the 100 of the context",
         ErrorKind::context);
  refuse(request_for(answer, {0}, 1, 1, -1.0f),
         "ds4: temperature: expected a finite number, at least 0, found -1.000000",
         ErrorKind::input);
  scheduler.submit(request_for(answer, random_prompt(90, 1), 50, 1));
  Answer other;
  refuse(request_for(other, {0}, 1, 1),
         "ds4: scheduler: found 1 requests that wait, expected fewer", ErrorKind::memory);
  run(scheduler);
  CHECK(answer.ids.size() == 10);  // to the end of the context
  CHECK(answer.result.end == SequenceEnd::length);
  CHECK(scheduler.counts().refused == 1);
}

TEST_CASE("scheduler: a long prompt stops nobody, and clients take turns") {
  Served served(load());
  Scheduler scheduler(served, {.parallel = 8, .piece = 40});
  Answer talking;
  auto first = request_for(talking, random_prompt(10, 1), 1000, 1);
  first.client = "talking";
  scheduler.submit(first);
  scheduler.step();
  Answer long_one;
  auto second = request_for(long_one, random_prompt(2000, 2), 1, 1);
  second.client = "long";
  scheduler.submit(second);
  scheduler.step();
  Answer short_one;
  auto third = request_for(short_one, random_prompt(60, 3), 3, 1);
  third.client = "short";
  scheduler.submit(third);
  const std::size_t before = talking.ids.size();
  for (int i = 0; i < 10; ++i) scheduler.step();
  CHECK(talking.ids.size() == before + 10);  // a token for each pass
  CHECK(short_one.over);
  CHECK_FALSE(long_one.over);
}

TEST_CASE("scheduler: log-probabilities of the prompt and of what is generated") {
  Model model = load();
  Served served(load());
  Scheduler scheduler(served, {.piece = 64});
  const Ids prompt = random_prompt(150, 4);
  Answer answer;
  auto request = request_for(answer, prompt, 3, 1);
  request.logprobs = request.prompt_logprobs = true;
  request.top_logprobs = 2;
  scheduler.submit(request);
  run(scheduler);
  REQUIRE(answer.prompt.size() == prompt.size() - 1);
  REQUIRE(answer.tokens.size() == 3);
  auto state = model.new_state();
  Ids all = prompt;
  all.insert(all.end(), answer.ids.begin(), answer.ids.end());
  const auto logits = model.forward(state, std::span(all).first(all.size() - 1));
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const auto& token =
        i + 1 < prompt.size() ? answer.prompt[i] : answer.tokens[i + 1 - prompt.size()];
    const auto [chosen, likeliest] = ds4::log_probabilities(logits[i].flat(), all[i + 1], 2);
    CHECK(token.id == all[i + 1]);
    CHECK(token.logprob.logprob == chosen.logprob);
    REQUIRE(token.likeliest.size() == 2);
    CHECK(token.likeliest[0].id == ds4::argmax(logits[i].flat()));
    CHECK(token.likeliest[1].logprob == likeliest[1].logprob);
  }
}

TEST_CASE("scheduler: a thread that runs it, requests from others, and closing") {
  Model model = load();
  Served served(load());
  Scheduler scheduler(served, {.parallel = 3, .piece = 64});
  std::thread runner([&] { scheduler.run(); });
  std::vector<Answer> answers(9);
  std::vector<std::thread> clients;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    clients.emplace_back([&, i] {
      scheduler.submit(request_for(answers[i], random_prompt(30, static_cast<unsigned>(i)), 12, i));
    });
  }
  for (std::thread& client : clients) client.join();
  Answer endless;
  scheduler.submit(request_for(endless, random_prompt(30, 50), 15000, 1));
  while (scheduler.counts().finished < answers.size()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  scheduler.close(std::chrono::milliseconds(1));
  runner.join();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CHECK(answers[i].ids == alone(model, random_prompt(30, static_cast<unsigned>(i)), 12, i));
  }
  CHECK(endless.result.end == SequenceEnd::cancelled);
  CHECK_THROWS_AS(scheduler.submit(request_for(endless, {0}, 1, 1)), ds4::Error);
}
