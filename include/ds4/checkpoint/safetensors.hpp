// Safetensors files and checkpoint folders: every offset checked, tensors viewed in place; a
// writer.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <ds4/core/dtype.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/new_file.hpp>

namespace ds4::inline v0_1 {

/// A tensor of a file, in place: the data are the mapped bytes, row-major and little-endian. They
/// lie where the file has them, at any address, so an element is read with std::memcpy.
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
  /// header of known dtypes whose tensors cover the rest of the file, each byte once.
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
  void read_header();
  void read_metadata(const nlohmann::json& entry, detail::Problems& problems);
  void read_entry(const std::string& name, const nlohmann::json& entry,
                  std::span<const std::byte> buffer, detail::Problems& problems);
  void check_coverage(std::span<const std::byte> buffer, detail::Problems& problems) const;

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
  /// What open() found wrong in the folder that changes nothing, each a line "<where>: <what>".
  std::span<const std::string> warnings() const { return data_->warnings; }

  /// Tells these weights from others: a checksum of every tensor's name, dtype, shape, first and
  /// last 128 bytes. It does not depend on how the tensors are spread over files, on their order or
  /// on the layout of names; the same weights in another storage have another one. Tensors that
  /// differ only between these bytes are taken for the same. Found once, and kept: about a page of
  /// each tensor is read. Any thread may ask. Throws ds4::Error if a file cannot be read.
  std::uint64_t fingerprint() const;

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
    std::vector<std::string> warnings;
    mutable std::atomic<std::uint64_t> fingerprint{0};  // 0: not asked for yet
  };

  explicit Checkpoint(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

  static std::vector<Safetensors> open_shards(const std::filesystem::path& dir,
                                              const std::filesystem::path& index_path,
                                              std::vector<std::string>& warnings);

  std::shared_ptr<const Data> data_;
};

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
      throw Error(ErrorKind::file, detail::printable_path(path_),
                  "found data after the last tensor");
    }
    write(current_, bytes);
  }

  /// Appends bytes to the tensor with this number among those declared. Throws as above.
  void write(std::size_t tensor, std::span<const std::byte> bytes) {
    const std::size_t missing = sizes_[tensor] - written_[tensor];
    if (bytes.size() > missing) {
      throw Error(ErrorKind::file, where(tensor),
                  "expected " + std::to_string(missing) + " more bytes at most, found " +
                      std::to_string(bytes.size()));
    }
    if (!file_) throw Error(ErrorKind::file, detail::printable_path(path_), "finished already");
    file_->write_at(offsets_[tensor] + written_[tensor], bytes);
    written_[tensor] += bytes.size();
    skip_complete();
  }

  /// Makes the file appear under its name, replacing one that was there. Throws ds4::Error if data
  /// are missing or the file cannot be written.
  void finish() {
    if (!file_) throw Error(ErrorKind::file, detail::printable_path(path_), "finished already");
    if (current_ != tensors_.size()) {
      throw Error(ErrorKind::file, where(current_),
                  "expected " + std::to_string(sizes_[current_] - written_[current_]) +
                      " more bytes before the end, found none");
    }
    file_->finish();
    file_.reset();
  }

 private:
  /// Sets sizes_ and offsets_, in the file; returns the header with its length in front.
  std::string lay_out(const std::map<std::string, std::string>& metadata);

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

#ifndef DS4_COMPILED
#include <ds4/checkpoint/safetensors_definitions.hpp>
#endif
