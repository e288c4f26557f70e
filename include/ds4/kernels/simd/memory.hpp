// Large pieces of memory, and what the system says about memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <new>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <unistd.h>

namespace ds4::simd {

inline constexpr std::size_t kHugePage = std::size_t{1} << 21;

struct FreeAligned {
  std::align_val_t alignment;
  void operator()(std::byte* p) const { ::operator delete(p, alignment); }
};
using MemoryBlock = std::unique_ptr<std::byte, FreeAligned>;

/// `size` bytes, not initialised, aligned to 64; a large block is on huge pages where the system
/// has them: small ones cost a tenth of the bandwidth when all of it is read.
inline MemoryBlock allocate_block(std::size_t size) {
  const bool large = size >= kHugePage;
  if (large) size = (size + kHugePage - 1) / kHugePage * kHugePage;
  const std::align_val_t alignment{large ? kHugePage : 64};
  MemoryBlock block(static_cast<std::byte*>(::operator new(size, alignment)), {alignment});
#if defined(__linux__)
  if (large) ::madvise(block.get(), size, MADV_HUGEPAGE);
#endif
  return block;
}

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

/// Bytes that the system could give to processes; 0 if it does not say.
inline std::size_t available_memory() {
#if defined(_SC_AVPHYS_PAGES)
  std::ifstream info("/proc/meminfo");  // counts what caches would give back
  for (std::string name, unit; info >> name;) {
    std::size_t kilobytes = 0;
    info >> kilobytes >> unit;
    if (name == "MemAvailable:") return kilobytes * 1024;
  }
  return static_cast<std::size_t>(::sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
#else
  return 0;
#endif
}

}  // namespace ds4::simd
