// What safetensors.hpp declares.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <ds4/checkpoint/safetensors.hpp>
#include <ds4/checkpoint/weight_names.hpp>
#include <ds4/core/checked_stream.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/linkage.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// The elements of an array of sizes, if that is what value is.
inline std::optional<std::vector<std::size_t>> as_sizes(const nlohmann::json& value) {
  if (!value.is_array()) return std::nullopt;
  std::vector<std::size_t> sizes;
  for (const auto& element : value) {
    const auto size = as_size(element);
    if (!size) return std::nullopt;
    sizes.push_back(*size);
  }
  return sizes;
}

/// Bytes at the beginning and at the end of a tensor that a checkpoint's fingerprint looks at.
inline constexpr std::size_t kFingerprintSample = 128;

/// Sums up the beginnings and ends of tensors. By reads, not from the mapping, where the system
/// would read far more around each; where one tensor ends and the next begins, one read serves
/// both.
class SampleReader {
 public:
  std::uint64_t sum(const StoredTensor& tensor) {
    const std::size_t size = tensor.data.size();
    const std::size_t first = size <= 2 * kFingerprintSample ? size : kFingerprintSample;
    Checksum sum;
    sum.add(bytes(tensor, 0, first));
    if (first < size) sum.add(bytes(tensor, size - kFingerprintSample, kFingerprintSample));
    return sum.value();
  }

 private:
  /// `count` bytes of a tensor's, until the next call.
  std::span<const std::byte> bytes(const StoredTensor& tensor, std::size_t from,
                                   std::size_t count) {
    const std::byte* const begin = tensor.data.data() + from;
    if (file_ != tensor.file || begin < begin_ || begin + count > begin_ + size_) {
      const std::span<const std::byte> whole = tensor.file->bytes();
      const auto offset = static_cast<std::size_t>(begin - whole.data());
      size_ = 0;  // none of them if the file cannot be read
      file_ = tensor.file;
      begin_ = begin;
      const std::size_t size = std::min(buffer_.size(), whole.size() - offset);
      file_->read(offset, std::span(buffer_).first(size));
      size_ = size;
    }
    return std::span(buffer_).subspan(static_cast<std::size_t>(begin - begin_), count);
  }

  std::array<std::byte, 4 * kFingerprintSample> buffer_{};
  std::shared_ptr<const MappedFile> file_;
  const std::byte* begin_ = nullptr;  // where the buffer's bytes are mapped
  std::size_t size_ = 0;
};

}  // namespace detail

DS4_FUNCTION void Safetensors::read_header() {
  const std::string where = detail::printable_path(path());
  const std::span<const std::byte> bytes = file_->bytes();
  if (bytes.size() < 8) {
    throw Error(
        ErrorKind::file, where,
        "expected 8 bytes of header length, found a file of " + std::to_string(bytes.size()));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  const std::size_t limit = std::min(bytes.size() - 8, detail::kMaxSafetensorsHeader);
  if (length > limit) {
    throw Error(ErrorKind::file, where,
                "expected a header of at most " + std::to_string(limit) + " bytes, found length " +
                    std::to_string(length));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data() + 8),
                              static_cast<std::size_t>(length));
  if (!text.starts_with('{')) {
    throw Error(
        ErrorKind::file, where,
        "expected a header that begins with {, found " + detail::in_quotes(text.substr(0, 8)));
  }
  const nlohmann::json header = detail::parse_json(where, text);
  const std::span<const std::byte> buffer = bytes.subspan(8 + text.size());

  detail::Problems problems;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      read_metadata(entry, problems);
    } else {
      read_entry(name, entry, buffer, problems);
    }
  }
  problems.throw_if_any(where);  // coverage says nothing new where entries are wrong
  check_coverage(buffer, problems);
  problems.throw_if_any(where);
}

DS4_FUNCTION void Safetensors::read_metadata(const nlohmann::json& entry,
                                             detail::Problems& problems) {
  if (!entry.is_object()) {
    problems.add("__metadata__: expected an object, found " + detail::describe(entry));
    return;
  }
  for (const auto& [key, value] : entry.items()) {
    if (value.is_string()) {
      metadata_.emplace(key, value.get<std::string>());
    } else {
      problems.add("__metadata__: " + detail::printable(key) + ": expected a string, found " +
                   detail::describe(value));
    }
  }
}

