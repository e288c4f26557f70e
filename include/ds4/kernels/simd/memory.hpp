// Large pieces of memory, and what the system says about memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <memory>
#include <new>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include <ds4/core/page_size.hpp>

namespace ds4::inline v0_1::simd {

inline constexpr std::size_t kHugePage = std::size_t{1} << 21;

struct FreeAligned {
  std::align_val_t alignment;
  void operator()(std::byte* p) const { ::operator delete(p, alignment); }
};
using MemoryBlock = std::unique_ptr<std::byte, FreeAligned>;

/// Bytes of a block for `size` bytes: whole huge pages if it is large.
constexpr std::size_t block_size(std::size_t size) {
  return size < kHugePage ? size : (size + kHugePage - 1) / kHugePage * kHugePage;
}

/// `size` bytes, not initialised, aligned to 64; a large block is on huge pages where the system
/// has them: small ones cost a tenth of the bandwidth when all of it is read.
inline MemoryBlock allocate_block(std::size_t size) {
  const bool large = size >= kHugePage;
  size = block_size(size);
  const std::align_val_t alignment{large ? kHugePage : 64};
  MemoryBlock block(static_cast<std::byte*>(::operator new(size, alignment)), {alignment});
#if defined(__linux__)
  if (large) ::madvise(block.get(), size, MADV_HUGEPAGE);
#endif
  return block;
}

/// The process does not need these bytes of a mapped file for now: they no longer count as its
/// memory, are the first to go when memory is short, and are read again if they are touched.
inline void release_mapped([[maybe_unused]] const std::byte* p,
                           [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  const Pages pages = pages_within(p, bytes);
  if (pages.count == 0) return;
  const std::size_t size = pages.count * page_size();
#ifdef MADV_COLD
  ::madvise(pages.begin, size, MADV_COLD);
#endif
  ::madvise(pages.begin, size, MADV_DONTNEED);
#endif
}

/// Has the system read what is not in memory of these bytes of a mapped file, without waiting for
/// it. Where `told` is false the system does not say what is in memory (it tells only a file's
/// owner, and who may write to it), and is asked for all of it.
inline void start_reading([[maybe_unused]] const std::byte* p, [[maybe_unused]] std::size_t bytes,
                          [[maybe_unused]] bool told) {
#if defined(__linux__)
  constexpr std::size_t kPages = 1024;  // looked at at once
  // One request reads no more than the device's read-ahead, which is hardly ever less than this.
  constexpr std::size_t kRequestBytes = std::size_t{1} << 17;
  const std::size_t size = page_size();
  const std::size_t request = std::max<std::size_t>(1, kRequestBytes / size);
  Pages pages = pages_around(p, bytes);
  while (pages.count > 0) {
    const std::size_t count = std::min(pages.count, kPages);
    unsigned char present[kPages] = {};
    if (told && ::mincore(pages.begin, count * size, present) != 0) return;
    for (std::size_t i = 0; i < count; i += request) {
      const std::size_t n = std::min(count - i, request);
      std::size_t missing = 0;
      for (std::size_t j = i; j < i + n; ++j) missing += 1u - (present[j] & 1u);
      if (missing > 0) ::madvise(pages.begin + i * size, n * size, MADV_WILLNEED);
    }
    pages = {pages.begin + count * size, pages.count - count};
  }
#endif
}

/// How many times this process had to wait for a page of a file.
inline std::size_t pages_waited_for() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_majflt);
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
  return static_cast<std::size_t>(::sysconf(_SC_AVPHYS_PAGES)) * page_size();
#else
  return 0;
#endif
}

}  // namespace ds4::inline v0_1::simd
