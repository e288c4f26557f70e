// A product's weight gives vectors of the output's length.
// expect: ds4::linear: y is [S, N] and w is [N, K]; N of w must equal N of y
// expect-gcc: the comparison reduces to '(4 == 3)'
// expect-clang: evaluates to '4 == 3'
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using Weight = ds4::Matrix<4, 8>;
#else
using Weight = ds4::Matrix<3, 8>;
#endif
void product(ds4::Reference<float>& backend, ds4::RowsView<float, 3> y,
             ds4::RowsView<const float, 8> x, const Weight& w) {
  ds4::ops::linear(backend, y, x, w);
}
