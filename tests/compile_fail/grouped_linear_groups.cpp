// A block-diagonal product has as many groups of outputs as of inputs.
// expect: ds4::grouped_linear: x is [S, G, K] and y is [S, G, N]; G must agree
// expect-gcc: the comparison reduces to '(2 == 4)'
// expect-clang: due to requirement '2 == 4'
#include <cstddef>

#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
constexpr std::size_t kGroups = 2;
#else
constexpr std::size_t kGroups = 4;
#endif
void product(ds4::Reference<float>& backend, ds4::RowsView<float, 4, 3> y,
             ds4::RowsView<const float, kGroups, 8> x, const ds4::Matrix<12, 8>& w) {
  ds4::ops::grouped_linear(backend, y, x, w);
}
