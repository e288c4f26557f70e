// Tests of ds4/core/row_log.hpp: against a log that keeps every row for ever.
#include <algorithm>
#include <cstddef>
#include <random>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/row_log.hpp>

namespace {

/// What a RowLog must look like: all rows ever appended, and the first that counts.
template <class T, std::size_t Width>
struct Model {
  std::vector<T> rows;
  std::size_t first = 0;

  std::size_t end() const { return rows.size() / Width; }

  void check(const ds4::RowLog<T, Width>& log) const {
    REQUIRE(log.first() == first);
    REQUIRE(log.end() == end());
    std::size_t wrong = 0;
    for (std::size_t row = first; row < end(); ++row) {
      for (std::size_t c = 0; c < Width; ++c) {
        if (log.row(row)[c] != rows[row * Width + c]) ++wrong;
      }
      if (log.row(row) != log.row(first) + (row - first) * Width) ++wrong;  // contiguous
    }
    CHECK(wrong == 0);
  }
};

}  // namespace

TEST_CASE("row log: starts empty") {
  const ds4::RowLog<float, 3> log;
  CHECK(log.first() == 0);
  CHECK(log.end() == 0);
  CHECK(ds4::RowLog<float, 3>::kWidth == 3);
}

TEST_CASE("row log: rows keep their numbers when earlier ones are forgotten") {
  ds4::RowLog<int, 2> log;
  const std::vector<int> rows{0, 1, 10, 11, 20, 21, 30, 31};
  log.append({rows.data(), 4});
  log.forget_before(3);
  CHECK(log.first() == 3);
  CHECK(log.end() == 4);
  CHECK(log.row(3)[0] == 30);
  CHECK(log.row(3)[1] == 31);
  log.forget_before(2);  // forgotten already: nothing changes
  CHECK(log.first() == 3);
  log.forget_before(9);  // beyond the end: what is there goes, the numbering goes on
  CHECK(log.first() == 4);
  CHECK(log.end() == 4);
  log.append({rows.data(), 1});
  CHECK(log.end() == 5);
  CHECK(log.row(4)[1] == 1);
}

TEST_CASE_TEMPLATE("row log: random appends, drops and copies", T, float, double) {
  constexpr std::size_t kWidth = 3;
  std::mt19937 random(4);
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random()) % limit; };
  ds4::RowLog<T, kWidth> log;
  Model<T, kWidth> model;
  for (int step = 0; step < 2000; ++step) {
    if (below(3) > 0) {
      std::vector<T> rows(below(6) * kWidth);
      std::ranges::generate(rows, [&] { return static_cast<T>(random() % 1000); });
      log.append({rows.data(), rows.size() / kWidth});
      model.rows.insert(model.rows.end(), rows.begin(), rows.end());
    } else {
      // Mostly near the front, at times anywhere from 0 to beyond the end.
      const std::size_t row = below(4) == 0 ? below(model.end() + 3)
                                            : model.first + below(model.end() - model.first + 1);
      log.forget_before(row);
      model.first = std::max(model.first, std::min(row, model.end()));
    }
    if (below(50) == 0) {
      // A copy does not follow the original, and an original does not follow its copy.
      auto copy = log;
      const std::vector<T> row(kWidth, T(-1));
      log.append({row.data(), 1});
      log.forget_before(log.end());
      model.check(copy);
      log = copy;
      copy.append({row.data(), 1});
    }
    model.check(log);
  }
  CHECK(model.first > 100);  // the run was not all appends
}

TEST_CASE("row log: a sliding window over a long sequence keeps its rows") {
  // The use in a layer's window: one row in, the oldest out.
  ds4::RowLog<float, 1> log;
  std::size_t wrong = 0;
  for (std::size_t t = 0; t < 5000; ++t) {
    const float row = static_cast<float>(t);
    log.append({&row, 1});
    log.forget_before(t + 1 - std::min<std::size_t>(t + 1, 127));
    for (std::size_t p = log.first(); p < log.end(); ++p) {
      if (*log.row(p) != static_cast<float>(p)) ++wrong;
    }
  }
  CHECK(log.first() == 4873);
  CHECK(log.end() == 5000);
  CHECK(wrong == 0);
}
