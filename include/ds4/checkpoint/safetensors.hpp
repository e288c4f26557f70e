// Safetensors files and checkpoint folders: every offset checked, tensors viewed in place; a
// writer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
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

#include <ds4/checkpoint/weight_names.hpp>
#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/json.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>

namespace ds4::inline v0_1 {

/// A tensor of a file, in place: the data are the mapped bytes, row-major, little-endian and
/// aligned to the dtype.
struct StoredTensor {
  std::string name;                        ///< for look-up; in a Checkpoint the release's name
  std::string stored_name;                 ///< as the file spells it
  DType dtype = DType::f32;                ///< type of an element
  std::vector<std::size_t> shape;          ///< empty for a scalar
  std::span<const std::byte> data;         ///< mapped
  std::shared_ptr<const MappedFile> file;  ///< keeps the data mapped

  /// "<file>: <stored name>", for messages.
  std::string where() const {
    return detail::printable_path(file->path()) + ": " + detail::printable(stored_name);
  }
};

namespace detail {

/// The header limit of the format's own implementation.
inline constexpr std::size_t kMaxSafetensorsHeader = 100'000'000;

/// Bytes of a tensor, unless they overflow.
inline std::optional<std::size_t> byte_count(std::span<const std::size_t> shape, DType dtype) {
  std::size_t count = dtype_size(dtype);
  for (const std::size_t extent : shape) {
    if (extent != 0 && count > std::numeric_limits<std::size_t>::max() / extent) {
      return std::nullopt;
    }
    count *= extent;
  }
  return count;
}

/// "[2, 3]", shortened if it is long.
inline std::string shape_text(std::span<const std::size_t> shape) {
  std::string text;
  for (const std::size_t extent : shape)
    text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + printable(text) + "]";
}

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

/// The entry with this name in a sequence sorted by name, or nullptr.
inline const StoredTensor* find_tensor(std::span<const StoredTensor> tensors,
                                       std::string_view name) {
  const auto at = std::ranges::lower_bound(tensors, name, {}, &StoredTensor::name);
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

}  // namespace detail

/// One safetensors file, its header fully checked. Copies share the mapping.
class Safetensors {
 public:
  /// Maps the file and reads its header. Throws ds4::Error with up to 20 problems: anything but a
  /// header of known dtypes whose tensors are aligned and cover the rest of the file, each byte
  /// once.
  explicit Safetensors(std::filesystem::path path)
      : file_(std::make_shared<const MappedFile>(std::move(path))) {
    read_header();
  }

  /// All tensors, sorted by name.
  std::span<const StoredTensor> tensors() const { return tensors_; }
  /// The tensor with this name, or nullptr.
  const StoredTensor* find(std::string_view name) const {
    return detail::find_tensor(tensors_, name);
  }
  /// The header's __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// As given to the constructor.
  const std::filesystem::path& path() const { return file_->path(); }

