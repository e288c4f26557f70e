// A block-diagonal product's weight has the rows of all groups.
// expect: ds4::grouped_linear: w is [G * N, K]; its rows must be G * N
// expect-gcc: the comparison reduces to '(3 == 12)'
// expect-clang: evaluates to '3 == 12'
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using Weight = ds4::Matrix<3, 8>;
#else
using Weight = ds4::Matrix<12, 8>;
#endif
void product(ds4::Reference<float>& backend, ds4::RowsView<float, 4, 3> y,
             ds4::RowsView<const float, 4, 8> x, const Weight& w) {
  ds4::ops::grouped_linear(backend, y, x, w);
}
