// Tests of ds4/plan/training_plan.hpp: the plan beside real passes, and its numbers by hand.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/error.hpp>
#include <ds4/kernels/reference/training.hpp>
#include <ds4/models/narrow_flash_config.hpp>
#include <ds4/models/tiny_flash_config.hpp>
#include <ds4/plan/counting_training.hpp>
#include <ds4/plan/plan.hpp>
#include <ds4/plan/training_plan.hpp>
#include <ds4/train/optimizer.hpp>
#include <ds4/train/tape_backend.hpp>
#include <support/golden.hpp>

namespace {

using ds4::Component;
using ds4::Recompute;
using Narrow = ds4::models::narrow_flash;
using Tiny = ds4::models::tiny_flash;

std::size_t products(const ds4::TrainingFlops& flops, Component component) {
  return flops.products[static_cast<std::size_t>(component)];
}

}  // namespace

TEST_CASE("training plan: what passes allocate") {
  bool mtp = false;  // the folder has no such layer; zeros take as much
  SUBCASE("without the multi-token-prediction layer") {}
  SUBCASE("with it") { mtp = true; }
  const auto folder = ds4::test::data_dir("tiny-flash");
  const auto ids = ds4::test::Golden(folder / "golden.safetensors").indices("batch_input_ids");
  const std::array<ds4::TrainingSequence, 2> sequences{std::span(ids).first(150),
                                                       std::span(ids).last(150)};
  using Model = ds4::TrainableModel<Tiny, ds4::ReferenceTraining<float>>;
  const auto plan = ds4::plan_training<Tiny>({.batch = 2, .context = 149, .mtp = mtp});
  CHECK(plan.devices == 1);
  CHECK(plan.predictions == 298);
  for (const ds4::RecomputePlan& policy : plan.policies) {
    CAPTURE(static_cast<int>(policy.recompute));
    Model model = mtp ? Model() : Model::load(folder);
    REQUIRE(model.has_mtp() == mtp);
    model.add_gradients(sequences, {.prediction_weight = 1.0 / 298,
                                    .mtp_weight = 0.1 / 296,
                                    .balance_weight = 1e-3,
                                    .indexer_weight = 1e-3,
                                    .recompute = policy.recompute});
    const ds4::TrainingMemory& memory = policy.memory;
    CHECK(memory.activations == model.tape().kept_bytes());
    CHECK(memory.activations + memory.temporaries == model.tape().peak_bytes());
    CHECK(memory.activations + memory.temporaries + memory.unused == model.tape().held_bytes());

    std::size_t values = 0;
    for (const auto& weight : model.weights().list()) values += weight.values.size();
    std::size_t tables = 0;
    for (const auto& table : model.weights().tables()) tables += table.picks.size_bytes();
    CHECK(plan.parameters == values);
    CHECK(memory.weights == values * sizeof(float) + tables);
    CHECK(memory.gradients == values * sizeof(float));
  }
}

TEST_CASE("training plan: the optimizer's state") {
  const auto check = [](ds4::OptimizerKind kind, bool masters) {
    ds4::TrainableModel<Tiny, ds4::ReferenceTraining<float>> model;
    ds4::OptimizerOptions options;
    options.kind = kind;
    options.bf16_weights = masters;
    const ds4::Optimizer<float> optimizer(model.weights().list(), options);
    std::size_t values = 0;
    for (const auto& state : optimizer.states()) {
      values += state.mean.size() + state.mean_square.size() + state.master.size();
    }
    ds4::TrainingPlanOptions planned{.context = 2, .muon = kind == ds4::OptimizerKind::muon};
    planned.masters = masters;
    const auto plan = ds4::plan_training<Tiny>(planned);
    CHECK(plan.policies[0].memory.optimizer == values * sizeof(float));
  };
  for (const auto kind : {ds4::OptimizerKind::adamw, ds4::OptimizerKind::muon}) {
    check(kind, true);
    check(kind, false);
  }
}

