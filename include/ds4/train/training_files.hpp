// What a training run writes: the model in the release's layout, and what it needs to go on.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>
#include <ds4/train/optimizer.hpp>
#include <ds4/train/trained_weights.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// Values as bytes of F32 or BF16.
template <class T>
std::vector<std::byte> stored_values(std::span<const T> values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * dtype_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<float>(values[i]);
    if (dtype == DType::bf16) {
      const std::uint16_t bits = bf16_from_float(value);
      std::memcpy(bytes.data() + i * sizeof bits, &bits, sizeof bits);
    } else {
      std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
    }
  }
  return bytes;
}

}  // namespace detail

/// What two texts are told apart by, as text: their number of tokens, and 64 bits that every one of
/// them and their order decide (FNV-1a of the ids' bytes, least significant first). It is of
/// tokens, what a run learns from: where files lie does not matter, which tokenizer read them does.
inline std::string text_fingerprint(std::span<const std::int32_t> tokens) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::int32_t token : tokens) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<std::uint32_t>(token) >> shift & 0xffu)) * 0x100000001b3u;
    }
  }
  return std::to_string(tokens.size()) + " tokens, fingerprint " + detail::hexadecimal(hash);
}

/// Makes a folder if it is missing. Throws ds4::Error if it cannot.
inline void make_folder(const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::create_directories(dir, error) && error) {
    throw Error(ErrorKind::file, detail::printable_path(dir), "cannot create: " + error.message());
  }
}

/// Writes weights and hash tables as model.safetensors, and config.json, to a folder, which is made
/// if it is missing: BF16 matrices, everything else float32, tables I64. Files that are there are
/// replaced, each at once when it is complete. Throws ds4::Error if they cannot be written.
template <class T>
void save_model(const std::filesystem::path& dir, const ConfigValues& config,
                std::span<const TrainedWeights<T>* const> parts) {
  std::vector<TensorSpec> specs;
  for (const TrainedWeights<T>* part : parts) {
    for (const TrainedWeight<T>& weight : part->list()) {
      specs.push_back({weight.name, weight.stored, weight.shape});
    }
    for (const auto& table : part->tables()) {
      specs.push_back({table.name, DType::i64, {table.rows, table.picks.size() / table.rows}});
    }
  }
  make_folder(dir);
  SafetensorsWriter writer(dir / "model.safetensors", std::move(specs), {{"format", "pt"}});
  for (const TrainedWeights<T>* part : parts) {
    for (const TrainedWeight<T>& weight : part->list()) {
      writer.write(detail::stored_values(std::span<const T>(weight.values), weight.stored));
    }
    for (const auto& table : part->tables()) {
      const std::vector<std::int64_t> picks(table.picks.begin(), table.picks.end());
      writer.write(std::as_bytes(std::span(picks)));
    }
  }
  NewFile config_file(dir / "config.json");
  const std::string text = config_json(config);
  config_file.write_at(0, std::as_bytes(std::span(text)));
  writer.finish();
  config_file.finish();
}

/// The same for a model whose weights are one list.
template <class T>
void save_model(const std::filesystem::path& dir, const ConfigValues& config,
                const TrainedWeights<T>& weights) {
  const TrainedWeights<T>* const parts[] = {&weights};
  save_model<T>(dir, config, parts);
}

/// Writes what a run needs to go on as if it had never stopped: float32 weights (masters where the
/// optimizer has them), tables and the optimizer's state, with the number of steps and further
/// `metadata`. Throws as save_model does.
inline void save_training_state(const std::filesystem::path& file,
                                const TrainedWeights<float>& weights,
                                const Optimizer<float>& optimizer,
                                std::map<std::string, std::string> metadata) {
  std::vector<TensorSpec> specs;
  std::vector<std::span<const std::byte>> data;
  const auto add = [&](const std::string& name, DType dtype, auto values) {
    if (values.empty()) return;
    specs.push_back({name, dtype, {values.size()}});
    data.push_back(std::as_bytes(values));
  };
  const auto list = weights.list();
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::vector<float>& master = optimizer.states()[i].master;
    add("weights." + list[i].name, DType::f32, master.empty() ? list[i].values : std::span(master));
  }
  for (const auto& table : weights.tables()) add("tables." + table.name, DType::i32, table.picks);
  for (const auto& state : optimizer.states()) {
    add("mean." + state.name, DType::f32, std::span(state.mean));
    add("mean_square." + state.name, DType::f32, std::span(state.mean_square));
  }
  metadata["steps"] = std::to_string(optimizer.steps());
  SafetensorsWriter writer(file, std::move(specs), metadata);
  for (std::size_t i = 0; i < data.size(); ++i) writer.write(i, data[i]);
  writer.finish();
}

/// Reads what save_training_state wrote into weights and an optimizer of the same model, and
/// returns the metadata. Throws ds4::Error if the file is not of this model and optimizer; both are
/// then in no particular state.
inline std::map<std::string, std::string> load_training_state(const std::filesystem::path& file,
                                                              TrainedWeights<float>& weights,
                                                              Optimizer<float>& optimizer) {
  const Safetensors stored(file);
  const std::string where = detail::printable_path(file);
  std::size_t used = 0;
  const auto read = [&](const std::string& name, DType dtype, auto values) {
    if (values.empty()) return;
    const StoredTensor* tensor = stored.find(name);
    if (tensor == nullptr)
      throw Error(ErrorKind::file, where, detail::printable(name) + ": missing");
    if (tensor->dtype != dtype || tensor->data.size() != values.size_bytes()) {
      throw Error(ErrorKind::file, where,
                  detail::printable(name) + ": found " + std::string(dtype_name(tensor->dtype)) +
                      " " + detail::shape_text(tensor->shape) + ", expected " +
                      std::string(dtype_name(dtype)) + " [" + std::to_string(values.size()) + "]");
    }
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    ++used;
  };
  const auto list = weights.list();
  for (std::size_t i = 0; i < list.size(); ++i) {
    read("weights." + list[i].name, DType::f32, optimizer.moved(i, list[i]));
  }
  optimizer.round_weights(list);
  for (auto& table : weights.tables()) {
    read("tables." + table.name, DType::i32, table.picks);
    for (const std::int32_t pick : table.picks) {
      if (pick < 0 || static_cast<std::size_t>(pick) >= table.experts) {
        throw Error(ErrorKind::file, where,
                    "tables." + table.name + ": found expert " + std::to_string(pick) +
                        ", expected 0 to " + std::to_string(table.experts - 1));
      }
    }
  }
  for (auto& state : optimizer.states()) {
    read("mean." + state.name, DType::f32, std::span(state.mean));
    read("mean_square." + state.name, DType::f32, std::span(state.mean_square));
  }
  if (used != stored.tensors().size()) {
    throw Error(ErrorKind::file, where,
                "found " + std::to_string(stored.tensors().size()) + " tensors, expected " +
                    std::to_string(used));
  }
  const auto steps = stored.metadata().find("steps");
  if (steps == stored.metadata().end())
    throw Error(ErrorKind::file, where, "__metadata__: steps: missing");
  const std::string& text = steps->second;
  std::size_t count = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size()) {
    throw Error(ErrorKind::file, where,
                "__metadata__: steps: found " + detail::in_quotes(text) + ", expected a number");
  }
  optimizer.set_steps(count);
  return stored.metadata();
}

}  // namespace ds4::inline v0_1
