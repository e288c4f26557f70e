// The two kinds of compressed attention have different ratios.
// expect: ds4::ModelConfig: compress_rates must be two different ratios above 0
// expect-gcc: compressed_sparse_attention = 4; heavily_compressed_attention = 4
// expect-clang: rates_tell_kinds_apart<4, 4>
#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr ds4::CompressRates compress_rates{4, 4};
#endif
};
static_assert(ds4::checked_config<Mine>());
