// Tests of ds4/plan/memory_plan.hpp: the plan beside what passes and states take.
//
// What a state holds is planned exactly. Of the scratch memory a lane's own share depends on how
// many panels of each weight it has; the plan takes the largest for all: 5 % bounds it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/defaults.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/kernels/simd/dispatch.hpp>
#include <ds4/model.hpp>
#include <ds4/models/quant.hpp>
#include <ds4/models/tiny_flash.hpp>
#include <ds4/models/tiny_pro_yarn.hpp>
#include <ds4/plan/memory_plan.hpp>
#include <support/golden.hpp>

namespace {

using ds4::StorageFormat;

/// Feeds sequences of `prompt` tokens, then single tokens, and compares after every pass.
template <class C>
void check_memory(const std::string& folder, StorageFormat storage) {
  using Model = ds4::Model<C, ds4::Simd>;
  const auto& kernels = ds4::simd::chosen_kernels();
  const bool bf16 = kernels.layout_for(ds4::DType::bf16, false) == ds4::simd::Layout::bf16;
  for (const std::size_t threads : {1u, 2u, 3u}) {
    for (const bool exact : {false, true}) {
      for (const std::size_t prompt : {1u, 9u, 70u, 150u, 290u}) {
        for (const std::size_t sequences : {1u, 3u}) {
          if (prompt * sequences > ds4::prefill_chunk(C{})) continue;  // takes two passes
          CAPTURE(folder);
          CAPTURE(threads);
          CAPTURE(exact);
          CAPTURE(prompt);
          CAPTURE(sequences);
          Model model =
              Model::load(ds4::test::data_dir(folder),
                          ds4::Simd({.threads = threads, .adapts = false, .exact = exact}));
          std::vector<typename Model::State> states(sequences, model.new_state(20));
          std::size_t planned = 0;
          std::size_t context = 0;
          const auto pass = [&](std::size_t tokens) {
            const std::vector<std::int32_t> ids(tokens, 7);
            std::vector<typename Model::Sequence> batch;
            for (auto& state : states) batch.push_back({&state, ids});
            model.forward(batch, ds4::LogitsOf::last);
            context += tokens;
            planned = std::max(planned, ds4::scratch_memory(C{}, {.tokens = tokens * sequences,
                                                                  .sequences = sequences,
                                                                  .context = context,
                                                                  .logits = sequences,
                                                                  .threads = threads,
                                                                  .storage = storage,
                                                                  .exact = exact || !bf16}));
            const double measured = static_cast<double>(model.scratch_bytes());
            CHECK(static_cast<double>(planned) == doctest::Approx(measured).epsilon(0.05));
            const std::size_t size = exact || storage == StorageFormat::f32 ? 4 : 2;
            CHECK(ds4::state_memory(C{}, context, size, 20) == states.back().bytes());
          };
          pass(prompt);
          for (int i = 0; i < 3; ++i) pass(1);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("memory plan: scratch memory and states are what passes take, F32") {
  check_memory<ds4::models::tiny_flash>("tiny-flash", StorageFormat::f32);
  check_memory<ds4::models::tiny_pro_yarn>("tiny-pro-yarn", StorageFormat::f32);
}

TEST_CASE("memory plan: scratch memory and states are what passes take, release") {
  check_memory<ds4::models::quant>("quant", StorageFormat::release);
}

TEST_CASE("memory plan: drafts") {
  using Model = ds4::Model<ds4::models::quant, ds4::Simd>;
  const ds4::models::quant c;
  const auto& kernels = ds4::simd::chosen_kernels();
  const bool bf16 = kernels.layout_for(ds4::DType::bf16, false) == ds4::simd::Layout::bf16;
  for (const std::size_t threads : {1u, 2u}) {
    for (const bool exact : {false, true}) {
      for (const std::size_t prompt : {1u, 9u, 70u, 290u}) {
        CAPTURE(threads);
        CAPTURE(exact);
        CAPTURE(prompt);
        Model model = Model::load(ds4::test::data_dir("quant"),
                                  ds4::Simd({.threads = threads, .adapts = false, .exact = exact}));
        auto state = model.new_state(20);
        state.keep_drafts();
        // One token at a time: the draft takes more than the passes.
        for (std::size_t i = 0; i < prompt; ++i) model.decode(state, 7);
        model.draft(state, 7, 3, [](auto) { return 5; });
        const std::size_t rows = std::min(prompt, c.sliding_window + 20);
        const ds4::PassShape shape{.tokens = rows,
                                   .context = prompt,
                                   .threads = threads,
                                   .storage = StorageFormat::release,
                                   .exact = exact || !bf16};
        const std::size_t pass = ds4::scratch_memory(c, {.tokens = 1,
                                                         .context = prompt,
                                                         .threads = threads,
                                                         .storage = StorageFormat::release,
                                                         .exact = exact || !bf16});
        CHECK(static_cast<double>(std::max(pass, ds4::draft_memory(c, shape))) ==
              doctest::Approx(static_cast<double>(model.scratch_bytes())).epsilon(0.05));
        CHECK(ds4::state_memory(c, prompt, exact ? 4 : 2, 20, true) == state.bytes());
      }
    }
  }
}

TEST_CASE("memory plan: constants") {
  static_assert(ds4::prefill_chunk(ds4::Flash{}) == 256);
  static_assert(ds4::prefill_chunk(ds4::Pro{}) == 64 || ds4::prefill_chunk(ds4::Pro{}) == 128);
  static_assert(ds4::prefill_chunk(ds4::models::tiny_flash{}) == 512);
  // A token more costs its rows; a state grows by whole blocks.
  constexpr std::size_t one = ds4::state_memory(ds4::Flash{}, 1, 2, 64);
  static_assert(one == ds4::state_memory(ds4::Flash{}, 2, 2, 64));
  static_assert(one < ds4::state_memory(ds4::Flash{}, 1000, 2, 64));
  static_assert(ds4::state_memory(ds4::Flash{}, 1000, 2, 64) <
                ds4::state_memory(ds4::Flash{}, 1000, 4, 64));
  constexpr std::size_t pass = ds4::scratch_memory(ds4::Flash{}, {.tokens = 256, .context = 256});
  static_assert(pass > 100'000'000 && pass < 268'435'456);  // within the chunk's budget
}
