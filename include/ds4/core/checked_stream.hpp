// Binary output and input with a checksum behind it: what saved states are made of.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <ds4/core/error.hpp>

namespace ds4::inline v0_1::detail {

static_assert(std::endian::native == std::endian::little, "ds4: files are little-endian");

/// A running 64-bit checksum of pieces of data, the cut into pieces included. Every step is a
/// bijection of the sum, so data that differ in one piece never agree.
class Checksum {
 public:
  void add(std::span<const std::byte> data) {
    mix(data.size());
    for (; data.size() >= 8; data = data.subspan(8)) mix(word(data));
    if (!data.empty()) mix(word(data));
  }
  std::uint64_t value() const { return sum_; }

 private:
  static std::uint64_t word(std::span<const std::byte> data) {
    std::uint64_t value = 0;
    std::memcpy(&value, data.data(), data.size() < 8 ? data.size() : 8);
    return value;
  }
  void mix(std::uint64_t value) {
    sum_ = (sum_ ^ value) * 0x9e3779b97f4a7c15u;
    sum_ ^= sum_ >> 32;
  }
  std::uint64_t sum_ = 0xcbf29ce484222325u;
};

/// A number as a text of 16 digits.
inline std::string hexadecimal(std::uint64_t number) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; number >>= 4) text[i] = kDigits[number & 15u];
  return text;
}

/// Writes values and bytes to a stream. Throws ds4::Error, naming `where`, if the stream fails.
class CheckedWriter {
 public:
  CheckedWriter(std::ostream& stream, std::string where)
      : stream_(stream), where_(std::move(where)) {}

  void bytes(std::span<const std::byte> data) {
    checksum_.add(data);
    put(data);
  }
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void value(const T& value) {
    bytes(std::as_bytes(std::span(&value, 1)));
  }
  /// The checksum of all that was written.
  void finish() {
    const std::uint64_t sum = checksum_.value();
    put(std::as_bytes(std::span(&sum, 1)));
    if (!stream_.flush()) throw Error(ErrorKind::file, where_, "cannot be written");
  }

 private:
  void put(std::span<const std::byte> data) {
    stream_.write(reinterpret_cast<const char*>(data.data()),
                  static_cast<std::streamsize>(data.size()));
    if (!stream_) throw Error(ErrorKind::file, where_, "cannot be written");
  }

  std::ostream& stream_;
  std::string where_;
  Checksum checksum_;
};

/// Reads what a CheckedWriter wrote. Throws ds4::Error, naming `where`, at the end of the stream.
class CheckedReader {
 public:
  CheckedReader(std::istream& stream, std::string where)
      : stream_(stream), where_(std::move(where)) {}

  void bytes(std::span<std::byte> data) {
    take(data);
    checksum_.add(data);
  }
  template <class T>
    requires std::is_trivially_copyable_v<T>
  T value() {
    T value{};
    bytes(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  /// Throws unless these are ids of a vocabulary of this size.
  void expect_ids(std::span<const std::int32_t> ids, std::size_t vocab_size) const {
    for (const std::int32_t id : ids) {
      if (id < 0 || static_cast<std::size_t>(id) >= vocab_size) {
        fail("found id " + std::to_string(id) + ", expected 0 to " +
             std::to_string(vocab_size - 1));
      }
    }
  }
  /// Throws unless the checksum follows here.
  void finish() {
    std::uint64_t sum = 0;
    take(std::as_writable_bytes(std::span(&sum, 1)));
    if (sum != checksum_.value()) fail("found a checksum of other data, expected intact data");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::file, where_, what);
  }

 private:
  void take(std::span<std::byte> data) {
    stream_.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()));
    const auto got = static_cast<std::size_t>(stream_.gcount());
    taken_ += got;
    if (got < data.size()) {
      fail("found the end after " + std::to_string(taken_) + " bytes, expected more");
    }
  }

  std::istream& stream_;
  std::string where_;
  Checksum checksum_;
  std::size_t taken_ = 0;
};

}  // namespace ds4::inline v0_1::detail
