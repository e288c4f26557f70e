// Real-valued fields are in their ranges.
// expect: ds4::ModelConfig: rope_theta and compress_rope_theta must exceed 1
// expect: ds4::ModelConfig: rms_norm_eps and hc_eps must not be negative
// expect: ds4::ModelConfig: swiglu_limit must be positive
// expect: ds4::ModelConfig: rope_scaling.factor must be at least 1
#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
  static constexpr double rope_theta = 0.5;
  static constexpr double hc_eps = -0.25;
  static constexpr double swiglu_limit = -2.0;
  static constexpr ds4::RopeScaling rope_scaling{0.75, 65536.0, 32.0, 1.0};
#endif
};
static_assert(ds4::checked_config<Mine>());
