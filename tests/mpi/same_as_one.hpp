// What several ranks have to pass: all that a model gives is bit for bit what one process gives.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/mpi.hpp>
#include <ds4/model.hpp>
#include <support/drafts.hpp>
#include <support/sequences.hpp>

namespace ds4::test {

/// The logits of one pass, of chunks and of single tokens, and the states behind them.
template <class Ranks, class One>
void check_same_passes(Ranks& ranks, One& one, std::size_t tokens) {
  const auto ids = random_ids(tokens, 1);
  for (const std::vector<std::size_t>& sizes :
       std::vector<std::vector<std::size_t>>{{tokens}, {5, 64, 1, 130, 100}, {1}}) {
    auto of_ranks = ranks.new_state();
    auto of_one = one.new_state();
    CHECK(feed(ranks, of_ranks, ids, sizes) == feed(one, of_one, ids, sizes));
    CHECK(saved(of_ranks) == saved(of_one));
    if (sizes[0] == tokens) {
      CHECK(ranks.greedy(of_ranks, std::span(ids).first(1)) ==
            one.greedy(of_one, std::span(ids).first(1)));
    }
  }
}

/// Two sequences in a pass.
template <class Ranks, class One>
void check_same_batch(Ranks& ranks, One& one) {
  const auto ids = random_ids(100, 2);
  const auto logits_of = [&](auto& model) {
    auto first = model.new_state();
    auto second = model.new_state();
    using Sequence = typename std::remove_reference_t<decltype(model)>::Sequence;
    const std::array<Sequence, 2> batch{Sequence{&first, std::span(ids).first(37)},
                                        Sequence{&second, std::span(ids).last(63)}};
    const auto logits = model.forward(batch, LogitsOf::all);
    const auto next =
        model.forward(std::array<Sequence, 2>{Sequence{&first, std::span(ids).first(1)},
                                              Sequence{&second, std::span(ids).last(1)}},
                      LogitsOf::last);
    std::vector<float> all(logits.flat().begin(), logits.flat().end());
    all.insert(all.end(), next.flat().begin(), next.flat().end());
    return all;
  };
  CHECK(logits_of(ranks) == logits_of(one));
}

/// A state that is rolled back, and one that goes from the ranks to one process and back.
template <class Ranks, class One>
void check_same_states(Ranks& ranks, One& one) {
  const auto ids = random_ids(300, 3);
  const std::span<const std::int32_t> all = ids;
  auto of_ranks = ranks.new_state();
  auto of_one = one.new_state();
  ranks.prefill(of_ranks, all.first(260));
  one.prefill(of_one, all.first(260));
  of_ranks.rollback(11);
  of_one.rollback(11);
  std::istringstream from_one(saved(of_one));
  std::istringstream from_ranks(saved(of_ranks));
  auto on_ranks = Ranks::State::deserialise(from_one);
  auto on_one = One::State::deserialise(from_ranks);
  const auto expected = feed(one, of_one, all.subspan(249), {40, 1});
  CHECK(feed(ranks, of_ranks, all.subspan(249), {40, 1}) == expected);
  CHECK(feed(ranks, on_ranks, all.subspan(249), {40, 1}) == expected);
  CHECK(feed(one, on_one, all.subspan(249), {40, 1}) == expected);
}

/// Drafts, all logits that they are chosen by, and what is left of them.
template <class Ranks, class One>
void check_same_drafts(Ranks& ranks, One& one) {
  const auto ids = random_ids(200, 4);
  const std::span<const std::int32_t> all = ids;
  auto of_ranks = drafting_state(ranks, 20);
  auto of_one = drafting_state(one, 20);
  for (const std::size_t size : {std::size_t{150}, std::size_t{1}, std::size_t{20}}) {
    ranks.prefill(of_ranks, all.subspan(of_ranks.position(), size));
    one.prefill(of_one, all.subspan(of_one.position(), size));
    const auto drafted = draft(one, of_one, 7, 4);
    CHECK_FALSE(drafted.first.empty());
    CHECK(draft(ranks, of_ranks, 7, 4) == drafted);
    CHECK(saved(of_ranks) == saved(of_one));
  }
}

}  // namespace ds4::test
