// A folder that goes away with its content.
#pragma once

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

#include <stdlib.h>

#include <ds4/core/mapped_file.hpp>

namespace ds4::inline v0_1::detail {

/// A new folder in another one, for this user alone, removed with all that is in it.
class ScratchFolder {
 public:
  /// Throws ds4::Error if it cannot be made.
  explicit ScratchFolder(const std::filesystem::path& parent) {
    std::string name = (parent / ".ds4-XXXXXX").native();
    if (::mkdtemp(name.data()) == nullptr) throw_errno(parent, "create a folder in", errno);
    path_ = name;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  /// Where it is.
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace ds4::inline v0_1::detail
