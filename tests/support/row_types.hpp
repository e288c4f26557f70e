// Rows of float32 and of BF16 beside each other: states of a model that is exact, and of one that
// is not, on a backend that has both.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/dtype.hpp>
#include <ds4/model.hpp>
#include <support/sequences.hpp>

namespace ds4::test {

/// Whether all rows of a state that may be rounded are of this type, and some are there.
template <class State>
bool rows_are(const State& state, DType type) {
  std::size_t rows = 0;
  std::size_t others = 0;
  state.for_each_log([&](const auto& log, std::size_t, auto&&) {
    if (!log.kReducible) return;
    rows += log.end() - log.first();
    others += log.dtype() == type ? 0 : 1;
  });
  return rows > 0 && others == 0;
}

/// A state has rows of the type that its first pass had, whichever model goes on with it, also one
/// that was saved before it had entries, and states of both types may be in a batch.
template <class M>
void check_row_types(M& exact, M& reduced) {
  const auto ids = random_ids(400, 21);
  const std::span<const std::int32_t> all = ids;
  for (const std::size_t begin : {3u, 50u, 130u}) {  // without entries, with some, with all kinds
    CAPTURE(begin);
    auto state = exact.new_state();
    exact.prefill(state, all.first(begin));
    std::istringstream stream(saved(state));
    auto loaded = M::State::deserialise(stream);
    auto expected = exact.new_state();
    const auto right = feed(exact, expected, all, {all.size()});
    const auto rest = feed(reduced, loaded, all.subspan(begin), {64, 1, 7});
    CHECK(rows_are(loaded, DType::f32));
    CHECK(feed(reduced, state, all.subspan(begin), {9}) == rest);
    CHECK(saved(state) == saved(loaded));
    // Close to an exact model on the whole: garbage would not be. One token's picks may differ.
    double values = 0;
    double errors = 0;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      const double value = right[begin * M::V + i];
      values += std::abs(value);
      errors += std::abs(rest[i] - value);
    }
    CAPTURE(errors / values);
    CHECK(errors <= 0.03 * values);
  }

  auto wide = exact.new_state();
  auto narrow = reduced.new_state();
  exact.prefill(wide, all.first(150));
  reduced.prefill(narrow, all.first(140));
  CHECK(rows_are(wide, DType::f32));
  CHECK(rows_are(narrow, DType::bf16));
  for (const bool wide_first : {true, false}) {
    auto a = wide_first ? wide : narrow;
    auto b = wide_first ? narrow : wide;
    auto c = a;
    auto alone_a = a;
    auto alone_b = b;
    const std::vector<typename M::Sequence> batch{
        {&a, all.subspan(200, 9)}, {&b, all.subspan(220, 1)}, {&c, all.subspan(200, 9)}};
    const auto rows = reduced.forward(batch, LogitsOf::all);
    const auto rows_a = feed(reduced, alone_a, all.subspan(200, 9), {9});
    const auto rows_b = feed(reduced, alone_b, all.subspan(220, 1), {1});
    CHECK(std::ranges::equal(rows.view().rows(0, 9).flat(), rows_a));
    CHECK(std::ranges::equal(rows.view().rows(9, 1).flat(), rows_b));
    CHECK(std::ranges::equal(rows.view().rows(10, 9).flat(), rows_a));
    CHECK(saved(a) == saved(alone_a));
    CHECK(saved(b) == saved(alone_b));
  }

  // A state that has been rolled back to its start is still what it was.
  auto start = exact.new_state();
  exact.prefill(start, all.first(40));
  start.rollback(40);
  reduced.prefill(start, all.first(200));
  CHECK(rows_are(start, DType::f32));
}

}  // namespace ds4::test
