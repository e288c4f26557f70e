// Blocks that logs share, on several threads; for the thread sanitizer as well.
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/kernels/simd/logs.hpp>

namespace {

using ds4::simd::BlockList;

constexpr std::size_t kBytes = 256;

unsigned sum(const std::byte* block) {
  unsigned total = 0;
  for (std::size_t i = 0; i < kBytes; ++i) total += std::to_integer<unsigned>(block[i]);
  return total;
}

}  // namespace

TEST_CASE("simd logs: who is alone with a block writes behind all that its copies have read") {
  BlockList list(kBytes);
  std::memset(list.writable(0), 1, kBytes);
  for (unsigned round = 1; round < 100; ++round) {
    auto copy = std::make_unique<BlockList>(list);
    std::atomic<bool> dropped{false};
    unsigned found = 0;
    std::thread reader([&] {
      found = sum(copy->block(0));
      copy.reset();
      dropped.store(true, std::memory_order_relaxed);  // orders nothing
    });
    while (!dropped.load(std::memory_order_relaxed)) std::this_thread::yield();
    const std::byte* const before = list.block(0);
    std::byte* const block = list.writable(0);
    CHECK(block == before);  // in place: nobody else has it
    std::memset(block, static_cast<int>(round + 1), kBytes);
    reader.join();
    CHECK(found == round * kBytes);
  }
}

TEST_CASE("simd logs: threads that write to copies of one list do not see each other") {
  constexpr std::size_t kBlocks = 20;
  BlockList list(kBytes);
  for (std::size_t i = 0; i < kBlocks; ++i) list.writable(i)[0] = std::byte{7};
  std::vector<std::thread> threads;
  std::vector<unsigned> found(4);
  for (unsigned t = 0; t < found.size(); ++t) {
    threads.emplace_back([&found, t, copy = list]() mutable {
      for (unsigned round = 0; round < 20; ++round) {
        BlockList own = copy;
        for (std::size_t i = 0; i < kBlocks; ++i) own.writable(i)[1] = static_cast<std::byte>(t);
        for (std::size_t i = 0; i < kBlocks; ++i) found[t] += sum(own.block(i));
        copy.truncate(kBlocks - round % 2);
        if (round % 2 == 1) copy = own;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (unsigned t = 0; t < found.size(); ++t) CHECK(found[t] == 20 * kBlocks * (7 + t));
  for (std::size_t i = 0; i < kBlocks; ++i) CHECK(sum(list.block(i)) == 7);
}
