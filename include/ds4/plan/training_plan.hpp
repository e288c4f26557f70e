// What training a configuration takes, before anything is allocated: memory and operations of a
// step. The passes are the trainable model's own, run without memory, so what they allocate is what
// real ones do.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/config/config.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/plan/counting_training.hpp>
#include <ds4/train/trainable_model.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

/// What to plan for. `devices` = data * experts * pipeline: the layers are divided over `pipeline`
/// stages, the routed experts of each stage over `experts` devices, which have all else of the
/// stage, and of all that there are `data` replicas.
struct TrainingPlanOptions {
  std::size_t batch = 1;        ///< sequences of a pass, for each of data * experts
  std::size_t context = 4096;   ///< predictions of a sequence
  bool muon = true;             ///< matrices by Muon; otherwise all weights by AdamW
  bool mtp = true;              ///< with the multi-token-prediction layer, if there is one
  std::size_t value_bytes = 4;  ///< of a weight, gradient or activation; those of this library: 4
  bool masters = true;          ///< float32 masters of what a checkpoint stores as BF16
  ///@{
  /// See above; devices 0: as many as the others ask for.
  std::size_t devices = 0;
  std::size_t data = 1;
  std::size_t experts = 1;
  std::size_t pipeline = 1;
  ///@}
};

/// Bytes that training holds on one device.
struct TrainingMemory {
  std::size_t weights = 0;      ///< with the routers' tables
  std::size_t gradients = 0;    ///< of all weights
  std::size_t optimizer = 0;    ///< its state, float32, with the masters
  std::size_t activations = 0;  ///< that a pass has kept when it begins to go back
  /// On top of these at the most: gradients of activations, and what is computed again.
  std::size_t temporaries = 0;
  /// What the tape keeps besides: blocks that were free then, but not of a size that was asked for.
  std::size_t unused = 0;

  /// The sum.
  std::size_t total() const {
    return weights + gradients + optimizer + activations + temporaries + unused;
  }
  /// Number by number.
  friend bool operator==(const TrainingMemory&, const TrainingMemory&) = default;
};

/// The plan with one way to recompute.
struct RecomputePlan {
  Recompute recompute;           ///< which
  std::size_t stage = 0;         ///< of the device that holds most
  TrainingMemory memory;         ///< of that device
  TrainingFlops recomputed;      ///< of a step, all devices together, beside forward and backward
  std::size_t device_flops = 0;  ///< of a step on the device that has most to do, all included
};

/// See plan_training().
struct TrainingPlan {
  std::size_t devices = 0;          ///< all of them
  std::size_t parameters = 0;       ///< in training, each counted once
  std::size_t predictions = 0;      ///< of a step, those of the extra layer apart
  std::vector<std::size_t> stages;  ///< layers of each
  ///@{
  /// Operations of a step, all devices together; replicas step their weights each for itself.
  TrainingFlops forward;
  TrainingFlops backward;
  TrainingFlops optimizer;
  ///@}
  std::array<RecomputePlan, 3> policies{};  ///< none, layer, pair
};

namespace detail {

/// What a stretch of the weights takes on a device.
struct PlannedWeights {
  TrainingMemory memory;
  std::size_t optimizer_flops = 0;

