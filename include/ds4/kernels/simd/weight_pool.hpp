// Memory for weights that a backend keeps in a layout of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ds4::simd {

/// Hands out zeroed memory in large pieces on huge pages, where the system has them: a decoded
/// token reads all of it once, and small pages cost a tenth of the bandwidth.
class WeightPool {
 public:
  /// `bytes` of zeros, aligned to 64, for as long as the pool lives.
  std::byte* allocate(std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      const std::size_t size = (std::max(bytes, kPiece) + kHugePage - 1) / kHugePage * kHugePage;
      pieces_.emplace_back(
          static_cast<std::byte*>(::operator new(size, std::align_val_t{kHugePage})));
#if defined(__linux__)
      ::madvise(pieces_.back().get(), size, MADV_HUGEPAGE);
#endif
      std::fill_n(pieces_.back().get(), size, std::byte{0});
      next_ = pieces_.back().get();
      left_ = size;
    }
    std::byte* result = next_;
    next_ += bytes;
    left_ -= bytes;
    return result;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21;
  static constexpr std::size_t kPiece = std::size_t{1} << 25;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kHugePage}); }
  };

  std::vector<std::unique_ptr<std::byte, Free>> pieces_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

/// The process does not need these bytes of a mapped file for now: they no longer count as its
/// memory, and are read again if they are touched.
inline void release_mapped(const std::byte* p, std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t kPage = 4096;
  const std::size_t skipped = (kPage - reinterpret_cast<std::uintptr_t>(p) % kPage) % kPage;
  if (bytes < skipped + kPage) return;
  ::madvise(const_cast<std::byte*>(p + skipped), (bytes - skipped) / kPage * kPage, MADV_DONTNEED);
#endif
}

}  // namespace ds4::simd
