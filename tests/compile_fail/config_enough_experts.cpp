// A token cannot use more experts than there are.
// expect: ds4::ModelConfig: num_experts_per_tok must be 1 to n_routed_experts
// expect-gcc: num_experts_per_tok = 6; n_routed_experts = 5
// expect-clang: enough_experts<6, 5>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t n_routed_experts = 5;
#endif
};
static_assert(ds4::checked_config<Mine>());
