// The message names each layer whose ratio stands for no kind of attention.
// expect: ds4::ModelConfig: compress_ratios must hold 0 or one of compress_rates
// expect-gcc: layer = 2; compress_ratio = 4; compressed_sparse_attention = 8
// expect-gcc: heavily_compressed_attention = 128
// expect-clang: ratio_has_kind<2, 4, 8, 128>
#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr ds4::CompressRates compress_rates{8, 128};
#endif
};
static_assert(ds4::checked_config<Mine>());
