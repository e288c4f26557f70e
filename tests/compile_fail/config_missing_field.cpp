// A configuration has every field of the ModelConfig concept; the compiler names one that it lacks.
// expect: hc_mult
// expect-gcc: constraints not satisfied
// expect-clang: does not satisfy 'ModelConfig'
#include <ds4/config/config.hpp>

struct Mine : ds4::Flash {
#ifdef DS4_EXPECT_COMPILE_ERROR
 private:
  using Flash::hc_mult;
#endif
};
static_assert(ds4::checked_config<Mine>());
