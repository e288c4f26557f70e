// A view keeps its number of elements when its inner extents change.
// expect: ds4::TensorView::as: the product of the inner extents stays
// expect-gcc: the comparison reduces to '(6 == 5)'
// expect-clang: evaluates to '6 == 5'
#include <ds4/core/tensor.hpp>

auto reshape(ds4::RowsView<float, 2, 3> x) {
#ifdef DS4_EXPECT_COMPILE_ERROR
  return x.as<5>();
#else
  return x.as<6>();
#endif
}