  /// The mapped file.
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  void read_header() {
    const std::string where = detail::printable_path(path());
    const std::span<const std::byte> bytes = file_->bytes();
    if (bytes.size() < 8) {
      throw Error(where, "expected 8 bytes of header length, found a file of " +
                             std::to_string(bytes.size()));
    }
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;)
      length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    const std::size_t limit = std::min(bytes.size() - 8, detail::kMaxSafetensorsHeader);
    if (length > limit) {
      throw Error(where, "expected a header of at most " + std::to_string(limit) +
                             " bytes, found length " + std::to_string(length));
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data() + 8),
                                static_cast<std::size_t>(length));
    if (!text.starts_with('{')) {
      throw Error(where, "expected a header that begins with {, found " +
                             detail::in_quotes(text.substr(0, 8)));
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

  void read_metadata(const nlohmann::json& entry, detail::Problems& problems) {
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

  void read_entry(const std::string& name, const nlohmann::json& entry,
                  std::span<const std::byte> buffer, detail::Problems& problems) {
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
    const auto data = buffer.subspan(begin, *size);
    if (reinterpret_cast<std::uintptr_t>(data.data()) % dtype_size(*dtype) != 0) {
      return reject("data_offsets: expected " + std::string(dtype_name(*dtype)) +
                    " data at a multiple of " + std::to_string(dtype_size(*dtype)) +
                    " bytes in the file, found a remainder");
    }
    tensors_.push_back({name, name, *dtype, std::move(*shape), data, file_});
  }

  void check_coverage(std::span<const std::byte> buffer, detail::Problems& problems) const {
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

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, std::string> metadata_;
  std::vector<StoredTensor> tensors_;  // the header's order: nlohmann sorts keys
};

/// The tensors of a checkpoint folder, one file or shards, under the release's names whichever
/// layout the files have. A cheap value: copies share files and table.
class Checkpoint {
 public:
  /// Opens `dir`, which holds either model.safetensors or model.safetensors.index.json with its
  /// shards. Throws ds4::Error if a file is malformed (see Safetensors), if index and shards do not
  /// name exactly the same tensors, or if two tensors have one canonical_name().
  static Checkpoint open(const std::filesystem::path& dir);

  /// All tensors, sorted by name.
  std::span<const StoredTensor> tensors() const { return data_->tensors; }
  /// The tensor with this (canonical) name, or nullptr.
  const StoredTensor* find(std::string_view name) const {
    return detail::find_tensor(data_->tensors, name);
  }
  /// The folder, as given to open().
  const std::filesystem::path& path() const { return data_->path; }

  /// Whether all files tell; see MappedFile::tells_residency().
  bool tells_residency() const {
    return std::ranges::all_of(data_->files,
                               [](const auto& file) { return file->tells_residency(); });
  }

  /// Throws ds4::Error if one of the files can no longer be read whole; see MappedFile::check().
  void check() const {
    for (const auto& file : data_->files) file->check();
  }

 private:
  struct Data {
    std::filesystem::path path;
    std::vector<StoredTensor> tensors;
    std::vector<std::shared_ptr<const MappedFile>> files;
  };

  explicit Checkpoint(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

  static std::vector<Safetensors> open_shards(const std::filesystem::path& dir,
                                              const std::filesystem::path& index_path);

  std::shared_ptr<const Data> data_;
};

inline Checkpoint Checkpoint::open(const std::filesystem::path& dir) {
  const std::string where = detail::printable_path(dir);
  const auto single = dir / "model.safetensors";
  const auto index = dir / "model.safetensors.index.json";
  std::error_code ignored;
  const bool has_single = std::filesystem::exists(single, ignored);
  const bool has_index = std::filesystem::exists(index, ignored);
  if (has_single == has_index) {
    throw Error(where, std::string("expected model.safetensors or model.safetensors.index.json, "
                                   "found ") +
                           (has_single ? "both" : "neither"));
  }
  std::vector<Safetensors> files;
  if (has_single) {
    files.emplace_back(single);
  } else {
    files = open_shards(dir, index);
  }

  auto data = std::make_shared<Data>();
  data->path = dir;
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

inline std::vector<Safetensors> Checkpoint::open_shards(const std::filesystem::path& dir,
                                                        const std::filesystem::path& index_path) {
  const std::string where = detail::printable_path(index_path);
  const nlohmann::json index = detail::read_json(index_path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(where, "expected an object with weight_map, an object");
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

  // Not every tool writes metadata.total_size.
  if (index.contains("metadata") && index["metadata"].is_object() &&
      index["metadata"].contains("total_size")) {
    const auto& stated = index["metadata"]["total_size"];
    // Some tools write the integer as 1234.0.
    const bool equal = stated.is_number_float()
                           ? stated.get<double>() == static_cast<double>(total_size)
                           : detail::as_size(stated) == total_size;
    if (!equal) {
      throw Error(where, "metadata.total_size: expected " + std::to_string(total_size) +
                             ", the bytes of all tensors, found " + detail::describe(stated));
    }
  }
  return shards;
}

/// What SafetensorsWriter is told of a tensor before its data.
struct TensorSpec {
  ///@{
  /// As the header states them.
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::size_t> shape;
  ///@}
};

/// Writes one safetensors file from tensors declared up front, their data following in pieces.
/// The file appears under its name, complete, with finish(); until then a temporary file beside it
/// holds the data, and is removed if the writer goes away unfinished.
class SafetensorsWriter {
 public:
  /// Creates the temporary file and writes the header. Every tensor lies at a multiple of its
  /// dtype's size, at least. Throws ds4::Error for a name used twice or reserved or not UTF-8, a
  /// size that overflows, a header beyond the format's limit, or if the file cannot be written.
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {})
      : path_(std::move(path)), tensors_(std::move(tensors)) {
    const std::string header = lay_out(metadata);
    file_.emplace(path_);
    file_->write_at(0, std::as_bytes(std::span(header)));
  }

  /// Appends bytes to the first tensor that is not complete. Throws ds4::Error if they are more
  /// than it still takes, or cannot be written.
  void write(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    if (current_ == tensors_.size()) {
      throw Error(detail::printable_path(path_), "found data after the last tensor");
    }
    write(current_, bytes);
  }

  /// Appends bytes to the tensor with this number among those declared. Throws as above.
  void write(std::size_t tensor, std::span<const std::byte> bytes) {
    const std::size_t missing = sizes_[tensor] - written_[tensor];
    if (bytes.size() > missing) {
      throw Error(where(tensor), "expected " + std::to_string(missing) +
                                     " more bytes at most, found " + std::to_string(bytes.size()));
    }
    if (!file_) throw Error(detail::printable_path(path_), "finished already");
    file_->write_at(offsets_[tensor] + written_[tensor], bytes);
    written_[tensor] += bytes.size();
    skip_complete();
  }

  /// Makes the file appear under its name, replacing one that was there. Throws ds4::Error if data
  /// are missing or the file cannot be written.
  void finish() {
    if (!file_) throw Error(detail::printable_path(path_), "finished already");
    if (current_ != tensors_.size()) {
      throw Error(where(current_), "expected " +
                                       std::to_string(sizes_[current_] - written_[current_]) +
                                       " more bytes before the end, found none");
    }
    file_->finish();
    file_.reset();
  }

 private:
  /// Sets sizes_ and offsets_, in the file; returns the header with its length in front.
  std::string lay_out(const std::map<std::string, std::string>& metadata) {
    const std::string where = detail::printable_path(path_);
    std::vector<std::size_t> order;
    for (const TensorSpec& tensor : tensors_) {
      const auto size = detail::byte_count(tensor.shape, tensor.dtype);
      if (!size) throw Error(where, detail::printable(tensor.name) + ": its size overflows");
      order.push_back(sizes_.size());
      sizes_.push_back(*size);
    }
    // Wide elements first: each tensor then ends at a multiple of the next one's element size.
    std::ranges::sort(
        order, {}, [&](std::size_t i) { return std::pair(8 - dtype_size(tensors_[i].dtype), i); });
    nlohmann::json header = nlohmann::json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    offsets_.resize(tensors_.size());
    written_.resize(tensors_.size());
    std::size_t end = 0;
    for (const std::size_t i : order) {
      const TensorSpec& tensor = tensors_[i];
      if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
        throw Error(where, detail::printable(tensor.name) +
                               ": expected a name used once, and not __metadata__");
      }
      offsets_[i] = end;
      if (sizes_[i] > static_cast<std::size_t>(std::numeric_limits<::off_t>::max()) / 2 - end) {
        throw Error(where, "the size of all tensors overflows");
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
      throw Error(where, "expected names and metadata in UTF-8");
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');
    if (text.size() > detail::kMaxSafetensorsHeader) {
      throw Error(where, "expected a header of at most " +
                             std::to_string(detail::kMaxSafetensorsHeader) + " bytes, found " +
                             std::to_string(text.size()));
    }
    std::string length;
    for (unsigned i = 0; i < 8; ++i) length += static_cast<char>(text.size() >> (8 * i) & 0xff);
    for (std::size_t& offset : offsets_) offset += 8 + text.size();
    skip_complete();
    return length + text;
  }

  void skip_complete() {
    while (current_ < tensors_.size() && written_[current_] == sizes_[current_]) ++current_;
  }

  std::string where(std::size_t tensor) const {
    return detail::printable_path(path_) + ": " + detail::printable(tensors_[tensor].name);
  }

  std::filesystem::path path_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::size_t> sizes_;    // bytes, as declared
  std::vector<std::size_t> offsets_;  // from the start of the file
  std::vector<std::size_t> written_;  // bytes of each tensor
  std::size_t current_ = 0;           // the first tensor that is not complete
  std::optional<NewFile> file_;       // none until the header is known, and once finished
};

}  // namespace ds4::inline v0_1
