// What convert.hpp declares.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ds4/checkpoint/checkpoint_writer.hpp>
#include <ds4/checkpoint/convert.hpp>
#include <ds4/checkpoint/drafter.hpp>
#include <ds4/checkpoint/quantise.hpp>
#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/storage.hpp>
#include <ds4/checkpoint/tensor_list.hpp>
#include <ds4/checkpoint/tensor_reader.hpp>
#include <ds4/config/config_json.hpp>
#include <ds4/config/config_values.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/storages.hpp>
#include <ds4/core/stored_matrix.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// A tensor of the source and how it will be stored.
struct TensorToConvert {
  TensorInfo info;
  std::vector<TensorSpec> stored;  // in the target: values and, if it has some, scales
  StoredMatrix matrix;             // in the source, unless it is a table; a vector is one row
  StoredTable table;

  bool is_table() const { return info.role == TensorRole::table; }
  DType from() const { return is_table() ? table.dtype : matrix.dtype; }
  DType to() const { return stored[0].dtype; }
  bool has_f32_scales() const {
    return matrix.scales != nullptr && matrix.scale_dtype == DType::f32;
  }
  bool is_stored_so() const { return from() == to() && !has_f32_scales(); }
};

/// The name of a storage.
inline std::string storage_text(DType dtype, bool has_f32_scales = false) {
  std::string text(storage_info(dtype).name);
  if (has_f32_scales) text += " (F32 scales)";
  return text;
}

/// What kind of tensor has this name in a report.
inline std::string_view tensor_kind(const TensorInfo& tensor) {
  const auto has = [&](std::string_view part) {
    return tensor.name.find(part) != std::string::npos;
  };
  if (tensor.name.starts_with("mtp.")) return "drafter";
  if (tensor.role == TensorRole::norm) return "norms";
  if (tensor.role == TensorRole::table) return "hash tables";
  if (has(".ffn.experts.")) return "routed experts";
  if (has(".ffn.shared_experts.")) return "shared experts";
  if (has(".ffn.gate.")) return "routers";
  if (has(".attn.indexer.")) return "indexer";
  if (has(".attn.compressor.")) return "compressors";
  if (has(".attn.attn_sink")) return "attention sinks";
  if (has(".attn.")) return "attention projections";
  if (has("hc_")) return "hyper-connections";
  return "embedding and head";
}

/// Where a tensor's errors belong; nullptr for one that keeps its storage.
inline StorageChange* change_of(const TensorToConvert& tensor,
                                std::vector<StorageChange>& changes) {
  if (tensor.is_stored_so()) return nullptr;
  const StorageChange wanted{std::string(tensor_kind(tensor.info)),
                             storage_text(tensor.from(), tensor.has_f32_scales()),
                             storage_text(tensor.to()),
                             0,
                             {}};
  const auto at = std::ranges::find_if(changes, [&](const StorageChange& change) {
    return change.kind == wanted.kind && change.from == wanted.from && change.to == wanted.to;
  });
  return at != changes.end() ? &*at : &changes.emplace_back(wanted);
}

/// The fields of a config.json that state how tensors are stored, set to a format; the others stay
/// as they are, in their order. Without the fields of a part that sees images.
inline std::string stored_config_json(std::string_view text, StorageFormat format) {
  auto root = nlohmann::ordered_json::parse(text);
  std::vector<std::string> surplus;
  for (const auto& [key, value] : root.items()) {
    if (key.starts_with("vision_")) surplus.push_back(key);
  }
  const bool release = format == StorageFormat::release;
  if (!release) surplus.insert(surplus.end(), {"quantization_config", "expert_dtype"});
  for (const std::string& key : surplus) root.erase(key);

  const char* const dtype = format == StorageFormat::f32 ? "float32" : "bfloat16";
  if (root.contains("dtype")) root["dtype"] = dtype;
  if (root.contains("torch_dtype") || !root.contains("dtype")) root["torch_dtype"] = dtype;
  if (release) {
    root["expert_dtype"] = "fp4";
    root["quantization_config"] = {
        {"activation_scheme", "dynamic"},
        {"fmt", "e4m3"},
        {"quant_method", "fp8"},
        {"scale_fmt", "ue8m0"},
        {"weight_block_size", {StoredFp8::kScaleRows, StoredFp8::kScaleCols}}};
  }
  return root.dump(2) + "\n";
}