DS4_FUNCTION void Safetensors::read_entry(const std::string& name, const nlohmann::json& entry,
                                          std::span<const std::byte> buffer,
                                          detail::Problems& problems) {
  const auto reject = [&](const std::string& what) {
    problems.add(detail::printable(name) + ": " + what);
  };
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    std::string found;
    if (entry.is_object()) {
      for (const auto& [key, value] : entry.items()) found += (found.empty() ? "" : ", ") + key;
    } else {
      found = detail::describe(entry);
    }
    return reject("expected dtype, shape and data_offsets, found " + detail::printable(found));
  }
  const auto& dtype_entry = entry["dtype"];
  const auto dtype = dtype_entry.is_string()
                         ? dtype_from_name(dtype_entry.get_ref<const std::string&>())
                         : std::nullopt;
  if (!dtype) {
    std::string known;
    for (const auto& info : detail::kDTypes) {
      known += (known.empty() ? "" : ", ") + std::string(info.name);
    }
    return reject("dtype: expected one of " + known + ", found " + detail::describe(dtype_entry));
  }
  auto shape = detail::as_sizes(entry["shape"]);
  if (!shape) {
    return reject("shape: expected an array of non-negative integers, found " +
                  detail::printable(entry["shape"].dump()));
  }
  const auto offsets = detail::as_sizes(entry["data_offsets"]);
  if (!offsets || offsets->size() != 2) {
    return reject("data_offsets: expected [begin, end], found " +
                  detail::printable(entry["data_offsets"].dump()));
  }
  const std::size_t begin = (*offsets)[0];
  const std::size_t end = (*offsets)[1];
  const std::string range = detail::shape_text(*offsets);
  if (begin > end || end > buffer.size()) {
    return reject("data_offsets: expected a range within the " + std::to_string(buffer.size()) +
                  " bytes of data, found " + range);
  }
  const auto size = detail::byte_count(*shape, *dtype);
  const std::string kind = std::string(dtype_name(*dtype)) + " " + detail::shape_text(*shape);
  if (!size) return reject("shape: the size of " + kind + " overflows");
  if (*size != end - begin) {
    return reject("data_offsets: expected " + std::to_string(*size) + " bytes for " + kind +
                  ", found " + std::to_string(end - begin));
  }
  tensors_.push_back({name, name, *dtype, std::move(*shape), buffer.subspan(begin, *size), file_});
}

DS4_FUNCTION void Safetensors::check_coverage(std::span<const std::byte> buffer,
                                              detail::Problems& problems) const {
  std::vector<const StoredTensor*> order;
  order.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) order.push_back(&tensor);
  const auto begin_of = [&](const StoredTensor* tensor) {
    return static_cast<std::size_t>(tensor->data.data() - buffer.data());
  };
  std::ranges::sort(order, {}, [&](const StoredTensor* tensor) {
    return std::pair(begin_of(tensor), tensor->data.size());  // an empty tensor first
  });
  std::size_t covered = 0;
  const auto expect_covered = [&](std::size_t begin) {
    if (begin > covered) {
      problems.add("data bytes " + std::to_string(covered) + " to " + std::to_string(begin) +
                   " belong to no tensor");
    }
  };
  for (const StoredTensor* tensor : order) {
    const std::size_t begin = begin_of(tensor);
    if (begin < covered) {
      problems.add(detail::printable(tensor->name) +
                   ": data_offsets: expected a begin of at least " + std::to_string(covered) +
                   ", found " + std::to_string(begin) + ", which overlaps another tensor");
    }
    expect_covered(begin);
    covered = std::max(covered, begin + tensor->data.size());
  }
  expect_covered(buffer.size());
}

DS4_FUNCTION Checkpoint Checkpoint::open(const std::filesystem::path& dir) {
  const std::string where = detail::printable_path(dir);
  const auto single = dir / "model.safetensors";
  const auto index = dir / "model.safetensors.index.json";
  std::error_code ignored;
  const bool has_single = std::filesystem::exists(single, ignored);
  const bool has_index = std::filesystem::exists(index, ignored);
  if (has_single == has_index) {
    throw Error(ErrorKind::file, where,
                std::string("expected model.safetensors or model.safetensors.index.json, "
                            "found ") +
                    (has_single ? "both" : "neither"));
  }
  auto data = std::make_shared<Data>();
  data->path = dir;
  std::vector<Safetensors> files;
  if (has_single) {
    files.emplace_back(single);
  } else {
    files = open_shards(dir, index, data->warnings);
  }

  for (const Safetensors& file : files) {
    data->files.push_back(file.file());
    for (StoredTensor tensor : file.tensors()) {
      tensor.name = canonical_name(tensor.stored_name);
      data->tensors.push_back(std::move(tensor));
    }
  }
  std::ranges::sort(data->tensors, {}, [](const StoredTensor& tensor) {
    return std::tie(tensor.name, tensor.stored_name);
  });
  detail::Problems problems;
  for (std::size_t i = 1; i < data->tensors.size(); ++i) {
    const StoredTensor& a = data->tensors[i - 1];
    const StoredTensor& b = data->tensors[i];
    if (a.name == b.name) {
      problems.add("expected one tensor " + detail::printable(a.name) + ", found " +
                   detail::printable(a.stored_name) + " and " + detail::printable(b.stored_name));
    }
  }
  problems.throw_if_any(where);
  return Checkpoint(std::move(data));
}

