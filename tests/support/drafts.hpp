// What a backend's drafts have to pass: the golden logits of the multi-token-prediction layer, and
// states that drafts leave no trace in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/dtype.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/model.hpp>
#include <support/compare.hpp>
#include <support/golden.hpp>
#include <support/golden_model.hpp>
#include <support/sequences.hpp>

namespace ds4::test {

template <class M>
typename M::State drafting_state(M& model, std::size_t rollback_limit) {
  auto state = model.new_state(rollback_limit);
  state.keep_drafts();
  return state;
}

/// Whether two states hold the same: every log ends at the same row, and the rows that both have
/// are the same bytes.
template <class State>
bool same_rows(const State& a, const State& b) {
  std::vector<std::vector<std::string>> rows[2];
  std::vector<std::size_t> firsts[2];
  const State* const states[2] = {&a, &b};
  for (std::size_t i = 0; i < 2; ++i) {
    states[i]->for_each_log([&](const auto& log, std::size_t, auto&&) {
      firsts[i].push_back(log.first());
      auto& of_log = rows[i].emplace_back();
      std::string row(log.kWidth * ds4::dtype_size(log.dtype()), '\0');
      for (std::size_t r = log.first(); r < log.end(); ++r) {
        log.copy_row(r, reinterpret_cast<std::byte*>(row.data()));
        of_log.push_back(row);
      }
    });
  }
  for (std::size_t l = 0; l < firsts[0].size(); ++l) {
    const std::size_t first = std::max(firsts[0][l], firsts[1][l]);
    const auto tail = [&](std::size_t i) {
      const std::size_t skipped = std::min(first - firsts[i][l], rows[i][l].size());
      return std::span(rows[i][l]).subspan(skipped);
    };
    if (!std::ranges::equal(tail(0), tail(1))) return false;
  }
  if constexpr (State::Drafts::kHasMtp) {
    // The tokens of the last rows: as many as both have.
    const auto& of_a = a.drafts().mtp.ids;
    const auto& of_b = b.drafts().mtp.ids;
    const std::size_t ids = std::min(of_a.size(), of_b.size());
    if (!std::ranges::equal(std::span(of_a).last(ids), std::span(of_b).last(ids))) return false;
  }
  return a.position() == b.position();
}

/// The greedy draft, and all logits that it was chosen by.
template <class M>
std::pair<std::vector<std::int32_t>, std::vector<float>> draft(M& model, typename M::State& state,
                                                               std::int32_t next,
                                                               std::size_t count) {
  std::vector<float> all;
  auto ids = model.draft(state, next, count, [&](std::span<const float> logits) {
    all.insert(all.end(), logits.begin(), logits.end());
    return ds4::argmax(logits);
  });
  return {std::move(ids), std::move(all)};
}

/// The golden logits and streams of quant's extra layer, whatever passes the tokens come in: bit
/// for bit the same. Tolerances are those of golden_model.hpp.
template <class M>
void check_golden_mtp(M& model) {
  const Golden golden(data_dir("quant") / "mtp.safetensors");
  const Golden main_golden(data_dir("quant") / "golden.safetensors");
  const std::vector<std::int32_t> ids = main_golden.indices("input_ids");
  const std::span<const float> expected = golden.values("mtp_logits");
  const std::span<const float> streams = golden.values("mtp_streams");
  double top = 0.0;
  for (const float value : streams) top = std::max(top, std::abs(static_cast<double>(value)));

  std::vector<float> one_pass;
  for (const std::vector<std::size_t>& sizes :
       std::vector<std::vector<std::size_t>>{{300}, {5, 64, 1, 130, 100}, {1}}) {
    auto state = drafting_state(model, 300);
    Recorder<float> recorder;
    std::vector<float> logits;
    std::span<const std::int32_t> left = ids;
    for (std::size_t i = 0; !left.empty(); ++i) {
      const std::size_t size = std::min(left.size(), sizes[std::min(i, sizes.size() - 1)]);
      model.forward(state, left.first(size));
      const auto rows = model.mtp_logits(state, &recorder);
      logits.insert(logits.end(), rows.flat().begin(), rows.flat().end());
      left = left.subspan(size);
    }
    check_close("mtp_logits", std::span(std::as_const(logits)), expected,
                1.2e-5 * standard_deviation(expected));
    const std::string output = "layers." + std::to_string(M::Config::num_hidden_layers) + ".output";
    check_close("mtp_streams", std::span(std::as_const(recorder.values().at(output))), streams,
                4e-6 * top);
    if (one_pass.empty()) one_pass = logits;
    CHECK(logits == one_pass);
  }
}

/// A run of `tokens` tokens, each pass with a draft behind them that is partly or wholly wrong, and
/// with another sequence beside: logits and states are bitwise those of a run that never drafted.
template <class M>
void check_no_trace_of_drafts(M& model, std::size_t tokens) {
  constexpr std::size_t kLimit = 9;
  const auto ids = random_ids(tokens + 8, 20);
  const auto other_ids = random_ids(3 * tokens, 21);
  const std::span<const std::int32_t> all = ids;
  auto never = drafting_state(model, kLimit);
  std::vector<float> logits;  // of a run that never drafted
  std::vector<typename M::State> at_edges;
  const auto lengths = edges<typename M::Config>();
  for (std::size_t done = 0, e = 0; done < tokens; ++e) {
    const std::size_t end = e < lengths.size() ? lengths[e] : tokens;
    const auto rows = feed(model, never, all.subspan(done, end - done), {100, 1});
    logits.insert(logits.end(), rows.begin(), rows.end());
    at_edges.push_back(never);
    done = end;
  }

  std::mt19937 random(22);
  auto state = drafting_state(model, kLimit);
  auto other = drafting_state(model, kLimit);  // a sequence beside it, some tokens ahead
  model.prefill(other, std::span(other_ids).first(70));
  model.prefill(state, all.first(1));
  std::size_t wrong = 0;
  std::size_t compared = 0;
  while (state.position() < tokens) {
    // A draft; as the text is random, its first tokens are set right and the others are wrong.
    const std::size_t position = state.position();
    const auto next_edge = std::ranges::upper_bound(lengths, position);
    const std::size_t end = next_edge == lengths.end() ? tokens : *next_edge;
    auto drafted = draft(model, state, ids[position], random() % 5).first;
    const std::size_t right =
        std::min<std::size_t>(random() % (drafted.size() + 1), end - position - 1);
    std::vector<std::int32_t> pass{ids[position]};
    for (std::size_t i = 0; i < drafted.size(); ++i) {
      const std::int32_t id = ids[position + 1 + i];
      pass.push_back(i < right ? id : (id + 1 + static_cast<std::int32_t>(random() % 200)) % 256);
    }
    const auto beside_drafted = draft(model, other, 5, 1 + random() % 3).first;
    std::vector<std::int32_t> beside{other_ids[other.position()]};
    beside.insert(beside.end(), beside_drafted.begin(), beside_drafted.end());
    const std::vector<typename M::Sequence> batch{{&other, beside}, {&state, pass}};
    const auto rows = model.forward(batch, ds4::LogitsOf::all);
    if (!std::ranges::equal(rows.view().rows(beside.size(), right + 1).flat(),
                            std::span(logits).subspan(position * M::V, (right + 1) * M::V))) {
      ++wrong;
    }
    other.rollback(beside_drafted.size());
    state.rollback(drafted.size() - right);

    const auto edge = std::ranges::find(lengths, state.position());
    if (edge == lengths.end()) continue;
    const auto at = static_cast<std::size_t>(edge - lengths.begin());
    ++compared;
    CHECK(same_rows(state, at_edges[at]));
    // What is drafted next is what a state without any history of drafts gives.
    auto fresh = at_edges[at];
    CHECK(draft(model, state, 7, 3) == draft(model, fresh, 7, 3));
  }
  CHECK(wrong == 0);
  CHECK(compared == lengths.size());
  auto end = at_edges.back();
  CHECK(same_rows(state, end));
  CHECK(draft(model, state, 7, 4) == draft(model, end, 7, 4));
}

/// Drafts change nothing that is saved, follow from what a state has kept, whatever happened to it,
/// and need a window of tokens that it has seen.
template <class M>
void check_drafting_states(M& model) {
  const auto ids = random_ids(400, 30);
  const std::span<const std::int32_t> all = ids;
  auto state = drafting_state(model, 20);
  CHECK(draft(model, state, 1, 3).first.empty());  // no token has been taken in
  model.prefill(state, all.first(300));
  const std::string before = saved(state);
  auto fork = state;
  const auto drafted = draft(model, fork, 3, 4);
  CHECK(drafted.first.size() == 4);
  CHECK(saved(fork) == before);
  CHECK(draft(model, fork, 3, 4) == drafted);
  CHECK(draft(model, fork, 9, 2) != draft(model, fork, 3, 2));

  // A saved state drafts alike, and so does one that was rolled back.
  std::istringstream stream(before);
  auto loaded = M::State::deserialise(stream);
  CHECK(loaded.keeps_drafts());
  CHECK(draft(model, loaded, 3, 4) == drafted);
  model.prefill(loaded, all.subspan(300, 20));
  draft(model, loaded, 1, 2);
  loaded.rollback(20);
  CHECK(draft(model, loaded, 3, 4) == drafted);

  // A state that begins to keep drafts later can draft one window later, and then alike.
  auto late = model.new_state(20);
  CHECK_FALSE(late.keeps_drafts());
  model.prefill(late, all.first(20));
  CHECK(draft(model, late, 3, 4).first.empty());
  late.keep_drafts();
  CHECK(draft(model, late, 3, 4).first.empty());
  if constexpr (M::State::Drafts::kHasMtp) CHECK(model.mtp_logits(late).extent(0) == 0);
  constexpr std::size_t W = M::Config::sliding_window;
  model.prefill(late, all.subspan(20, W - 1));
  CHECK(draft(model, late, 3, 4).first.empty());
  std::istringstream late_stream(saved(late));
  late = M::State::deserialise(late_stream);
  model.prefill(late, all.subspan(20 + W - 1, 300 - (20 + W - 1)));
  CHECK(draft(model, late, 3, 4) == drafted);
  late.rollback(20);
  CHECK(draft(model, late, 3, 1).first.size() == 1);

  // Back behind its beginning it has nothing to draft from, and begins there.
  auto behind = model.new_state(20);
  model.prefill(behind, all.first(20));
  behind.keep_drafts();
  model.prefill(behind, all.subspan(20, 5));
  behind.rollback(10);
  CHECK(draft(model, behind, 3, 1).first.empty());
  model.prefill(behind, all.subspan(15, 285));
  CHECK(draft(model, behind, 3, 4) == drafted);
}

}  // namespace ds4::test
