// A token uses at least one expert.
// expect: ds4::ModelConfig: num_experts_per_tok must be 1 to n_routed_experts
// expect-gcc: num_experts_per_tok = 0; n_routed_experts = 256
// expect-clang: enough_experts<0, 256>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t num_experts_per_tok = 0;
#endif
};
static_assert(ds4::checked_config<Mine>());
