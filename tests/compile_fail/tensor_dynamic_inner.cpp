// Only the leading extent is known at run time.
// expect: ds4::TensorView: only the leading extent may be kDynamic
// expect: TensorView<float, 2, 18446744073709551615, 6>
#include <ds4/core/tensor.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using View = ds4::TensorView<float, 2, ds4::kDynamic, 6>;
#else
using View = ds4::TensorView<float, ds4::kDynamic, 2, 6>;
#endif
static_assert(sizeof(View) > 0);
