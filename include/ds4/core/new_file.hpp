// Files that appear under their names only when they are complete.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <ds4/core/error.hpp>
#include <ds4/core/mapped_file.hpp>

namespace ds4::inline v0_1 {

/// A file that is being written. It appears under its name, complete, with finish(); until then a
/// temporary file beside it holds the data, and is removed if the object goes away unfinished.
class NewFile {
 public:
  /// Creates the temporary file. Throws ds4::Error if that is not possible, or if there is
  /// something else than a file under the name: a folder cannot be replaced, and a device must not
  /// be.
  explicit NewFile(std::filesystem::path path) : path_(std::move(path)) {
    struct stat there{};
    if (::stat(path_.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
      throw Error(ErrorKind::file, detail::printable_path(path_),
                  std::string("cannot create: found a ") +
                      (S_ISDIR(there.st_mode) ? "folder" : "device or pipe") + " of this name");
    }
    const std::string stem = path_.native() + "." + std::to_string(::getpid()) + ".";
    for (unsigned i = 0;; ++i) {
      temporary_ = stem + std::to_string(i) + ".tmp";
      file_ = detail::FileDescriptor(
          ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (file_.get() >= 0) return;
      if (errno != EEXIST) detail::throw_errno(path_, "create", errno);
    }
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  /// Writes bytes at an offset from the start. Throws ds4::Error if they cannot be written.
  void write_at(std::size_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t count =
          ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<::off_t>(offset));
      if (count < 0) {
        if (errno == EINTR) continue;
        detail::throw_errno(path_, "write", errno);
      }
      offset += static_cast<std::size_t>(count);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  /// Makes the file appear under its name, replacing one that was there; nothing can be written
  /// any more. Throws ds4::Error if it cannot be written.
  void finish() {
    if (::fsync(file_.get()) != 0 || ::close(file_.release()) != 0) {
      detail::throw_errno(path_, "write", errno);
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      detail::throw_errno(path_, "rename the finished file to this name", errno);
    }
    temporary_.clear();
  }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty once finished
  detail::FileDescriptor file_;
};

}  // namespace ds4::inline v0_1
