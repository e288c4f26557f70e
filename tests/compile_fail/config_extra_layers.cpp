// There is at most one multi-token-prediction layer.
// expect: ds4::ModelConfig: num_nextn_predict_layers must be 0 or 1
// expect-gcc: num_nextn_predict_layers = 2
// expect-clang: at_most_one_extra_layer<2>
#include <cstddef>

#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr std::size_t num_nextn_predict_layers = 2;
#endif
};
static_assert(ds4::checked_config<Mine>());
