// Tests of ds4/state/draft_state.hpp: a configuration with room for either drafter.
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fuzz/small_state.hpp>

#include <ds4/config/config.hpp>
#include <ds4/core/error.hpp>

namespace {

using ds4::DrafterKind;
using ds4::fuzz::saved;
using ds4::fuzz::State;

/// What a pass of `count` tokens of a model with this drafter leaves: rows of ones.
void take_in(State& state, DrafterKind drafter, std::size_t count) {
  using ds4::detail::StateParts;
  StateParts::expect(state, drafter, ds4::DType::f32);
  StateParts::for_each_log(state, [&](auto& log, std::size_t tokens_per_row, auto&&) {
    using Log = std::remove_reference_t<decltype(log)>;
    const std::vector<float> row(Log::kWidth, 1.0f);
    while (log.end() < (state.position() + count) / tokens_per_row) {
      log.append_row(reinterpret_cast<const std::byte*>(row.data()));
    }
  });
  StateParts::advance(state, std::vector<std::int32_t>(count, 1));
}

State loaded(const State& state) {
  std::istringstream stream(saved(state));
  return State::deserialise(stream);
}

}  // namespace

TEST_CASE("draft state: of either drafter, kept, saved, rolled back") {
  for (const DrafterKind drafter : {DrafterKind::none, DrafterKind::mtp, DrafterKind::dspark}) {
    CAPTURE(name_of(drafter));
    State state(4);
    take_in(state, drafter, 2);
    CHECK(state.drafts().kind() == DrafterKind::none);  // not asked to
    state.keep_drafts();
    CHECK(state.keeps_drafts());
    CHECK(state.drafts().kind() == DrafterKind::none);  // no pass has come yet
    take_in(state, drafter, 5);
    CHECK(state.drafts().kind() == drafter);
    const bool kept = drafter != DrafterKind::none;
    CHECK(state.drafts().reaches(7) == kept);
    CHECK_FALSE(state.drafts().reaches(6));

    State again = loaded(state);
    CHECK(saved(again) == saved(state));
    CHECK(again.keeps_drafts());
    CHECK(again.drafts().kind() == drafter);
    CHECK(again.drafts().reaches(7) == kept);

    // As far back as it has kept what a draft sees, 3 tokens.
    again.rollback(2);
    CHECK(again.drafts().reaches(5) == kept);
    again.rollback(1);
    CHECK_FALSE(again.drafts().reaches(4));
    CHECK(saved(loaded(again)) == saved(again));
  }
}

TEST_CASE("draft state: a model with another drafter begins anew") {
  State state(4);
  state.keep_drafts();
  take_in(state, DrafterKind::mtp, 6);
  CHECK(state.drafts().reaches(6));
  take_in(state, DrafterKind::dspark, 1);
  CHECK(state.drafts().kind() == DrafterKind::dspark);
  CHECK_FALSE(state.drafts().reaches(7));
  CHECK(state.drafts().mtp.ids.empty());
  take_in(state, DrafterKind::dspark, 2);
  CHECK(state.drafts().reaches(9));
  CHECK(saved(loaded(state)) == saved(state));
}

TEST_CASE("draft state: a kind that is none, or that nobody asked for, is refused") {
  State state;
  const std::string bytes = saved(state);
  constexpr std::size_t kKeeps = 8 + 4 + 8 + 3 * 8;  // magic, version, fingerprint, three numbers
  for (const auto& [keeps, kind] : std::vector<std::pair<char, char>>{{0, 1}, {1, 3}, {2, 0}}) {
    std::string other = bytes;
    other[kKeeps] = keeps;
    other[kKeeps + 1] = kind;
    std::istringstream stream(other);
    std::string error;
    try {
      State::deserialise(stream, "file");
    } catch (const ds4::Error& e) {
      error = e.what();
    }
    CHECK(error == "ds4: file: found " + std::to_string(keeps) + " and " + std::to_string(kind) +
                       " for what drafts need, expected what a drafter of this configuration "
                       "keeps");
  }
}
