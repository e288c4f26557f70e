// Files that a test writes, and what an error says.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <unistd.h>

#include <ds4/core/error.hpp>

namespace ds4::test {

/// A folder of its own, removed with its content.
class TempDir {
 public:
  TempDir() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("ds4_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directory(path_);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// Writes a file into it.
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    const auto file = path_ / name;
    std::ofstream stream(file, std::ios::binary);
    stream << content;
    REQUIRE(stream.flush());
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// All bytes of a file.
inline std::string content_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// what() of the ds4::Error that f throws, "" if it throws none; checks that it is one line.
template <class F>
doctest::String error_text(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    const std::string_view text = error.what();
    CHECK(std::ranges::none_of(text, [](unsigned char c) { return c < 0x20; }));
    CHECK(text.starts_with("ds4: "));
    CHECK(text.size() < 4000);
    return error.what();
  }
  return "";
}

}  // namespace ds4::test
