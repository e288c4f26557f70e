// The token that stands for those to be drafted is one of the vocabulary.
// expect: ds4::ModelConfig: dspark_noise_token_id must be below vocab_size
// expect-gcc: dspark_noise_token_id = 129280
// expect-clang: noise_is_a_token<129280, 129280>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t dspark_noise_token_id = 129280;
#endif
};
static_assert(ds4::checked_config<Mine>());
