// Pages of every size that systems have: madvise and mincore fail for an address between two.
#include <cstddef>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/core/page_size.hpp>

TEST_CASE("page size: pages within and around bytes, whatever their size") {
  CHECK(ds4::page_size() == static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
  std::vector<std::byte> memory(std::size_t{1} << 20);
  for (const std::size_t page : {4096u, 16384u, 65536u}) {
    const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(memory.data()) + page) / page;
    std::byte* const begin =
        memory.data() + (first * page - reinterpret_cast<std::uintptr_t>(memory.data()));
    struct Case {
      std::size_t offset, bytes, within, begin_within, around;
    };
    for (const Case& c :
         {Case{0, page, 1, 0, 1}, Case{0, page - 1, 0, 0, 1}, Case{1, page, 0, page, 2},
          Case{1, 2 * page, 1, page, 3}, Case{page - 1, page + 1, 1, page, 2}, Case{5, 0, 0, 5, 1},
          Case{0, 0, 0, 0, 0},
          Case{4096, 3 * page, page == 4096 ? 3u : 2u, page, page == 4096 ? 3u : 4u}}) {
      CAPTURE(page);
      CAPTURE(c.offset);
      CAPTURE(c.bytes);
      const ds4::Pages within = ds4::pages_within(begin + c.offset, c.bytes, page);
      CHECK(within.count == c.within);
      if (c.within > 0) CHECK(within.begin == begin + c.begin_within);
      const ds4::Pages around = ds4::pages_around(begin + c.offset, c.bytes, page);
      CHECK(around.count == c.around);
      CHECK(around.begin == begin + c.offset / page * page);
    }
  }
}
