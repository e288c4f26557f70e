// Random checkpoints: any configuration's shapes with weights that behave like a model's.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ds4/checkpoint/checkpoint_writer.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/random_stream.hpp>
#include <ds4/core/storages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// Mean and standard deviation of a tensor's values: matrices keep the variance of their input,
/// and nothing is left at zero or one that a runtime could forget unnoticed.
inline std::pair<float, float> synth_scale(const TensorInfo& tensor) {
  const auto is = [&](std::string_view part) {
    return tensor.name.find(part) != std::string::npos;
  };
  const float fan_in = 1.0f / std::sqrt(static_cast<float>(tensor.shape.back()));
  if (is("embed.weight") || is("markov_w1")) return {0.0f, 1.0f};
  if (is("head.weight")) return {0.0f, 3.0f * fan_in};
  if (is("norm")) return {1.0f, 0.1f};
  if (is("attn_sink")) return {0.0f, 1.0f};
  if (is("ape") || is("_base")) return {0.0f, 0.5f};
  if (is("_scale")) return {0.8f, 0.1f};
  if (is("gate.bias")) return {0.0f, 0.05f};
  return {0.0f, fan_in};
}

/// 65,536 codes of a storage with block scales, distributed as values of this deviation divided by
/// a scale: an index is 16 random bits. FP4 codes are pairs, a byte each.
class SynthCodes {
 public:
  static constexpr std::size_t kCount = std::size_t{1} << 16;

  SynthCodes(DType dtype, float deviation) : codes_(kCount) {
    // Half of the blocks have this scale, half of them its half: the mean square is 5/8.
    const float wanted = deviation * 1.2649111f;
    exponent_ = static_cast<int>(std::ceil(std::log2(3.5f * wanted / storage_info(dtype).largest)));
    const float scaled = std::ldexp(wanted, -exponent_);
    RandomStream random(0, dtype_name(dtype));
    Storages::with(dtype, [&](auto storage) {
      using S = decltype(storage);
      if constexpr (S::kScaleRows > 0) {
        for (std::size_t i = 0; i < kCount; i += 2) {
          float values[4];
          random.normal(values);
          for (std::size_t j = 0; j < 2; ++j) {
            unsigned byte = 0;
            for (std::size_t bit = 0; bit < 8; bit += S::kBits) {
              byte |= unsigned{S::code(scaled * values[2 * j + bit / S::kBits])} << bit;
            }
            codes_[i + j] = static_cast<std::uint8_t>(byte);
          }
        }
      }
    });
  }

  std::uint8_t code(std::uint64_t bits) const { return codes_[bits & (kCount - 1)]; }
  /// A block's scale, and its F8_E8M0 code.
  float scale(std::uint64_t bits) const {
    return std::ldexp(1.0f, exponent_ - static_cast<int>(bits & 1));
  }
  std::uint8_t scale_code(std::uint64_t bits) const {
    return static_cast<std::uint8_t>(127 + exponent_ - static_cast<int>(bits & 1));
  }

 private:
  std::vector<std::uint8_t> codes_;
  int exponent_;
};

}  // namespace detail

/// The first `layers` layers of a configuration: the schedule's prefix and whole pairs, or all;
/// without the multi-token-prediction layer, with DSpark, which then reads the last of these
/// layers. Throws ds4::Error for another number.
inline ConfigValues truncated(ConfigValues config, std::size_t layers) {
  if (layers == config.num_hidden_layers) return config;
  const Schedule schedule = schedule_of(config);
  if (layers < schedule.prefix || layers > schedule.prefix + 2 * schedule.pairs ||
      (layers - schedule.prefix) % 2 != 0) {
    throw Error(ErrorKind::file, "layers",
                "found " + std::to_string(layers) + ", expected " +
                    std::to_string(schedule.prefix) + " and up to " +
                    std::to_string(schedule.pairs) + " pairs of two");
  }
  config.num_hidden_layers = layers;
  config.compress_ratios.resize(layers);
  config.num_hash_layers = std::min(config.num_hash_layers, layers);
  config.num_nextn_predict_layers = 0;
  std::vector<std::size_t>& targets = config.dspark_target_layer_ids;
  if (targets.size() > layers) targets.resize(layers);
  std::iota(targets.begin(), targets.end(), layers - targets.size());
  return config;
}

