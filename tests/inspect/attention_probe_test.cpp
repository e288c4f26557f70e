#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/inspect/attention_probe.hpp>
#include <ds4/layers/rotary.hpp>
#include <ds4/model.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <support/golden_model.hpp>

namespace {

using C = ds4::models::tiny_flash;
using Setup = ds4::test::GoldenCase<C, ds4::Reference<float>>;

/// Keeps all stages, and shows them to a probe.
class Both : public ds4::test::Recorder<float> {
 public:
  using Recorder::indices;
  using Recorder::values;

  explicit Both(ds4::AttentionProbe<>& probe) : probe_(probe) {}

  void values(std::size_t layer, std::string_view stage, std::span<const float> values) override {
    Recorder::values(layer, stage, values);
    if (probe_.wants(layer, stage)) probe_.values(layer, stage, values);
  }
  void indices(std::size_t layer, std::string_view stage,
               std::span<const std::int32_t> indices) override {
    Recorder::indices(layer, stage, indices);
    if (probe_.wants(layer, stage)) probe_.indices(layer, stage, indices);
  }
  void begin_pass(std::span<const ds4::Segment> segments, std::size_t logits) override {
    probe_.begin_pass(segments, logits);
  }
  void begin_layer(const ds4::LayerInfo& info) override { probe_.begin_layer(info); }

 private:
  ds4::AttentionProbe<>& probe_;
};

/// Undoes the rotation of a head's last values at a position.
void rotate_back(std::span<double> head, std::size_t position, ds4::AttentionKind kind) {
  const auto inv_freq = ds4::rotary_frequencies<C>(kind);
  double* x = head.data() + C::head_dim - C::qk_rope_head_dim;
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    const double angle = static_cast<double>(position) * inv_freq[i];
    const double even = x[2 * i];
    const double odd = x[2 * i + 1];
    x[2 * i] = even * std::cos(angle) + odd * std::sin(angle);
    x[2 * i + 1] = odd * std::cos(angle) - even * std::sin(angle);
  }
}

}  // namespace

TEST_CASE("attention_probe: the probabilities make the attention's output") {
  Setup setup;
  constexpr std::size_t H = C::num_attention_heads;
  constexpr std::size_t d = C::head_dim;
  for (const std::size_t position : {0u, 3u, 15u, 16u, 127u, 257u}) {
    for (const std::size_t chunk : {300u, 7u}) {
      CAPTURE(position);
      CAPTURE(chunk);
      ds4::AttentionProbe<> probe(setup.model.config(), setup.model.checkpoint(), position);
      Both observer(probe);
      auto state = setup.model.new_state();
      for (std::size_t begin = 0; begin < setup.ids.size(); begin += chunk) {
        const auto ids = std::span<const std::int32_t>(setup.ids);
        setup.model.forward(state, ids.subspan(begin, std::min(chunk, ids.size() - begin)),
                            &observer);
      }

      REQUIRE(probe.layers().size() == C::num_hidden_layers);
      for (std::size_t layer = 0; layer < C::num_hidden_layers; ++layer) {
        const ds4::Attended& attended = probe.layers()[layer];
        const std::size_t ratio = C::compress_ratios[layer];
        CHECK(attended.layer.layer == layer);
        CHECK(attended.window.back() == position);
        CHECK(attended.window.size() == std::min(position + 1, C::sliding_window));
        CHECK(attended.visible == (ratio > 0 ? (position + 1) / ratio : 0));
        CHECK(attended.entries.size() ==
              (ratio == 4 ? std::min(attended.visible, C::index_topk) : attended.visible));

        const std::string name = "layers." + std::to_string(layer) + ".";
        const auto& window = observer.values().at(name + "attn.kv_rope");
        const auto& output = observer.values().at(name + "attn.out_unrotated");
        const std::size_t keys = attended.window.size() + attended.entries.size() + 1;
        REQUIRE(attended.probabilities.size() == H * keys);
        for (std::size_t h = 0; h < H; ++h) {
          const auto p = std::span(attended.probabilities).subspan(h * keys, keys);
          CHECK(std::accumulate(p.begin(), p.end(), 0.0) == doctest::Approx(1.0).epsilon(1e-12));
          CHECK(p.back() > 0.0);  // the sink's
          std::vector<double> sum(d);
          for (std::size_t i = 0; i + 1 < keys; ++i) {
            const bool in_window = i < attended.window.size();
            const float* row = in_window ? window.data() + attended.window[i] * d
                                         : observer.values().at(name + "compressor.kv").data() +
                                               attended.entries[i - attended.window.size()] * d;
            for (std::size_t j = 0; j < d; ++j) sum[j] += p[i] * static_cast<double>(row[j]);
          }
          rotate_back(sum, position, attended.layer.attention);
          for (std::size_t j = 0; j < d; ++j) {
            // Outputs are of the order of 1; the pass sums in float32.
            const double error =
                std::abs(sum[j] - static_cast<double>(output[(position * H + h) * d + j]));
            if (!(error <= 1e-5)) FAIL_CHECK(name << " head " << h << ": error " << error);
          }
        }
      }
    }
  }
}

TEST_CASE("attention_probe: one layer, and a query that has not come yet") {
  Setup setup;
  ds4::AttentionProbe<> probe(setup.model.config(), setup.model.checkpoint(), 20, 3);
  CHECK(!probe.wants(2, "attn.q_rope"));
  CHECK(!probe.wants(3, "mlp.output"));
  auto state = setup.model.new_state();
  const auto ids = std::span<const std::int32_t>(setup.ids);
  setup.model.forward(state, ids.first(20), &probe);
  CHECK(probe.layers().empty());
  setup.model.forward(state, ids.subspan(20, 30), &probe);
  REQUIRE(probe.layers().size() == 1);
  CHECK(probe.layers()[0].layer.layer == 3);
  setup.model.forward(state, ids.subspan(50, 10), &probe);
  CHECK(probe.layers().size() == 1);
}
