// Tests of ds4/core/tensor.hpp.
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>

#include <doctest/doctest.h>

#include <ds4/core/tensor.hpp>

namespace {

using ds4::kDynamic;
using ds4::Rows;
using ds4::RowsView;
using ds4::Tensor;
using ds4::TensorView;

// Extents decide how a view is made, and what it becomes.
static_assert(std::constructible_from<TensorView<float, 2, 3>, float*>);
static_assert(!std::constructible_from<TensorView<float, 2, 3>, float*, std::size_t>);
static_assert(std::constructible_from<RowsView<float, 3>, float*, std::size_t>);
static_assert(!std::constructible_from<RowsView<float, 3>, float*>);
static_assert(std::convertible_to<RowsView<float, 3>, RowsView<const float, 3>>);
static_assert(!std::convertible_to<RowsView<const float, 3>, RowsView<float, 3>>);
static_assert(!std::convertible_to<RowsView<float, 3>, RowsView<float, 4>>);
static_assert(!std::convertible_to<RowsView<float, 3>, RowsView<double, 3>>);
static_assert(std::convertible_to<Tensor<float, 3>&, TensorView<float, 3>>);
static_assert(std::convertible_to<const Tensor<float, 3>&, TensorView<const float, 3>>);
static_assert(!std::convertible_to<const Tensor<float, 3>&, TensorView<float, 3>>);
static_assert(std::is_trivially_copyable_v<RowsView<float, 2, 3>>);
static_assert(std::is_nothrow_move_constructible_v<Tensor<float, 2, 3>>);
static_assert(TensorView<float, 7>::kRank == 1);
static_assert(RowsView<float, 2, 3>::kRank == 3);
static_assert(
    std::same_as<decltype(std::declval<RowsView<float, 2, 3>>()[0]), TensorView<float, 2, 3>>);
static_assert(std::same_as<decltype(std::declval<TensorView<float, 7>>()[0]), float&>);
static_assert(std::same_as<decltype(std::declval<const Tensor<float, 7>&>()[0]), const float&>);
static_assert(
    std::same_as<decltype(std::declval<TensorView<float, 4, 3>>().rows(0, 1)), RowsView<float, 3>>);

// Views work at compile time.
constexpr std::array<int, 6> kSix{1, 2, 3, 4, 5, 6};
static_assert(TensorView<const int, 2, 3>(kSix.data())(1, 1) == 5);
static_assert(RowsView<const int, 3>(kSix.data(), 2)[1][0] == 4);

}  // namespace

TEST_CASE("tensor: elements are row-major") {
  std::array<int, 24> numbers{};
  std::iota(numbers.begin(), numbers.end(), 0);
  const TensorView<int, 2, 3, 4> view(numbers.data());
  CHECK(view.size() == 24);
  CHECK(view.extent(0) == 2);
  CHECK(view.extent(1) == 3);
  CHECK(view.extent(2) == 4);
  int next = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 4; ++k, ++next) {
        CHECK(view(i, j, k) == next);
        CHECK(view[i][j][k] == next);
        CHECK(&view(i, j, k) == &view.flat()[static_cast<std::size_t>(next)]);
      }
    }
  }
  view(1, 2, 3) = -1;  // views are shallow
  CHECK(numbers[23] == -1);
}

TEST_CASE("tensor: rows and other inner extents of a view") {
  std::array<int, 24> numbers{};
  std::iota(numbers.begin(), numbers.end(), 0);
  const RowsView<int, 6> view(numbers.data(), 4);
  CHECK(view.size() == 24);
  CHECK(view.extent(0) == 4);

  const auto middle = view.rows(1, 2);
  CHECK(middle.extent(0) == 2);
  CHECK(middle(0, 0) == 6);
  CHECK(middle(1, 5) == 17);
  CHECK(view.rows(4, 0).size() == 0);
  CHECK(view.rows(3, 1).rows(0, 1)(0, 1) == 19);

  const auto heads = view.as<2, 3>();
  CHECK(heads.extent(0) == 4);
  CHECK(heads(2, 1, 0) == 15);
  CHECK(heads.as<6>()(2, 3) == 15);
  const TensorView<int, 4, 6> fixed(numbers.data());
  CHECK(fixed.as<3, 2>()(1, 2, 1) == 11);
  CHECK(view.as<1, 6>().rows(2, 1)(0, 0, 4) == 16);
  CHECK(view.as_const()(3, 5) == 23);
}

TEST_CASE_TEMPLATE("tensor: memory is zero and aligned to a cache line", T, float, double,
                   std::int32_t) {
  for (const std::size_t rows : std::array<std::size_t, 5>{1, 2, 3, 17, 1000}) {
    Rows<T, 5> tensor(rows);
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
    CHECK(tensor.size() == 5 * rows);
    std::size_t others = 0;
    for (const T value : tensor.flat()) others += value == T(0) ? 0 : 1;
    CHECK(others == 0);
    for (T& value : tensor.flat()) value = T(7);  // dirty, for the next one
  }
  CHECK(Tensor<T, 3, 4>().size() == 12);
}

TEST_CASE("tensor: empty") {
  const Rows<float, 8> none;
  CHECK(none.size() == 0);
  CHECK(none.extent(0) == 0);
  CHECK(none.extent(1) == 8);
  CHECK(none.flat().empty());
  Rows<float, 8> copy = none;
  copy = Rows<float, 8>(2);
  CHECK(copy.size() == 16);
  copy = none;
  CHECK(copy.size() == 0);
}

TEST_CASE("tensor: copies are deep, moves keep the memory") {
  Rows<int, 2> a(3);
  std::iota(a.flat().begin(), a.flat().end(), 1);
  const Rows<int, 2> copy = a;
  a(0, 0) = 100;
  CHECK(copy(0, 0) == 1);
  CHECK(copy(2, 1) == 6);
  CHECK(copy.extent(0) == 3);

  const int* memory = a.data();
  Rows<int, 2> moved = std::move(a);
  CHECK(moved.data() == memory);
  CHECK(moved.extent(0) == 3);

  Rows<int, 2> other(1);
  other = copy;
  CHECK(other.extent(0) == 3);
  CHECK(other(2, 0) == 5);
  CHECK(other.data() != copy.data());
  other = std::move(moved);
  CHECK(other.data() == memory);
  const auto& self = other;
  other = self;
  CHECK(other(0, 0) == 100);
  CHECK(other(2, 1) == 6);

  Tensor<int, 4> fixed;
  fixed[2] = 9;
  Tensor<int, 4> fixed_copy = fixed;
  fixed[2] = 0;
  CHECK(fixed_copy[2] == 9);
  fixed = std::move(fixed_copy);
  CHECK(fixed[2] == 9);
}

TEST_CASE("tensor: an owner is read and written like its view") {
  Tensor<float, 2, 3> tensor;
  tensor(1, 2) = 5.0f;
  tensor[0][1] = 4.0f;
  const auto& constant = tensor;
  CHECK(constant(1, 2) == 5.0f);
  CHECK(constant[0][1] == 4.0f);
  CHECK(constant.view()(1, 2) == 5.0f);
  CHECK(constant.flat()[5] == 5.0f);
  const TensorView<const float, 2, 3> view = constant;
  CHECK(view.data() == tensor.data());
}
