// Every layer has its compress ratio.
// expect: ds4::ModelConfig: compress_ratios must have num_hidden_layers entries
// expect-gcc: compress_ratios_size = 43; num_hidden_layers = 42
// expect-clang: one_ratio_per_layer<43, 42>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t num_hidden_layers = 42;
#endif
};
static_assert(ds4::checked_config<Mine>());