inline std::string file_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// The tensors to write, all of the source checked; sets what is left out.
inline std::vector<TensorToConvert> tensors_to_convert(ConfigValues& config,
                                                       const Checkpoint& checkpoint,
                                                       StorageFormat format,
                                                       Conversion& conversion) {
  // What would make the list of tensors absurd before it can be compared.
  const std::size_t count = checkpoint.tensors().size();
  if (config.n_routed_experts > count) {
    throw Error(ErrorKind::file, printable_path(checkpoint.path() / "config.json"),
                "n_routed_experts: expected at most as many as there are tensors, " +
                    std::to_string(count) + ", found " + std::to_string(config.n_routed_experts));
  }

  const DrafterKind drafter = complete_drafter(config, checkpoint);
  TensorReader reader(checkpoint);
  if (drafter == DrafterKind::none) conversion.left_out = reader.set_aside("mtp.");
  conversion.images_left_out = reader.set_aside(list_vision_tensors(config, drafter));
  std::vector<TensorToConvert> tensors;
  for (TensorInfo& info : list_tensors(config, drafter)) {
    TensorToConvert tensor;
    switch (info.role) {
      case TensorRole::norm:
      case TensorRole::vector:
        tensor.matrix = reader.vector(info.name, info.shape).value_or(StoredMatrix{});
        break;
      case TensorRole::table:
        tensor.table =
            reader.table(info.name, info.shape[0], info.shape[1], config.n_routed_experts)
                .value_or(StoredTable{});
        break;
      default:
        tensor.matrix =
            reader.matrix(info.name, info.shape[0], info.shape[1]).value_or(StoredMatrix{});
    }
    tensor.stored = stored_tensors(info, format);
    tensor.info = std::move(info);
    tensors.push_back(std::move(tensor));
  }
  reader.finish();  // every tensor is there
  return tensors;
}

/// Writes tensors in their new storage, panel by panel.
class TensorConverter {
 public:
  TensorConverter(const Checkpoint& checkpoint, CheckpointWriter& writer,
                  const std::function<void(std::size_t, std::size_t)>& progress)
      : checkpoint_(checkpoint), writer_(writer), progress_(progress) {}

  /// Writes tensor number `group`; adds its errors.
  void operator()(std::size_t group, const TensorToConvert& tensor, StorageError& error) {
    if (tensor.is_stored_so()) {
      copy(group, tensor);
    } else if (tensor.is_table()) {
      widen(group, tensor);
    } else {
      convert_matrix(group, tensor, error);
    }
  }

 private:
  static constexpr std::size_t kPiece = std::size_t{1} << 20;

  void write(std::size_t group, std::size_t part, std::span<const std::byte> bytes) {
    writer_.write(group, part, bytes);
    written_ += bytes.size();
    if (progress_) progress_(written_, writer_.total_bytes());
  }

  void copy(std::size_t group, const TensorToConvert& tensor) {
    const std::byte* const sources[] = {
        tensor.is_table() ? tensor.table.values : tensor.matrix.values, tensor.matrix.scales};
    for (std::size_t part = 0; part < tensor.stored.size(); ++part) {
      const TensorSpec& spec = tensor.stored[part];
      std::span bytes(sources[part], byte_count(spec.shape, spec.dtype).value_or(0));
      while (!bytes.empty()) {
        const std::size_t size = std::min(kPiece, bytes.size());
        write(group, part, bytes.first(size));
        bytes = bytes.subspan(size);
      }
    }
  }

  void widen(std::size_t group, const TensorToConvert& tensor) {
    const std::size_t count = tensor.info.shape[0] * tensor.info.shape[1];
    std::vector<std::int64_t> entries;
    for (std::size_t i = 0; i < count;) {
      for (entries.clear(); i < count && entries.size() < kPiece / 8; ++i) {
        entries.push_back(tensor.table.at(i));
      }
      write(group, 0, std::as_bytes(std::span(entries)));
    }
  }

  void convert_matrix(std::size_t group, const TensorToConvert& tensor, StorageError& error) {
    const StoredMatrix& source = tensor.matrix;
    // As many rows as share a scale in FP8.
    for (std::size_t row = 0; row < source.rows; row += StoredFp8::kScaleRows) {
      const std::size_t rows = std::min(StoredFp8::kScaleRows, source.rows - row);
      values_.resize(rows * source.cols);
      for (std::size_t r = 0; r < rows; ++r) {
        source.decode_row(row + r, values_.data() + r * source.cols);
      }
      const StoredMatrix stored = store(tensor, row);
      // Against what a reader of the file will decode.
      decoded_.resize(source.cols);
      for (std::size_t r = 0; r < rows; ++r) {
        stored.decode_row(r, decoded_.data());
        error.add(std::span(values_).subspan(r * source.cols, source.cols), decoded_);
      }
      write(group, 0, codes_);
      if (!scales_.empty()) write(group, 1, scales_);
    }
  }

