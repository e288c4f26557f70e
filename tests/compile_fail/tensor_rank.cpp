// An element has one index per axis.
// expect: ds4::TensorView: one index per axis
// expect-gcc: the comparison reduces to '(1 == 2)'
// expect-clang: evaluates to '1 == 2'
#include <ds4/core/tensor.hpp>

float first(ds4::RowsView<float, 6> x) {
#ifdef DS4_EXPECT_COMPILE_ERROR
  return x(0);
#else
  return x(0, 0);
#endif
}
