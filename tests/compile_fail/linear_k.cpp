// A product's weight takes vectors of the input's length.
// expect: ds4::linear: x is [S, K] and w is [N, K]; K of w must equal K of x
// expect-gcc: the comparison reduces to '(7 == 8)'
// expect-clang: evaluates to '7 == 8'
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using Weight = ds4::Matrix<3, 7>;
#else
using Weight = ds4::Matrix<3, 8>;
#endif
void product(ds4::Reference<float>& backend, ds4::RowsView<float, 3> y,
             ds4::RowsView<const float, 8> x, const Weight& w) {
  ds4::ops::linear(backend, y, x, w);
}
