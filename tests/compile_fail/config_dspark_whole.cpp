// DSpark has a block of at least one token, and every other of its sizes.
// expect: ds4::ModelConfig: with dspark_stages above 0, dspark_block_size, dspark_markov_rank
// expect-gcc: dspark_block_size = 0
// expect-clang: dspark_is_whole<3, 0, 256, 3>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t dspark_block_size = 0;
#endif
};
static_assert(ds4::checked_config<Mine>());
