// What the fuzz targets have in common: the property that they check, and files from bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include <unistd.h>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/core/utf8.hpp>

namespace ds4::fuzz {

/// How many inputs were read and refused so far.
inline std::size_t read_count = 0;
inline std::size_t refused_count = 0;

/// Ends the program: the input is a finding.
[[noreturn]] inline void finding(std::string_view what) {
  std::fprintf(stderr, "finding: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}
inline void require(bool holds, std::string_view what) {
  if (!holds) finding(what);
}

/// Longest error line. Paths are short here; they may add to it elsewhere.
inline constexpr std::size_t kMaxError = 4096;

/// Checks that text is one line that a terminal can show.
inline void check_error(std::string_view text) {
  require(text.starts_with("ds4: "), "an error that does not begin with ds4:");
  require(text.size() <= kMaxError, "an error of more than 4096 bytes");
  while (!text.empty()) {
    const auto next = ds4::detail::utf8_prefix(text);
    require(next.valid && ds4::detail::is_plain(text.substr(0, next.length)),
            "an error that is not one line of printable UTF-8");
    text.remove_prefix(next.length);
  }
}

/// Runs read(), which gives a result or a ds4::Error with such a text; anything else is a finding.
template <class F>
void result_or_error(F&& read) {
  try {
    read();
    ++read_count;
  } catch (const Error& error) {
    ++refused_count;
    check_error(error.what());
  }
}

/// The folder of process `id`, in memory where the system has such a place.
inline std::filesystem::path folder_of(::pid_t id) {
  std::error_code ignored;
  const std::filesystem::path memory = "/dev/shm";
  return (std::filesystem::is_directory(memory, ignored) ? memory
                                                         : std::filesystem::temp_directory_path()) /
         ("ds4_fuzz_" + std::to_string(id));
}

/// A folder for the files of one input after another, removed at the end.
class Folder {
 public:
  Folder() { std::filesystem::create_directory(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    auto file = path_ / name;
    std::ofstream stream(file, std::ios::binary);
    stream << content;
    require(static_cast<bool>(stream.flush()), "no file could be written");
    return file;
  }

 private:
  std::filesystem::path path_ = folder_of(::getpid());
};

/// The program's one folder.
inline const Folder& folder() {
  static const Folder only;
  return only;
}

}  // namespace ds4::fuzz

/// The target: reads one input. Called by libFuzzer, or by replay.cpp.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
