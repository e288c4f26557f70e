// The multi-token-prediction layer: its golden logits and streams, drafts, and states that drafts
// have left no trace in.
//
// Tolerance: as in support/golden_model.hpp, 1e-4 of the logits' standard deviation, and 1e-4 of the
// largest stream.
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

#include <ds4/config.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/sampler.hpp>
#include <support/compare.hpp>
#include <support/files.hpp>
#include <support/golden.hpp>
#include <support/golden_model.hpp>
#include <support/sequences.hpp>

namespace {

using ds4::test::check_close;
using ds4::test::edges;
using ds4::test::error_text;
using ds4::test::feed;
using ds4::test::model_of;
using ds4::test::random_ids;

using Quant = ds4::Model<ds4::models::quant>;
using QuantSimd = ds4::Model<ds4::models::quant, ds4::Simd>;

template <class M>
M exact_model() {
  return model_of<M>();
}
template <>
QuantSimd exact_model<QuantSimd>() {
  return QuantSimd::load(ds4::test::data_dir("quant"), ds4::Simd({.exact = true}));
}

template <class M>
typename M::State drafting_state(M& model, std::size_t rollback_limit) {
  auto state = model.new_state(rollback_limit);
  state.keep_drafts();
  return state;
}

template <class M>
std::string saved(const typename M::State& state) {
  std::ostringstream stream;
  state.serialise(stream);
  return stream.str();
}

}  // namespace

TEST_CASE_TEMPLATE("mtp: golden logits and streams, in one pass, in chunks and token by token", M,
                   Quant, QuantSimd) {
  M model = exact_model<M>();
  const ds4::test::Golden golden(ds4::test::data_dir("quant") / "mtp.safetensors");
  const ds4::test::Golden main_golden(ds4::test::data_dir("quant") / "golden.safetensors");
  const std::vector<std::int32_t> ids = main_golden.indices("input_ids");
  const std::span<const float> expected = golden.values("mtp_logits");
  const std::span<const float> streams = golden.values("mtp_streams");
  double top = 0.0;
  for (const float value : streams) top = std::max(top, std::abs(static_cast<double>(value)));

  std::vector<float> one_pass;
  for (const std::vector<std::size_t>& sizes :
       std::vector<std::vector<std::size_t>>{{300}, {5, 64, 1, 130, 100}, {1}}) {
    auto state = drafting_state(model, 300);
    ds4::test::Recorder<float> recorder;
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
                1e-4 * ds4::test::standard_deviation(expected));
    const std::string output =
        "layers." + std::to_string(M::Config::num_hidden_layers) + ".output";
    check_close("mtp_streams", std::span(std::as_const(recorder.values().at(output))), streams,
                1e-4 * top);
    if (one_pass.empty()) one_pass = logits;
    CHECK(logits == one_pass);
  }
}