TEST_CASE("training plan: operations of kernels") {
  const auto after = [](const ds4::OperationCost& cost) {
    ds4::CountingTraining kernels;
    kernels.count(cost);
    return kernels.flops();
  };
  SUBCASE("products") {
    constexpr std::size_t kForward = 2 * 3 * 5 * 7;
    float here = 0.0f;
    float* const p = &here;
    const auto run = [](auto&& f) {
      ds4::TapeBackend<ds4::CountingTraining> backend;
      f(backend);
      return backend.kernels().flops();
    };
    CHECK(run([&](auto& b) { b.product(p, 5, p, 7, p, 3, 5, 7); }).total() == kForward);
    const auto back = [&](float* dx, float* dw) {
      return run([&](auto& b) { b.product_backward(dx, false, dw, p, 5, p, 7, p, 3, 5, 7); });
    };
    CHECK(back(p, p).total() == 2 * kForward);
    CHECK(back(nullptr, p).total() == kForward);
    CHECK(back(nullptr, nullptr).total() == 0);
  }
  SUBCASE("attention") {
    // Windows of 1, 2, 2, 2 keys; picks of 0, 1, 1, 2 entries; 3 heads of 8.
    ds4::AttentionShape shape{ds4::AttentionKind::sliding, 4, 3, 8, 2, 0, 0, 0};
    const auto forward = [&] { return after(ds4::tape::attend_cost(shape, false)); };
    CHECK(products(forward(), Component::attention) == 2 * 2 * 3 * 8 * 7);
    shape.kind = ds4::AttentionKind::csa;
    shape.ratio = 2;
    shape.top_k = 9;
    CHECK(products(forward(), Component::attention) == 2 * 2 * 3 * 8 * (7 + 4));
    const auto backward = after(ds4::tape::attend_backward_cost(shape));
    CHECK(products(backward, Component::attention) == 5 * 2 * 3 * 8 * (7 + 4));
  }
  SUBCASE("experts") {
    const ds4::ExpertShape shape{2, 2, 4, 5, 3};
    const auto forward = after(ds4::tape::experts_cost(shape));
    CHECK(products(forward, Component::experts) == 3 * 2 * 4 * 5 * 3);
    const auto backward = after(ds4::tape::experts_backward_cost(shape));
    CHECK(products(backward, Component::experts) == 2 * 3 * 2 * 4 * 5 * 3);
  }
  SUBCASE("Muon") {
    const auto step = ds4::CountingTraining::muon_flops(8, 3);
    CHECK(step.products == ds4::CountingTraining::muon_flops(3, 8).products);
    CHECK(products(step, Component::rest) == 10 * (2 * (2 * 3 * 3 * 8) + 2 * 3 * 3 * 3));
  }
}

TEST_CASE("training plan: operations of a step") {
  constexpr std::size_t kTokens = 149;
  const auto plan = ds4::plan_training<Tiny>({.batch = 2, .context = kTokens, .mtp = false});
  std::array<std::size_t, ds4::kComponents> expected{};
  const auto at = [&](Component component) -> std::size_t& {
    return expected[static_cast<std::size_t>(component)];
  };
  ds4::for_each_weight(Tiny{}, [&](const ds4::WeightGroup& g) {
    const bool matrix =
        g.role != ds4::TensorRole::table &&
        (g.role != ds4::TensorRole::vector || g.component == Component::hyper_connections);
    if (g.mtp || g.rows == 1 || !matrix) return;
    at(g.component) += 2 * g.rows * g.cols * g.used * 2 * kTokens;
  });
  const ds4::AttentionFlops attention = ds4::attention_flops_before(Tiny{}, kTokens);
  at(Component::attention) += 2 * attention.attention;
  at(Component::indexer) += 2 * attention.indexer;
  CHECK(plan.forward.products == expected);

  for (const Component component :
       {Component::experts, Component::hyper_connections, Component::head}) {
    CHECK(products(plan.backward, component) == 2 * products(plan.forward, component));
  }
  CHECK(plan.backward.elementwise > plan.forward.elementwise);
}

TEST_CASE("training plan: recomputing takes operations and spares activations") {
  const auto plan = ds4::plan_training<Narrow>({.context = 256, .mtp = false});
  const auto& [none, layer, pair] = plan.policies;
  CHECK(none.recompute == Recompute::none);
  CHECK(layer.recompute == Recompute::layer);
  CHECK(pair.recompute == Recompute::pair);
  CHECK(none.memory.activations > layer.memory.activations);
  CHECK(layer.memory.activations > pair.memory.activations);
  CHECK(none.memory.total() > layer.memory.total());
  CHECK(none.memory.total() > pair.memory.total());
  CHECK(none.recomputed.total() == 0);
  CHECK(pair.recomputed == layer.recomputed);
  CHECK(products(layer.recomputed, Component::experts) ==
        products(plan.forward, Component::experts));
  CHECK(products(layer.recomputed, Component::head) == 0);
  CHECK(layer.device_flops == none.device_flops + layer.recomputed.total());
}

TEST_CASE("training plan: values of two bytes") {
  ds4::TrainingPlanOptions options{.context = 256};
  const auto four = ds4::plan_training<Narrow>(options);
  options.value_bytes = 2;
  const auto two = ds4::plan_training<Narrow>(options);
  CHECK(two.policies[0].memory.gradients * 2 == four.policies[0].memory.gradients);
  CHECK(two.policies[0].memory.activations * 2 == four.policies[0].memory.activations);
  CHECK(two.policies[0].memory.optimizer == four.policies[0].memory.optimizer);
  CHECK(two.forward == four.forward);
}

