// A look inside while a sequence grows agrees with the probe of single positions.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/inspect/attention_probe.hpp>
#include <ds4/inspect/live_look.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/austen.hpp>
#include <support/paths.hpp>

namespace {

using Model = ds4::Model<ds4::models::austen, ds4::Simd>;

std::vector<std::int32_t> ids_of(std::size_t count) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>(i * 37 % 2000));
  return ids;
}

}  // namespace

TEST_CASE("live look: shares are the means over the heads, pass by pass, of the last token") {
  Model model = Model::load(ds4::test::models("/austen"), ds4::Simd({.threads = 1, .exact = true}));
  const auto ids = ids_of(270);
  ds4::LiveLook look(model.config(), model.checkpoint(), 100'000);
  auto state = model.new_state();
  std::size_t taken = 0;
  for (const std::size_t end : {100u, 130u, 131u, 256u, 257u, 270u}) {
    model.forward(state, std::span(ids).subspan(taken, end - taken), &look);
    taken = end;
    CHECK(look.position() == end - 1);
    ds4::AttentionProbe<> probe(model.config(), model.checkpoint(), end - 1);
    auto other = model.new_state();
    model.forward(other, std::span(ids).first(end), &probe);
    REQUIRE(look.layers().size() == probe.layers().size());
    for (std::size_t l = 0; l < look.layers().size(); ++l) {
      CAPTURE(l);
      const ds4::LayerLook& seen = look.layers()[l];
      const ds4::Attended& expected = probe.layers()[l];
      CHECK(seen.layer.compress_ratio == expected.layer.compress_ratio);
      CHECK(seen.experts.size() == model.config().num_experts_per_tok);
      const std::size_t columns = expected.window.size() + expected.entries.size() + 1;
      const std::size_t heads = model.config().num_attention_heads;
      REQUIRE(seen.attended.size() == columns - 1);
      const auto mean = [&](std::size_t column) {
        double sum = 0.0;
        for (std::size_t h = 0; h < heads; ++h) sum += expected.probabilities[h * columns + column];
        return sum / static_cast<double>(heads);
      };
      CHECK(seen.sink == doctest::Approx(mean(columns - 1)));
      for (std::size_t i = 0; i + 1 < columns; ++i) {
        const bool in_window = i < expected.window.size();
        const std::size_t ratio = expected.layer.compress_ratio;
        const std::size_t first =
            in_window ? expected.window[i] : expected.entries[i - expected.window.size()] * ratio;
        const std::size_t last = in_window ? first : first + ratio - 1;
        const auto at = std::ranges::find_if(seen.attended, [&](const auto& tokens) {
          return tokens.first == first && tokens.last == last;
        });
        REQUIRE(at != seen.attended.end());
        CHECK(at->share == doctest::Approx(mean(i)));
      }
      CHECK(std::ranges::is_sorted(seen.attended, std::greater(), &ds4::AttendedTokens::share));
    }
  }
  // Another sequence begins.
  auto next = model.new_state();
  model.forward(next, std::span(ids).first(5), &look);
  CHECK(look.position() == 4);
  CHECK(look.layers().front().attended.size() == 5);
}
