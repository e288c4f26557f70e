// What a backend's DSpark has to pass: golden drafts behind any number of tokens, however they were
// taken in.
//
// Tolerance: 2e-4 in logits, streams and confidences, as golden.json says for a float32 engine; the
// logits' standard deviation is 2. Target hidden states and rows: 1e-4 of the largest value.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/decode/sampler.hpp>
#include <ds4/model.hpp>
#include <support/compare.hpp>
#include <support/drafts.hpp>
#include <support/golden.hpp>
#include <support/golden_model.hpp>
#include <support/sequences.hpp>

namespace ds4::test {

inline constexpr double kDsparkTolerance = 2e-4;

/// A draft, and all that it was chosen by.
struct DsparkDraft {
  std::vector<std::int32_t> ids;
  std::vector<float> logits;      ///< [n, V]
  std::vector<float> confidence;  ///< [n]
};

/// A whole block behind the state. `along`: the tokens to choose; none: the likeliest.
template <class M>
DsparkDraft draft_block(M& model, typename M::State& state, std::int32_t anchor,
                        std::span<const std::int32_t> along = {}) {
  DsparkDraft made;
  const typename M::DraftRequest request{&state, anchor, M::Config::dspark_block_size};
  made.ids = model.draft(
      std::span(&request, 1),
      [&](std::size_t, std::span<const float> logits) {
        const std::size_t row = made.logits.size() / M::V;
        made.logits.insert(made.logits.end(), logits.begin(), logits.end());
        return along.empty() ? ds4::argmax(logits) : along[row];
      },
      [&](std::size_t, float confidence) {
        made.confidence.push_back(confidence);
        return true;
      })[0];
  return made;
}

/// Compares a draft with the golden one called `name`.
inline void check_golden_draft(const Golden& golden, const std::string& name,
                               const DsparkDraft& made) {
  CAPTURE(name);
  check_close("logits", std::span<const float>(made.logits), golden.values(name + ".logits"),
              kDsparkTolerance);
  check_close("confidence", std::span<const float>(made.confidence),
              golden.values(name + ".confidence"), kDsparkTolerance);
}

/// Every golden draft, with the tokens before it taken in by passes of these sizes.
template <class M>
void check_golden_blocks(M& model, const Golden& golden, const std::vector<std::size_t>& sizes) {
  const std::vector<std::int32_t> ids = golden.indices("input_ids");
  const std::span<const std::int32_t> all = ids;
  for (const std::int32_t n : golden.indices("context_positions")) {
    const auto position = static_cast<std::size_t>(n);
    CAPTURE(position);
    auto state = drafting_state(model, 8);
    feed(model, state, all.first(position), sizes);
    Recorder<float> recorder;
    model.observe_drafts(&recorder);
    const DsparkDraft made = draft_block(model, state, ids[position]);
    model.observe_drafts(nullptr);
    const std::string name = "draft." + std::to_string(n);
    check_golden_draft(golden, name, made);
    CHECK(made.ids == golden.indices(name + ".ids"));

    // Streams of every stage, and what the stages read.
    const auto streams = golden.values(name + ".streams");
    const std::size_t size = streams.size() / model.config().dspark_stages;
    const std::size_t first = M::Config::num_hidden_layers;
    for (std::size_t k = 0; k < model.config().dspark_stages; ++k) {
      const auto& found = recorder.values().at("layers." + std::to_string(first + k) + ".output");
      check_close("streams", std::span<const float>(found), streams.subspan(k * size, size),
                  kDsparkTolerance);
    }
    const std::string stage = "layers." + std::to_string(first);
    for (const char* what : {"target_hidden", "main_x"}) {
      const auto& found = recorder.values().at(stage + "." + what);
      const auto expected = golden.values(what);
      const std::size_t width = expected.size() / ids.size();
      double top = 0.0;
      for (const float value : expected) top = std::max(top, std::abs(double{value}));
      check_close(what, std::span<const float>(found),
                  expected.subspan(position * width - found.size(), found.size()), 1e-4 * top);
    }
  }
}

}  // namespace ds4::test
