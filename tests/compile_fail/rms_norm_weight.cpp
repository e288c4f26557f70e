// A norm's weight has one value per channel.
// expect: ds4::rms_norm: weight is [K]; its length must equal K of x
// expect-gcc: the comparison reduces to '(7 == 8)'
// expect-clang: evaluates to '7 == 8'
#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using Weight = ds4::Tensor<float, 7>;
#else
using Weight = ds4::Tensor<float, 8>;
#endif
void norm(ds4::Reference<float>& backend, ds4::RowsView<float, 8> y,
          ds4::RowsView<const float, 8> x, const Weight& weight) {
  ds4::ops::rms_norm(backend, y, x, weight, 1e-6);
}
