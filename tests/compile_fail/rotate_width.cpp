// The rotated part of a head is no wider than the head.
// expect: ds4::rotate: the rotary width 2 * Pairs must not exceed d
// expect-gcc: the comparison reduces to '(10 <= 8)'
// expect-clang: evaluates to '10 <= 8'
#include <cstddef>

#include <ds4/kernels/ops.hpp>
#include <ds4/kernels/reference.hpp>

#ifdef DS4_EXPECT_COMPILE_ERROR
constexpr std::size_t kPairs = 5;
#else
constexpr std::size_t kPairs = 4;
#endif
void rotate(ds4::Reference<float>& backend, ds4::RowsView<float, 2, 8> x,
            const ds4::RotaryTable<float, kPairs>& table) {
  ds4::ops::rotate(backend, x, table);
}
