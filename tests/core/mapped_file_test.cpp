// Tests of ds4/core/mapped_file.hpp.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <ds4/core/mapped_file.hpp>
#include <support/files.hpp>

namespace {

using ds4::MappedFile;
using ds4::test::error_text;

std::string text_of(const MappedFile& file) {
  std::string text(file.bytes().size(), '\0');
  std::ranges::copy(file.bytes(), std::as_writable_bytes(std::span(text)).begin());
  return text;
}

TEST_CASE("mapped file: the bytes of the file") {
  const ds4::test::TempDir dir;
  const std::string content = std::string(10'000, 'x') + "end";
  const auto path = dir.write("a", content);
  const MappedFile file(path);
  CHECK(text_of(file) == content);
  CHECK(file.path() == path);
}

TEST_CASE("mapped file: moves hand the mapping over") {
  static_assert(!std::is_copy_constructible_v<MappedFile>);
  static_assert(std::is_nothrow_move_constructible_v<MappedFile>);
  const ds4::test::TempDir dir;
  MappedFile a(dir.write("a", "content of a"));
  const auto* address = a.bytes().data();
  MappedFile b(std::move(a));
  CHECK(b.bytes().data() == address);
  CHECK(text_of(b) == "content of a");
  MappedFile c(dir.write("c", "content of c"));
  c = std::move(b);
  CHECK(text_of(c) == "content of a");
  CHECK(c.path().filename() == "a");
}

TEST_CASE("mapped file: bytes are read without the mapping") {
  const ds4::test::TempDir dir;
  const MappedFile file(dir.write("a", "0123456789"));
  const auto read = [&](std::size_t offset, std::size_t size) {
    std::string text(size, 'x');
    file.read(offset, std::as_writable_bytes(std::span(text)));
    return text;
  };
  CHECK(read(0, 10) == "0123456789");
  CHECK(read(3, 4) == "3456");
  CHECK(read(10, 0).empty());
  std::filesystem::resize_file(file.path(), 5);
  CHECK(read(0, 5) == "01234");
  CHECK(error_text([&] { read(3, 4); }) ==
        doctest::Contains("a: expected 10 bytes, as when it was opened, found 5"));
}

TEST_CASE("mapped file: the content outlives the name") {
  const ds4::test::TempDir dir;
  const MappedFile file(dir.write("a", "still here"));
  std::filesystem::remove(file.path());
  CHECK(text_of(file) == "still here");
}

TEST_CASE("mapped file: what is no readable file is refused") {
  const ds4::test::TempDir dir;
  const auto open = [&](const std::string& name) {
    return error_text([&] { MappedFile(dir.path() / name); });
  };
  CHECK(open("none") == doctest::Contains("none: cannot open: No such file or directory"));
  CHECK(open(".") == doctest::Contains("expected a regular file, found a directory"));
  dir.write("empty", "");
  CHECK(open("empty") == doctest::Contains("empty: expected data, found an empty file"));
  std::filesystem::create_symlink("loop", dir.path() / "loop");
  CHECK(open("loop") == doctest::Contains("cannot open: Too many levels of symbolic links"));
  REQUIRE(::mkfifo((dir.path() / "fifo").c_str(), 0600) == 0);
  CHECK(open("fifo") == doctest::Contains("expected a regular file, found a device"));
  CHECK(open("line\nbreak") == doctest::Contains("line\\x0abreak: cannot open"));
}

}  // namespace
