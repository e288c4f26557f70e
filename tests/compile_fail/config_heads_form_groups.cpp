// Attention heads are divided evenly among the output groups.
// expect: ds4::ModelConfig: num_attention_heads must be a multiple of o_groups
// expect-gcc: num_attention_heads = 64; o_groups = 7
// expect-clang: heads_form_groups<64, 7>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t o_groups = 7;
#endif
};
static_assert(ds4::checked_config<Mine>());
