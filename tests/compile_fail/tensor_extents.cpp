// A tensor does not become a view of other extents, and the message states both shapes.
// expect: Tensor<float, 3, 8>
// expect: TensorView<float, 3, 7>
#include <ds4/core/tensor.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using View = ds4::TensorView<float, 3, 7>;
#else
using View = ds4::TensorView<float, 3, 8>;
#endif
View view_of(ds4::Tensor<float, 3, 8>& tensor) { return tensor; }