  PlannedWeights& operator+=(const PlannedWeights& other) {
    memory.weights += other.memory.weights;
    memory.gradients += other.memory.gradients;
    memory.optimizer += other.memory.optimizer;
    optimizer_flops += other.optimizer_flops;
    return *this;
  }
};

/// Where the stages begin, and the number of units behind: units in order, of these bytes, in
/// `stages` runs of at least one whose largest is as small as can be.
inline std::vector<std::size_t> balanced_stages(const std::vector<std::size_t>& bytes,
                                                std::size_t stages) {
  const std::size_t n = bytes.size();
  constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();
  // least[p][i]: the largest run, where p runs are of the first i units; from[p][i]: the last's
  // begin.
  std::vector least(stages + 1, std::vector<std::size_t>(n + 1, kNever));
  std::vector from(stages + 1, std::vector<std::size_t>(n + 1, 0));
  least[0][0] = 0;
  for (std::size_t p = 1; p <= stages; ++p) {
    for (std::size_t i = p; i <= n; ++i) {
      std::size_t run = 0;
      for (std::size_t first = i; first-- > p - 1;) {
        run += bytes[first];
        const std::size_t largest = std::max(least[p - 1][first], run);
        if (largest < least[p][i]) {
          least[p][i] = largest;
          from[p][i] = first;
        }
      }
    }
  }
  std::vector<std::size_t> begins(stages + 1, n);
  for (std::size_t p = stages; p > 0; --p) begins[p - 1] = from[p][begins[p]];
  return begins;
}

/// Checks the options against a configuration.
template <ModelConfig C>
void check_plan(const TrainingPlanOptions& o) {
  const auto fail = [](std::string_view where, std::size_t found, const std::string& expected) {
    throw Error(where, "found " + std::to_string(found) + ", expected " + expected);
  };
  constexpr Schedule kSchedule = schedule<C>();
  constexpr std::size_t kUnits = kSchedule.prefix + kSchedule.pairs + kSchedule.suffix;
  if (o.batch == 0) fail("batch", 0, "at least 1");
  if (o.context == 0 || o.context > C::max_position_embeddings) {
    fail("context", o.context,
         "1 to max_position_embeddings " + std::to_string(C::max_position_embeddings));
  }
  if (o.value_bytes != 2 && o.value_bytes != 4) fail("value_bytes", o.value_bytes, "2 or 4");
  if (o.data == 0) fail("data", 0, "at least 1");
  if (o.experts == 0 || C::n_routed_experts % o.experts != 0) {
    fail("experts", o.experts,
         "a divisor of n_routed_experts " + std::to_string(C::n_routed_experts));
  }
  if (o.pipeline == 0 || o.pipeline > kUnits) {
    fail("pipeline", o.pipeline,
         "1 to " + std::to_string(kUnits) + ", the pairs of layers and those in none");
  }
  const std::size_t devices = o.data * o.experts * o.pipeline;
  if (o.devices != 0 && o.devices != devices) {
    fail("devices", o.devices,
         "data * experts * pipeline = " + std::to_string(o.data) + " * " +
             std::to_string(o.experts) + " * " + std::to_string(o.pipeline) + " = " +
             std::to_string(devices));
  }
}

}  // namespace detail