DS4_FUNCTION std::vector<Safetensors> Checkpoint::open_shards(
    const std::filesystem::path& dir, const std::filesystem::path& index_path,
    std::vector<std::string>& warnings) {
  const std::string where = detail::printable_path(index_path);
  const nlohmann::json index = detail::read_json(index_path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(ErrorKind::file, where, "expected an object with weight_map, an object");
  }
  detail::Problems problems;
  std::map<std::string, std::set<std::string>> listed;  // tensors of each shard, by the index
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // A name from the file must not lead out of the folder.
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\\\0", 3)) != name.npos) {
      problems.add(detail::printable(tensor) +
                   ": expected the name of a file in this folder, found " +
                   detail::describe(shard));
    } else {
      listed[name].insert(tensor);
    }
  }
  problems.throw_if_any(where);

  std::vector<Safetensors> shards;
  std::size_t total_size = 0;
  for (const auto& [name, tensors] : listed) {
    const Safetensors& shard = shards.emplace_back(dir / name);
    for (const std::string& tensor : tensors) {
      if (shard.find(tensor) == nullptr) {
        problems.add(detail::printable(tensor) + ": expected in " + detail::printable(name) +
                     ", which does not have it");
      }
    }
    for (const StoredTensor& tensor : shard.tensors()) {
      total_size += tensor.data.size();
      if (!tensors.contains(tensor.name)) {
        problems.add(detail::printable(tensor.name) + ": found in " + detail::printable(name) +
                     ", where weight_map does not place it");
      }
    }
  }
  problems.throw_if_any(where);

  // The headers say it better: tools leave total_size out, or write what it was before they changed
  // the tensors.
  if (index.contains("metadata") && index["metadata"].is_object() &&
      index["metadata"].contains("total_size")) {
    const auto& stated = index["metadata"]["total_size"];
    // Some tools write the integer as 1234.0.
    const bool equal = stated.is_number_float()
                           ? stated.get<double>() == static_cast<double>(total_size)
                           : detail::as_size(stated) == total_size;
    if (!equal) {
      warnings.push_back(where + ": metadata.total_size: expected " + std::to_string(total_size) +
                         ", the bytes of all tensors, found " + detail::describe(stated) +
                         ", which is not used");
    }
  }
  return shards;
}

DS4_FUNCTION std::uint64_t Checkpoint::fingerprint() const {
  // Threads that ask at once find the same.
  if (const std::uint64_t known = data_->fingerprint.load()) return known;
  const std::vector<StoredTensor>& tensors = data_->tensors;
  std::vector<const StoredTensor*> order;  // as they lie in the files
  order.reserve(tensors.size());
  for (const StoredTensor& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, std::less<>(), [](const auto* tensor) { return tensor->data.data(); });
  std::vector<std::uint64_t> sums(tensors.size());
  detail::SampleReader samples;
  for (const StoredTensor* tensor : order) {
    sums[static_cast<std::size_t>(tensor - tensors.data())] = samples.sum(*tensor);
  }
  detail::Checksum sum;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    sum.add(std::as_bytes(std::span(tensors[i].name)));
    sum.add(std::as_bytes(std::span(dtype_name(tensors[i].dtype))));
    sum.add(std::as_bytes(std::span(tensors[i].shape)));
    sum.add(std::as_bytes(std::span(&sums[i], 1)));
  }
  const std::uint64_t found = std::max<std::uint64_t>(sum.value(), 1);
  data_->fingerprint.store(found);
  return found;
}

DS4_FUNCTION std::string SafetensorsWriter::lay_out(
    const std::map<std::string, std::string>& metadata) {
  const std::string where = detail::printable_path(path_);
  std::vector<std::size_t> order;
  for (const TensorSpec& tensor : tensors_) {
    const auto size = detail::byte_count(tensor.shape, tensor.dtype);
    if (!size)
      throw Error(ErrorKind::file, where, detail::printable(tensor.name) + ": its size overflows");
    order.push_back(sizes_.size());
    sizes_.push_back(*size);
  }
  // Wide elements first: each tensor then ends at a multiple of the next one's element size.
  std::ranges::sort(order, {},
                    [&](std::size_t i) { return std::pair(8 - dtype_size(tensors_[i].dtype), i); });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  offsets_.resize(tensors_.size());
  written_.resize(tensors_.size());
  std::size_t end = 0;
  for (const std::size_t i : order) {
    const TensorSpec& tensor = tensors_[i];
    if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
      throw Error(
          ErrorKind::file, where,
          detail::printable(tensor.name) + ": expected a name used once, and not __metadata__");
    }
    offsets_[i] = end;
    if (sizes_[i] > static_cast<std::size_t>(std::numeric_limits<::off_t>::max()) / 2 - end) {
      throw Error(ErrorKind::file, where, "the size of all tensors overflows");
    }
    end += sizes_[i];
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offsets_[i], end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorKind::file, where, "expected names and metadata in UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > detail::kMaxSafetensorsHeader) {
    throw Error(ErrorKind::file, where,
                "expected a header of at most " + std::to_string(detail::kMaxSafetensorsHeader) +
                    " bytes, found " + std::to_string(text.size()));
  }
  std::string length;
  for (unsigned i = 0; i < 8; ++i) length += static_cast<char>(text.size() >> (8 * i) & 0xff);
  for (std::size_t& offset : offsets_) offset += 8 + text.size();
  skip_complete();
  return length + text;
}

}  // namespace ds4::inline v0_1
