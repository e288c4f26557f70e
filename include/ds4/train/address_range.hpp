// Addresses without memory behind them, for counting what would be allocated.
#pragma once

#include <cstddef>
#include <new>

#include <sys/mman.h>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::detail {

/// A range of addresses that nothing else has and that nothing may read or write.
class AddressRange {
 public:
  /// Throws std::bad_alloc if there are not as many addresses.
  explicit AddressRange(std::size_t bytes) : bytes_(bytes) {
    void* const begin =
        ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (begin == MAP_FAILED) throw std::bad_alloc();
    begin_ = static_cast<std::byte*>(begin);
  }
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;
  ~AddressRange() { ::munmap(begin_, bytes_); }

  std::byte* begin() const { return begin_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* begin_ = nullptr;
  std::size_t bytes_;
};

}  // namespace ds4::inline v0_1::detail