/// What a step of training takes: one pass forward and back over options.batch sequences, and the
/// optimizer's step. Of one device, the activations, temporaries and unused blocks are to the byte
/// those of TrainableModel's first pass with all its losses; what kernels take for themselves is
/// not counted, nor what the optimizer's step takes.
///
/// Of several devices, approximations: a stage begins where a pair of the schedule or a layer in
/// none does, and stages are balanced by the bytes of their weights; embedding and head are with
/// the first and the last layer, and the multi-token-prediction layer, with an embedding of its
/// own, with the head. Each of the devices that share experts has a batch of its own, and tokens
/// are taken to spread evenly over the experts: a device computes as many places as its own tokens
/// pick. One pass is under way at a time. Buffers for communication are not counted. Throws
/// ds4::Error for numbers that do not fit.
template <ModelConfig C>
TrainingPlan plan_training(const TrainingPlanOptions& options = {}) {
  detail::check_plan<C>(options);
  constexpr std::size_t kLayers = C::num_hidden_layers;
  constexpr std::size_t kSections = kLayers + 2;
  constexpr Schedule kSchedule = schedule<C>();
  const std::size_t passes = options.data * options.experts;  // at once
  using Model = TrainableModel<C, CountingTraining>;

  const std::vector<std::int32_t> ids(options.context + 1);
  const std::vector<TrainingSequence> sequences(options.batch, TrainingSequence(ids));
  PassOptions pass;
  pass.mtp_weight = pass.balance_weight = pass.indexer_weight = 1.0;
  const auto watched = [&] {
    Model model(CountingTraining(), options.mtp);
    model.kernels().watch(model.tape(), std::as_const(model).weights().list());
    return model;
  };

  TrainingPlan plan;
  plan.devices = passes * options.pipeline;
  plan.predictions = passes * options.batch * options.context;

  // The sections' weights. Stages are found in whole units: what a pass recomputes together.
  std::optional<Model> forward(watched());
  std::array<detail::PlannedWeights, kSections> held{};
  std::array<detail::PlannedWeights, kSections> experts{};  // all of them; a device has its share
  const auto section_of = [](std::string_view name) {
    return std::min(CountingTraining::section_of(name), kSections - 1);
  };
  for (const auto& weight : std::as_const(*forward).weights().list()) {
    const std::size_t count = weight.values.size();
    const bool expert = weight.name.find(".ffn.experts.") != std::string::npos;
    const bool muon = options.muon && weight.rule == UpdateRule::muon;
    const std::size_t moments = weight.rule == UpdateRule::load ? 0 : muon ? 1 : 2;
    const TrainingFlops step = muon ? CountingTraining::muon_flops(weight.shape[0], weight.shape[1])
                                    : CountingTraining::adamw_flops(count);
    plan.parameters += count;
    plan.optimizer += step * (expert ? options.data : passes);
    detail::PlannedWeights& section = (expert ? experts : held)[section_of(weight.name)];
    section.memory.weights += count * options.value_bytes;
    section.memory.gradients += count * options.value_bytes;
    const std::size_t masters = options.masters && weight.stored == DType::bf16 ? 1 : 0;
    section.memory.optimizer += count * (moments + masters) * sizeof(float);
    section.optimizer_flops += step.total();
  }
  for (std::size_t s = 0; s < kSections; ++s) {
    TrainingMemory& memory = experts[s].memory;
    for (std::size_t* number :
         {&memory.weights, &memory.gradients, &memory.optimizer, &experts[s].optimizer_flops}) {
      *number /= options.experts;
    }
    held[s] += experts[s];
  }
  for (const auto& table : std::as_const(*forward).weights().tables()) {
    held[section_of(table.name)].memory.weights += table.picks.size_bytes();
  }
  if (forward->has_mtp() && options.pipeline > 1) held[kSections - 1] += held[0];

  std::vector<std::size_t> units;  // first layers
  for (std::size_t layer = 0; layer < kLayers; layer += kSchedule.together(layer)) {
    units.push_back(layer);
  }
  std::vector<std::size_t> bytes(units.size());
  for (std::size_t u = 0; u < units.size(); ++u) {
    const std::size_t end = u + 1 < units.size() ? units[u + 1] : kLayers;
    for (std::size_t layer = units[u]; layer < end; ++layer) {
      bytes[u] += held[1 + layer].memory.weights;
    }
  }
  bytes.front() += held[0].memory.weights;
  bytes.back() += held[kSections - 1].memory.weights;
  std::vector<std::size_t> begins;  // layers
  for (const std::size_t unit : detail::balanced_stages(bytes, options.pipeline)) {
    begins.push_back(unit < units.size() ? units[unit] : kLayers);
  }
  for (std::size_t p = 0; p < options.pipeline; ++p) {
    plan.stages.push_back(begins[p + 1] - begins[p]);
  }

  forward->losses(sequences, pass);
  const TrainingFlops there = forward->kernels().flops();
  forward.reset();     // one model at a time: each takes many addresses
  TrainingFlops once;  // there and back
  constexpr std::array kPolicies{Recompute::none, Recompute::layer, Recompute::pair};
  for (std::size_t i = 0; i < kPolicies.size(); ++i) {
    RecomputePlan& policy = plan.policies[i];
    policy.recompute = pass.recompute = kPolicies[i];
    Model model = watched();
    model.add_gradients(sequences, pass);
    const auto& tape = model.tape();
    const auto sections = std::as_const(model.kernels()).sections();
    if (pass.recompute == Recompute::none) once = model.kernels().flops();
    policy.recomputed = (model.kernels().flops() - once) * passes;

    for (std::size_t p = 0; p < options.pipeline; ++p) {
      const bool last = p + 1 == options.pipeline;
      // Sections; what the layers before have kept is of other devices.
      const std::size_t begin = p == 0 ? 0 : 1 + begins[p];
      const std::size_t end = last ? kSections : 1 + begins[p + 1];
      const std::size_t before = sections[1 + begins[p]].first_bytes - sections[1].first_bytes;
      detail::PlannedWeights device;
      std::size_t flops = 0;
      std::size_t most = 0;
      for (std::size_t s = begin; s < end; ++s) {
        device += held[s];
        flops += sections[s].flops.total();
        most = std::max(most, sections[s].most_bytes);
      }
      device.memory.activations = last ? tape.kept_bytes() - before
                                       : model.kernels().begin_bytes() + sections[end].first_bytes -
                                             sections[1 + begins[p]].first_bytes;
      device.memory.temporaries =
          std::max(most - before, device.memory.activations) - device.memory.activations;
      device.memory.unused = tape.held_bytes() - tape.peak_bytes();
      for (std::size_t* of_values :
           {&device.memory.activations, &device.memory.temporaries, &device.memory.unused}) {
        *of_values = *of_values * options.value_bytes / sizeof(float);
      }
      policy.device_flops = std::max(policy.device_flops, flops + device.optimizer_flops);
      if (device.memory.total() > policy.memory.total()) {
        policy.memory = device.memory;
        policy.stage = p;
      }
    }
  }
  plan.forward = there * passes;
  plan.backward = (once - there) * passes;
  return plan;
}

}  // namespace ds4::inline v0_1