/// Writes a random checkpoint of a configuration to the folder `out`, which is made: config.json
/// and model.safetensors in the release's names, without a part that sees images. The values are a
/// function of configuration, seed and format. `progress` is called with bytes written and bytes in
/// all. Throws ds4::Error if the folder holds a checkpoint or cannot be written.
inline void synthesise(const ConfigValues& config, StorageFormat format, std::uint64_t seed,
                       const std::filesystem::path& out,
                       const std::function<void(std::size_t, std::size_t)>& progress = {}) {
  const std::vector<TensorInfo> tensors = list_tensors(config);
  std::vector<TensorSpec> specs;
  std::size_t total = 0;
  for (const TensorInfo& tensor : tensors) {
    for (TensorSpec& spec : stored_tensors(tensor, format)) {
      total += std::accumulate(spec.shape.begin(), spec.shape.end(), dtype_size(spec.dtype),
                               std::multiplies<>{});
      specs.push_back(std::move(spec));
    }
  }
  constexpr std::size_t kOneFile = std::numeric_limits<std::size_t>::max();
  CheckpointWriter writer(out, {std::move(specs)}, kOneFile);

  constexpr std::size_t kPiece = 1 << 16;
  std::size_t written = 0;
  std::size_t current = 0;  // among the stored tensors
  std::vector<std::byte> piece;
  const auto flush = [&] {
    writer.write(0, current, piece);
    written += piece.size();
    piece.clear();
    if (progress) progress(written, total);
  };
  const auto end_tensor = [&] {
    flush();
    ++current;
  };
  const auto put = [&](const auto& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    piece.insert(piece.end(), bytes, bytes + sizeof value);
  };
  const auto elements = [](const TensorSpec& spec) {
    return std::accumulate(spec.shape.begin(), spec.shape.end(), std::size_t{1},
                           std::multiplies<>{});
  };
  std::map<std::pair<DType, float>, detail::SynthCodes> tables;
  for (const TensorInfo& tensor : tensors) {
    detail::RandomStream random(seed, tensor.name);
    if (tensor.role == TensorRole::table) {
      std::vector<std::int64_t> experts(config.n_routed_experts);
      std::iota(experts.begin(), experts.end(), 0);
      for (std::size_t id = 0; id < config.vocab_size; ++id) {
        detail::draw(random, std::span(experts), config.num_experts_per_tok);
        for (std::size_t k = 0; k < config.num_experts_per_tok; ++k) put(experts[k]);
        if (piece.size() >= kPiece) flush();
      }
      end_tensor();
      continue;
    }
    const auto [mean, deviation] = detail::synth_scale(tensor);
    const std::vector<TensorSpec> stored = stored_tensors(tensor, format);
    if (stored.size() == 2) {  // codes, then scales
      const DType dtype = stored[0].dtype;
      const detail::SynthCodes& codes =
          tables.try_emplace({dtype, deviation}, dtype, deviation).first->second;
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t count = elements(stored[i]);
        for (std::size_t n = 0; n < count;) {
          std::uint64_t bits = random.next();
          for (std::size_t j = 0; j < 4 && n < count; ++j, ++n, bits >>= 16) {
            if (i == 0) {
              put(codes.code(bits));
            } else if (stored[1].dtype == DType::f32) {
              put(codes.scale(bits));
            } else {
              put(codes.scale_code(bits));
            }
          }
          if (piece.size() >= kPiece) flush();
        }
        end_tensor();
      }
      continue;
    }
    const std::size_t count = elements(stored[0]);
    for (std::size_t n = 0; n < count;) {
      float values[4];
      random.normal(values);
      for (std::size_t j = 0; j < 4 && n < count; ++j, ++n) {
        const float value = mean + deviation * values[j];
        if (stored[0].dtype == DType::bf16) {
          put(static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + 0x8000u) >> 16));
        } else {
          put(value);
        }
      }
      if (piece.size() >= kPiece) flush();
    }
    end_tensor();
  }
  ConfigValues stated = config;
  stated.vision.reset();
  stated.expert_dtype = format == StorageFormat::release ? "fp4"
                        : format == StorageFormat::base  ? "fp8"
                                                         : "";
  writer.finish({{"config.json", config_json(stated)}});
}

}  // namespace ds4::inline v0_1
