// A view of const elements does not become one of mutable elements.
// expect-gcc: could not convert 'view'
// expect-clang: no viable conversion
#include <ds4/core/tensor.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
using View = ds4::TensorView<float, 3>;
#else
using View = ds4::TensorView<const float, 3>;
#endif
View mutable_view(ds4::TensorView<const float, 3> view) { return view; }
