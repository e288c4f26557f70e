// Files that a test writes, what an error says, and random damage to bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <unistd.h>

#include <ds4/error.hpp>

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

/// text with up to three random edits of the kinds that damaged or hostile files show.
inline std::string mutated(std::string text, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  constexpr std::string_view kPieces[] = {"0",         "-1",   "18446744073709551615",
                                          "1e30",      "{",    "}",
                                          "[",         "]",    "\"",
                                          ",",         "null", "[]",
                                          "\xff",      "\n",   "\\u0000",
                                          "F64",       "{}",   "[[[",
                                          ":",         "4.5",  "9",
                                          "..",        "/",    "true",
                                          "\"shape\"", " "};
  for (std::size_t edits = 1 + below(3); edits > 0; --edits) {
    const std::size_t at = below(text.size());
    const std::size_t length = below(std::size_t{1} << below(6));
    switch (below(6)) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(below(text.size()), length));
        break;
      case 3:
        text.insert(at, kPieces[below(std::size(kPieces))]);
        break;
      case 4:
        text.replace(at, length, kPieces[below(std::size(kPieces))]);
        break;
      default:
        if (below(8) == 0) text.resize(at);
    }
  }
  return text;
}

}  // namespace ds4::test
