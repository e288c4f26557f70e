// The rotated part of a head consists of pairs.
// expect: ds4::ModelConfig: qk_rope_head_dim must be even and not 0
// expect-gcc: qk_rope_head_dim = 63
// expect-clang: rotary_pairs<63>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t qk_rope_head_dim = 63;
#endif
};
static_assert(ds4::checked_config<Mine>());
