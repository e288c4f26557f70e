// Read-only memory mapping of a whole file.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>

namespace ds4::inline v0_1 {

namespace detail {

/// A path as messages show it.
inline std::string printable_path(const std::filesystem::path& path) {
  return printable(path.native(), 1024);
}

/// Throws "cannot <action>: <text of errno value>".
[[noreturn]] inline void throw_errno(const std::filesystem::path& path, std::string_view action,
                                     int error) {
  throw Error(ErrorKind::file, printable_path(path),
              "cannot " + std::string(action) + ": " + std::generic_category().message(error));
}

/// Owns a POSIX file descriptor; -1 is none.
class FileDescriptor {
 public:
  explicit FileDescriptor(int value = -1) : value_(value) {}
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }
  /// Gives up ownership.
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

/// Where a file is mapped, for a FaultGuard: a signal handler can look at any moment, also while
/// this is another file's by now.
class MappedRange {
 public:
  /// Becomes the range of these bytes; false if it is one already.
  bool take(std::uintptr_t begin, std::size_t size) {
    std::uint32_t count = changes_.load();
    if (count % 2 != 0 || begin_.load() != 0) return false;
    if (!changes_.compare_exchange_strong(count, count + 1)) return false;
    broken_ = false;
    begin_ = begin;
    end_ = begin + size;
    changes_ = count + 2;
    return true;
  }
  /// Is free again.
  void give_up() {
    ++changes_;
    begin_ = 0;
    end_ = 0;
    ++changes_;
  }

  /// Where it ends if the address is one of its bytes, and otherwise 0. A range that is changing is
  /// nobody's: whoever reads a file's bytes keeps it mapped.
  std::uintptr_t end_behind(std::uintptr_t address) const {
    const std::uint32_t count = changes_.load();
    const std::uintptr_t begin = begin_.load();
    const std::uintptr_t end = end_.load();
    const bool changing = count % 2 != 0 || changes_.load() != count;
    return !changing && address >= begin && address < end ? end : 0;
  }

  ///@{
  /// Some of it could not be read, and is zeros now.
  void mark_broken() { broken_ = true; }
  bool broken() const { return broken_; }
  ///@}

 private:
  std::atomic<std::uint32_t> changes_{0};  // their number; odd while one is being made
  std::atomic<std::uintptr_t> begin_{0};   // 0: free
  std::atomic<std::uintptr_t> end_{0};
  std::atomic<bool> broken_{false};
  static_assert(std::atomic<std::uintptr_t>::is_always_lock_free, "read in a signal handler");
};
inline constexpr std::size_t kMappedRanges = 1024;
inline std::array<MappedRange, kMappedRanges> mapped_ranges;

/// A free range, now this one; null if all are taken.
inline MappedRange* add_mapped_range(const void* begin, std::size_t size) {
  const auto range = std::ranges::find_if(mapped_ranges, [&](MappedRange& free) {
    return free.take(reinterpret_cast<std::uintptr_t>(begin), size);
  });
  return range == mapped_ranges.end() ? nullptr : &*range;
}

}  // namespace detail

/// The bytes of a regular file, mapped read-only. Pages are read when touched, and shared between
/// processes. Touching bytes that the file has lost meanwhile, or that cannot be read, raises
/// SIGBUS unless a FaultGuard lives.
class MappedFile {
 public:
  /// Maps the file. Throws ds4::Error if it is missing, unreadable, empty or not a regular file.
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a FIFO would wait for its writer.
    file_ = detail::FileDescriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file_.get() < 0) detail::throw_errno(path_, "open", errno);
    struct stat status{};
    if (::fstat(file_.get(), &status) != 0) detail::throw_errno(path_, "stat", errno);
    const std::string where = detail::printable_path(path_);
    if (S_ISDIR(status.st_mode))
      throw Error(ErrorKind::file, where, "expected a regular file, found a directory");
    if (!S_ISREG(status.st_mode))
      throw Error(ErrorKind::file, where, "expected a regular file, found a device");
    if (status.st_size == 0)
      throw Error(ErrorKind::file, where, "expected data, found an empty file");
    if (static_cast<std::uintmax_t>(status.st_size) > SIZE_MAX) {
      throw Error(ErrorKind::file, where, "the file is larger than the address space");
    }
    const ::uid_t user = ::geteuid();
    tells_residency_ =
        user == 0 || user == status.st_uid || ::faccessat(AT_FDCWD, path_.c_str(), W_OK, 0) == 0;
    size_ = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
    if (address == MAP_FAILED) detail::throw_errno(path_, "map", errno);
    data_ = static_cast<const std::byte*>(address);
    range_ = detail::add_mapped_range(data_, size_);
  }
  ///@{
  /// Takes over the mapping.
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        file_(std::move(other.file_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        tells_residency_(other.tells_residency_),
        range_(std::exchange(other.range_, nullptr)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(file_, other.file_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(tells_residency_, other.tells_residency_);
    std::swap(range_, other.range_);
    return *this;
  }
  ///@}
  ~MappedFile() {
    if (range_ != nullptr) range_->give_up();
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  /// The whole file; page-aligned.
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// As given to the constructor.
  const std::filesystem::path& path() const { return path_; }

  /// Reads the bytes from `offset` on, which lie within the file, without the mapping: a few bytes
  /// here and there cost less so. Throws ds4::Error if they cannot be read.
  void read(std::size_t offset, std::span<std::byte> bytes) const {
    while (!bytes.empty()) {
      const ::ssize_t count =
          ::pread(file_.get(), bytes.data(), bytes.size(), static_cast<::off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count == 0) check();  // says that the file was shortened
      if (count <= 0) detail::throw_errno(path_, "read", count < 0 ? errno : EIO);
      offset += static_cast<std::size_t>(count);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  /// Whether the system tells this process which pages of the file are in memory (mincore): it does
  /// to the owner, and to who may write to it.
  bool tells_residency() const { return tells_residency_; }

  /// Throws ds4::Error if the file is shorter than when it was mapped, or if a FaultGuard has had
  /// to put zeros in the place of bytes: what was read since may be wrong.
  void check() const {
    struct stat status{};
    if (::fstat(file_.get(), &status) != 0) detail::throw_errno(path_, "stat", errno);
    const std::string where = detail::printable_path(path_);
    if (static_cast<std::uintmax_t>(status.st_size) < size_) {
      throw Error(ErrorKind::file, where,
                  "expected " + std::to_string(size_) + " bytes, as when it was opened, found " +
                      std::to_string(status.st_size) + ": it was shortened while in use");
    }
    if (range_ != nullptr && range_->broken()) {
      throw Error(ErrorKind::file, where, "cannot be read: some of it was lost while in use");
    }
  }

 private:
  std::filesystem::path path_;
  detail::FileDescriptor file_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool tells_residency_ = false;
  detail::MappedRange* range_ = nullptr;
};

}  // namespace ds4::inline v0_1
