// Random checkpoints: any configuration's shapes with weights that behave like a model's.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/checkpoint/config_json.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/error.hpp>

namespace ds4 {

namespace detail {

/// A stream of random numbers that is the same on every machine.
class SynthRandom {
 public:
  /// The stream of one tensor: a function of the seed and the tensor's name alone.
  SynthRandom(std::uint64_t seed, std::string_view name) : state_(seed) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  /// SplitMix64.
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Four values of mean 0 and variance 1: each the sum of 4 uniform bytes' worth, near normal.
  void normal(float (&out)[4]) {
    std::uint64_t a = next();
    std::uint64_t b = next();
    for (float& value : out) {
      const auto sum =
          static_cast<std::int32_t>((a & 0xff) + (a >> 8 & 0xff) + (b & 0xff) + (b >> 8 & 0xff));
      // Mean 4 * 127.5; variance 4 * (256^2 - 1) / 12.
      value = (static_cast<float>(sum) - 510.0f) * 0.00676593f;
      a >>= 16;
      b >>= 16;
    }
  }

 private:
  std::uint64_t state_;
};

/// Mean and standard deviation of a tensor's values: matrices keep the variance of their input,
/// and nothing is left at zero or one that a runtime could forget unnoticed.
inline std::pair<float, float> synth_scale(const TensorInfo& tensor) {
  const auto is = [&](std::string_view part) {
    return tensor.name.find(part) != std::string::npos;
  };
  const float fan_in = 1.0f / std::sqrt(static_cast<float>(tensor.shape.back()));
  if (is("embed.weight")) return {0.0f, 1.0f};
  if (is("head.weight")) return {0.0f, 3.0f * fan_in};
  if (is("norm")) return {1.0f, 0.1f};
  if (is("attn_sink")) return {0.0f, 1.0f};
  if (is("ape") || is("_base")) return {0.0f, 0.5f};
  if (is("_scale")) return {0.8f, 0.1f};
  if (is("gate.bias")) return {0.0f, 0.05f};
  return {0.0f, fan_in};
}

}  // namespace detail

/// Writes a random checkpoint of the configuration in `config_file` to the folder `out`, which is
/// made: config.json, a copy, and model.safetensors in the release's names. Matrices are stored as
/// `matrix_dtype`, F32 or BF16, everything else in float32 and I64. The values are a function of
/// configuration, seed and dtype. `progress` is called with bytes written and bytes in all.
/// Throws ds4::Error if the configuration is bad or the folder cannot be written.
inline void synthesise(const std::filesystem::path& config_file, DType matrix_dtype,
                       std::uint64_t seed, const std::filesystem::path& out,
                       const std::function<void(std::size_t, std::size_t)>& progress = {}) {
  const ConfigValues config = read_config(config_file);
  const std::vector<TensorInfo> tensors = list_tensors(config);
  std::vector<TensorSpec> specs;
  std::size_t total = 0;
  for (const TensorInfo& tensor : tensors) {
    const DType dtype = tensor.role == TensorRole::matrix   ? matrix_dtype
                        : tensor.role == TensorRole::vector ? DType::f32
                                                            : DType::i64;
    specs.push_back({tensor.name, dtype, tensor.shape});
    total += std::accumulate(tensor.shape.begin(), tensor.shape.end(), dtype_size(dtype),
                             std::multiplies<>{});
  }
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) throw Error(detail::printable_path(out), "cannot create: " + error.message());
  SafetensorsWriter writer(out / "model.safetensors", specs, {{"format", "pt"}});

  constexpr std::size_t kPiece = 1 << 16;
  std::size_t written = 0;
  std::vector<std::byte> piece;
  const auto flush = [&] {
    writer.write(piece);
    written += piece.size();
    piece.clear();
    if (progress) progress(written, total);
  };
  const auto put = [&](const auto& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    piece.insert(piece.end(), bytes, bytes + sizeof value);
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    detail::SynthRandom random(seed, tensor.name);
    if (tensor.role == TensorRole::table) {
      std::vector<std::int64_t> experts(config.n_routed_experts);
      std::iota(experts.begin(), experts.end(), 0);
      for (std::size_t id = 0; id < config.vocab_size; ++id) {
        for (std::size_t k = 0; k < config.num_experts_per_tok; ++k) {  // the start of a shuffle
          const std::size_t other = k + random.next() % (experts.size() - k);
          std::swap(experts[k], experts[other]);
          put(experts[k]);
        }
        if (piece.size() >= kPiece) flush();
      }
      flush();
      continue;
    }
    const auto [mean, deviation] = detail::synth_scale(tensor);
    const std::size_t count = std::accumulate(tensor.shape.begin(), tensor.shape.end(),
                                              std::size_t{1}, std::multiplies<>{});
    for (std::size_t n = 0; n < count;) {
      float values[4];
      random.normal(values);
      for (std::size_t j = 0; j < 4 && n < count; ++j, ++n) {
        const float value = mean + deviation * values[j];
        if (specs[i].dtype == DType::bf16) {
          put(static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + 0x8000u) >> 16));
        } else {
          put(value);
        }
      }
      if (piece.size() >= kPiece) flush();
    }
    flush();
  }
  std::filesystem::copy_file(config_file, out / "config.json",
                             std::filesystem::copy_options::overwrite_existing, error);
  if (error) {
    throw Error(detail::printable_path(out / "config.json"), "cannot write: " + error.message());
  }
  writer.finish();
}

}  // namespace ds4
