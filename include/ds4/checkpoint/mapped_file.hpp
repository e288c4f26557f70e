// Read-only memory mapping of a whole file.
#pragma once

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
#include <unistd.h>

#include <ds4/detail/messages.hpp>
#include <ds4/error.hpp>

namespace ds4 {

namespace detail {

/// A path as messages show it.
inline std::string printable_path(const std::filesystem::path& path) {
  return printable(path.native(), 1024);
}

/// Throws "cannot <action>: <text of errno value>".
[[noreturn]] inline void throw_errno(const std::filesystem::path& path, std::string_view action,
                                     int error) {
  throw Error(printable_path(path),
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

}  // namespace detail

/// The bytes of a regular file, mapped read-only. Pages are read when touched, and shared between
/// processes. The file must not be shortened while it is mapped.
class MappedFile {
 public:
  /// Maps the file. Throws ds4::Error if it is missing, unreadable, empty or not a regular file.
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a FIFO would wait for its writer.
    const detail::FileDescriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) detail::throw_errno(path_, "open", errno);
    struct stat status{};
    if (::fstat(file.get(), &status) != 0) detail::throw_errno(path_, "stat", errno);
    const std::string where = detail::printable_path(path_);
    if (S_ISDIR(status.st_mode)) throw Error(where, "expected a regular file, found a directory");
    if (!S_ISREG(status.st_mode)) throw Error(where, "expected a regular file, found a device");
    if (status.st_size == 0) throw Error(where, "expected data, found an empty file");
    if (static_cast<std::uintmax_t>(status.st_size) > SIZE_MAX) {
      throw Error(where, "the file is larger than the address space");
    }
    size_ = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
    if (address == MAP_FAILED) detail::throw_errno(path_, "map", errno);
    data_ = static_cast<const std::byte*>(address);
  }
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  /// The whole file; page-aligned.
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// As given to the constructor.
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ds4