TEST_CASE("training plan: devices") {
  const ds4::TrainingPlanOptions one{.context = 256};
  const auto whole = ds4::plan_training<Narrow>(one);
  const ds4::TrainingMemory& all = whole.policies[0].memory;

  SUBCASE("replicas change nothing on a device") {
    auto options = one;
    options.data = options.devices = 3;
    const auto plan = ds4::plan_training<Narrow>(options);
    CHECK(plan.devices == 3);
    CHECK(plan.predictions == 3 * 256);
    CHECK(plan.policies[0].memory == all);
    CHECK(plan.policies[1].device_flops == whole.policies[1].device_flops);
    CHECK(plan.forward.total() == 3 * whole.forward.total());
    CHECK(plan.optimizer.total() == 3 * whole.optimizer.total());
  }
  SUBCASE("experts are divided, and nothing else") {
    auto options = one;
    options.experts = 2;
    const auto plan = ds4::plan_training<Narrow>(options);
    const ds4::TrainingMemory& half = plan.policies[0].memory;
    constexpr std::size_t kExperts =
        (Narrow::num_hidden_layers + Narrow::num_nextn_predict_layers) * Narrow::n_routed_experts *
        3 * Narrow::hidden_size * Narrow::moe_intermediate_size;
    CHECK(all.weights - half.weights == kExperts / 2 * sizeof(float));
    CHECK(all.gradients - half.gradients == kExperts / 2 * sizeof(float));
    // Muon's momentum, and masters.
    CHECK(all.optimizer - half.optimizer == 2 * kExperts / 2 * sizeof(float));
    CHECK(half.activations == all.activations);
    CHECK(half.temporaries == all.temporaries);
    CHECK(plan.devices == 2);
    CHECK(plan.backward.total() == 2 * whole.backward.total());
  }
  SUBCASE("layers are divided") {
    auto options = one;
    options.pipeline = 4;
    const auto plan = ds4::plan_training<Narrow>(options);
    CHECK(plan.devices == 4);
    CHECK(plan.predictions == 256);
    REQUIRE(plan.stages.size() == 4);
    CHECK(std::accumulate(plan.stages.begin(), plan.stages.end(), std::size_t{0}) ==
          Narrow::num_hidden_layers);
    CHECK(plan.forward == whole.forward);
    for (std::size_t i = 0; i < 3; ++i) {
      const ds4::TrainingMemory& stage = plan.policies[i].memory;
      CHECK(stage.weights < all.weights);
      CHECK(stage.weights > all.weights / 5);  // the largest of four, but for what is not divided
      CHECK(stage.activations < whole.policies[i].memory.activations);
      CHECK(plan.policies[i].device_flops < whole.policies[i].device_flops);
      CHECK(plan.policies[i].device_flops > whole.policies[i].device_flops / 4);
    }
    // Without the streams and what all layers share, the largest has at least its fourth.
    CHECK(plan.policies[0].memory.activations > all.activations / 4);
    CHECK(plan.policies[0].memory.activations < all.activations / 2);
  }
}

TEST_CASE("training plan: stages of equal size") {
  using Begins = std::vector<std::size_t>;
  CHECK(ds4::detail::balanced_stages({5, 1, 1, 5}, 1) == Begins{0, 4});
  CHECK(ds4::detail::balanced_stages({5, 1, 1, 5}, 2) == Begins{0, 2, 4});
  CHECK(ds4::detail::balanced_stages({9, 1, 1, 5}, 2) == Begins{0, 1, 4});
  CHECK(ds4::detail::balanced_stages({5, 1, 1, 5}, 4) == Begins{0, 1, 2, 3, 4});
}

TEST_CASE("training plan: numbers that do not fit") {
  const auto fails = [](const ds4::TrainingPlanOptions& options, const char* text) {
    CHECK_THROWS_WITH_AS(ds4::plan_training<Narrow>(options), text, ds4::Error);
  };
  fails({.devices = 8, .data = 2, .experts = 2},
        "ds4: devices: found 8, expected data * experts * pipeline = 2 * 2 * 1 = 4");
  fails({.data = 0}, "ds4: data: found 0, expected at least 1");
  fails({.batch = 0}, "ds4: batch: found 0, expected at least 1");
  fails({.value_bytes = 3}, "ds4: value_bytes: found 3, expected 2 or 4");
  const std::string experts =
      "expected a divisor of n_routed_experts " + std::to_string(Narrow::n_routed_experts);
  fails({.experts = 0}, ("ds4: experts: found 0, " + experts).c_str());
  fails({.experts = 5}, ("ds4: experts: found 5, " + experts).c_str());
  const std::string context =
      "expected 1 to max_position_embeddings " + std::to_string(Narrow::max_position_embeddings);
  fails({.context = 0}, ("ds4: context: found 0, " + context).c_str());
  constexpr ds4::Schedule kSchedule = ds4::schedule<Narrow>();
  const std::string units = std::to_string(kSchedule.prefix + kSchedule.pairs + kSchedule.suffix);
  const std::string pipeline = "expected 1 to " + units + ", the pairs of layers and those in none";
  fails({.pipeline = 0}, ("ds4: pipeline: found 0, " + pipeline).c_str());
  fails({.pipeline = 1000}, ("ds4: pipeline: found 1000, " + pipeline).c_str());
}
