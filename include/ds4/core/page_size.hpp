// The system's pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include <unistd.h>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1 {

/// Bytes of a page of memory: 4, 16 or 64 KiB.
inline std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

/// Pages one behind another.
struct Pages {
  std::byte* begin;   ///< of a page
  std::size_t count;  ///< none: 0
};

///@{
/// The pages of `page` bytes that lie within these bytes, and those that these bytes touch.
inline Pages pages_within(const std::byte* p, std::size_t bytes, std::size_t page = page_size()) {
  const std::size_t skipped = (page - reinterpret_cast<std::uintptr_t>(p) % page) % page;
  if (bytes < skipped) return {const_cast<std::byte*>(p), 0};
  return {const_cast<std::byte*>(p + skipped), (bytes - skipped) / page};
}
inline Pages pages_around(const std::byte* p, std::size_t bytes, std::size_t page = page_size()) {
  const std::size_t before = reinterpret_cast<std::uintptr_t>(p) % page;
  return {const_cast<std::byte*>(p - before), (before + bytes + page - 1) / page};
}
///@}

}  // namespace ds4::inline v0_1
