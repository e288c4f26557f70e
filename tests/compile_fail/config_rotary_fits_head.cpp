// The rotated part of a head is no larger than the head.
// expect: ds4::ModelConfig: qk_rope_head_dim must not exceed head_dim
// expect-gcc: qk_rope_head_dim = 64; head_dim = 32
// expect-clang: rotary_fits_head<64, 32>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t head_dim = 32;
#endif
};
static_assert(ds4::checked_config<Mine>());