  /// values_, the rows from `row` on, as codes_ and scales_; returns a view of these.
  StoredMatrix store(const TensorToConvert& tensor, std::size_t row) {
    const std::size_t cols = tensor.matrix.cols;
    const std::size_t rows = values_.size() / cols;
    const DType dtype = tensor.to();
    codes_.resize(rows * stored_row_bytes(dtype, cols));
    const auto [scale_rows, scale_cols] = scale_shape(dtype, rows, cols);
    scales_.resize(scale_rows * scale_cols);
    if (!store_values(dtype, values_, cols, as_codes(codes_), as_codes(scales_))) {
      throw Error(ErrorKind::file, checkpoint_.find(tensor.info.name)->where(),
                  "row " +
                      std::to_string(row + unquantisable_row(values_, cols, dtype).value_or(0)) +
                      ": found a value that is not finite, which " + storage_text(dtype) +
                      " does not have");
    }
    return {codes_.data(), scales_.data(), rows, cols, dtype, DType::f8_e8m0};
  }

  static std::span<std::uint8_t> as_codes(std::vector<std::byte>& bytes) {
    return {reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size()};
  }

  const Checkpoint& checkpoint_;
  CheckpointWriter& writer_;
  const std::function<void(std::size_t, std::size_t)>& progress_;
  std::size_t written_ = 0;
  std::vector<float> values_;  // of a panel
  std::vector<float> decoded_;
  std::vector<std::byte> codes_;
  std::vector<std::byte> scales_;
};

}  // namespace detail

DS4_FUNCTION void StorageError::add(std::span<const float> values, std::span<const float> stored) {
  // Four sums at a time, as one alone waits for each of its additions.
  struct Sums {
    std::array<double, 4> squares{};
    std::array<double, 4> of_values{};
    std::array<double, 4> largest{};
    std::array<std::size_t, 4> compared{};
  } sums;
  const auto add = [&](std::size_t lane, float value, float kept) {
    const bool finite = (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) < detail::kInfinityBits;
    const double v = finite ? static_cast<double>(value) : 0.0;
    const double difference = finite ? static_cast<double>(kept) - v : 0.0;
    sums.squares[lane] += difference * difference;
    sums.of_values[lane] += v * v;
    sums.largest[lane] = std::max(sums.largest[lane], std::abs(difference));
    sums.compared[lane] += finite ? 1 : 0;
  };
  const std::size_t whole = values.size() / 4 * 4;
  for (std::size_t i = 0; i < whole; i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) add(lane, values[i + lane], stored[i + lane]);
  }
  for (std::size_t i = whole; i < values.size(); ++i) add(0, values[i], stored[i]);
  for (std::size_t lane = 0; lane < 4; ++lane) {
    squares += sums.squares[lane];
    of_values += sums.of_values[lane];
    largest = std::max(largest, sums.largest[lane]);
    compared += sums.compared[lane];
  }
}

DS4_FUNCTION Conversion convert(const std::filesystem::path& dir, const std::filesystem::path& out,
                                const ConvertOptions& options) {
  const std::filesystem::path config_file = dir / "config.json";
  ConfigValues config = read_config(config_file);
  const Checkpoint checkpoint = Checkpoint::open(dir);
  std::error_code ignored;
  if (std::filesystem::equivalent(dir, out, ignored)) {
    throw Error(ErrorKind::file, detail::printable_path(out),
                "expected another folder than the checkpoint's own");
  }
  std::map<std::string, std::string> files;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    if (std::filesystem::exists(dir / name, ignored)) files[name] = detail::file_text(dir / name);
  }
  files["config.json"] = detail::stored_config_json(detail::file_text(config_file), options.format);

  Conversion conversion;
  const std::vector<detail::TensorToConvert> tensors =
      detail::tensors_to_convert(config, checkpoint, options.format, conversion);
  std::vector<CheckpointWriter::Group> groups;
  groups.reserve(tensors.size());
  for (const auto& tensor : tensors) groups.push_back(tensor.stored);
  CheckpointWriter writer(out, std::move(groups), options.shard_bytes);

  detail::TensorConverter write(checkpoint, writer, options.progress);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    StorageError unchanged;
    StorageChange* const change = detail::change_of(tensors[i], conversion.changes);
    write(i, tensors[i], change != nullptr ? change->error : unchanged);
    if (change != nullptr) ++change->tensors;
  }
  checkpoint.check();  // what was read is what the files had
  writer.finish(files);
  conversion.tensors = tensors.size();
  conversion.bytes = writer.total_bytes();
  conversion.files = writer.shards();
  conversion.warnings.assign(checkpoint.warnings().begin(), checkpoint.warnings().end());
  return conversion;
}

}  // namespace ds4::inline v0_1
